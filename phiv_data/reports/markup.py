"""HTML that cannot be injected into: text is escaped unless it was built here.

    >>> el("p", "1 < 2 ", el("b", "so"), class_="note")
    '<p class="note">1 &lt; 2 <b>so</b></p>'

Data are hostile text, so there is no way to pass markup as a string: only `el` makes `Markup`, and every other child
and every attribute's value is escaped, with characters that hide or reorder text made visible.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"br", "img", "input", "link", "meta", "rect"})
# Controls but tab and newline, zero-width space, bidi controls, byte order mark, surrogates, noncharacters.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)


class Markup(str):
    """Text that is HTML already. Made by `el` and `join` alone."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"


def el(tag: str, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An element. `class_` stands for class and `data_x` for data-x; None and False leave an attribute out."""
    start = f"<{tag}"
    for name, value in attributes.items():
        if value is not None and value is not False:
            start += f" {name.rstrip('_').replace('_', '-')}"
            start += "" if value is True else f'="{html.escape(visible(str(value)))}"'
    start += ">"
    return Markup(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """The children one after the other, text among them escaped."""
    return Markup("".join(map(_child, children)))


def raw_text(tag: str, text: str) -> Markup:
    """A style or script element. Its text is phiv's own, and is not escaped: HTML knows no escapes there."""
    if "</" in text or "<!--" in text:
        raise ValueError(f"{tag} may not hold '</' or '<!--'")
    return Markup(f"<{tag}>{text}</{tag}>")


def visible(text: str) -> str:
    """`text` with hidden characters shown as Python would: `\\u202e`."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, and how many more there were."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def _child(child: Child) -> str:
    if child is None or child is False:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int):
        return html.escape(visible(str(child)))
    return "".join(map(_child, child))
