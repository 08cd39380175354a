"""The cards of the HTML report: a row with its findings, thumbnails and turns."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from phiv_data.reports.findings import rule_title
from phiv_data.reports.markup import Markup, el, join, shorten
from phiv_data.reports.rows import ShownRow, thumbnail
from phiv_schemas import Issue, Turn

THUMBNAIL_SIDE = 128
MAX_IMAGES = 8  # of a card
MAX_TURNS = 6
MAX_ISSUES = 5
MAX_TEXT = 600

_Thumbnail = tuple[bytes, int, int] | None


def card(row: ShownRow, issues: Sequence[Issue]) -> Markup:
    """One row. What does not fit is counted; an image that cannot be shown gets a placeholder."""
    rules = sorted({issue.code for issue in issues})
    severity = min((issue.severity for issue in issues), default="clean")  # error before warning
    more = len(issues) - MAX_ISSUES
    findings = [issue_line(issue) for issue in issues[:MAX_ISSUES]]
    name, parts = f"line {row.line}", [el("pre", shorten(row.text, MAX_TEXT), class_="line", dir="auto")]
    if (record := row.conversation) is not None:
        name, parts, first = record.id, [], 0
        with ThreadPoolExecutor(4) as pool:  # Pillow lets go of the GIL
            shown = range(min(len(record.image_paths), MAX_IMAGES))
            thumbnails = list(pool.map(lambda n: thumbnail(row.read_image(n), THUMBNAIL_SIDE), shown))
        if record.system:
            parts.append(el("dl", _speech("system", record.system), class_="turn"))
        for turn in record.turns[:MAX_TURNS]:
            parts.append(_turn(turn, thumbnails[first : first + len(turn.images)]))
            first += len(turn.images)
        if len(record.turns) > MAX_TURNS:
            parts.append(el("p", f"{len(record.turns) - MAX_TURNS:,} more turns", class_="soft"))
    return el(
        "article",
        el("h3", shorten(name, MAX_TEXT)),
        el("p", f"{split_label(row.split)} · {row.file}:{row.line}", class_="soft"),
        [el("span", rule_title(code), class_=f"chip {severity}") for code in rules],
        el("ul", findings, more > 0 and el("li", f"{more:,} more")) if issues else None,
        parts,
        data_rules=" ".join(rules),
        data_severity=severity,
        data_split=split_label(row.split),
    )


def split_label(split: str) -> str:
    """A split's name at a bounded length."""
    return shorten(split, 60)


def issue_line(issue: Issue) -> Markup:
    """One finding of a list, cut to a bounded length."""
    where = issue.file + (f":{issue.line}" if issue.line else "")
    what = issue.message + (f". {issue.hint}" if issue.hint else "")
    return el(
        "li",
        el("code", shorten(where, MAX_TEXT)),
        ": ",
        issue.json_path and [el("code", shorten(issue.json_path, MAX_TEXT)), ": "],
        el("span", shorten(what, MAX_TEXT), class_=issue.severity, dir="auto"),
    )


def _turn(turn: Turn, thumbnails: Sequence[_Thumbnail]) -> Markup:
    shown = zip(turn.images, thumbnails, strict=False)  # of the first images of the record
    images = [_image(path, image) for path, image in shown]
    if more := len(turn.images) - len(images):
        images.append(el("span", f"+{more:,} images", class_="soft"))
    if turn.assistant is None:
        answer = el("dd", el("em", "no answer"))
    else:
        answer = el("dd", shorten(turn.assistant, MAX_TEXT), dir="auto")
    texts = el("dl", _speech("user", turn.user), el("dt", "assistant"), answer)
    return el("div", images and el("div", images, class_="images"), texts, class_="turn")


def _speech(who: str, text: str) -> Markup:
    return join([el("dt", who), el("dd", shorten(text, MAX_TEXT), dir="auto")])


def _image(path: str, image: _Thumbnail) -> Markup:
    if image is None:
        return el("span", f"cannot be shown: {shorten(path, MAX_TEXT)}", class_="broken")
    data, width, height = image
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    alt = shorten(path, MAX_TEXT)
    return el("img", src=source, width=width, height=height, alt=alt, title=alt, loading="lazy", decoding="async")
