"""Mojibake detection: UTF-8 decoded as Windows-1252 or Latin-1: `Ã©` for é, `â€™` for ’, `ðŸ˜€` for an emoji.

    >>> find_mojibake("a cafÃ© in Paris")
    ('Ã©', 'é')
    >>> find_mojibake("NESTLÉ® – « voilà »") is None
    True

The proof has two steps. A whole run of characters beyond ASCII, encoded again as the bytes it was decoded from, must be
valid UTF-8. Real text passes that too: `É®`, `é »` and `ß”` are valid UTF-8 as bytes. So the run must also be one that
nobody writes: several characters in a row, an accented capital before a symbol inside a word, `â€`, `ðŸ`. A run
in doubt is not reported; a damaged text has others. The idea is that of ftfy (https://ftfy.readthedocs.io), for fewer
encodings (not Windows-1250 and -1251, nor MacRoman): docs/adr/0007-mojibake-detector.md compares the two.
"""

from __future__ import annotations

import re
import unicodedata

# Character to the byte it was: Windows-1252, and Latin-1 where that has controls.
_BYTES = {byte: byte for byte in range(0x80, 0x100)} | {
    ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)): byte for byte in range(0x80, 0xA0)
}
_HIGH = "".join(map(chr, _BYTES))
_LEAD = "".join(map(chr, range(0xC2, 0xF5)))
_RUN = re.compile(f"[{_LEAD}](?<![{_HIGH}].)[{_HIGH}]+")

# Second bytes of UTF-8, as characters: those that real text sets after a letter, and those it sets between letters.
_AFTER = "…‘’“”„‚«»‹›–—•·\xa0\xad™®©¡¿´¨°ªº¹²³¯¸†‡§¶"
_QUOTES = "…‘’“”«»‹›–—•·\xa0\xad™"
_JOINS = "…’–—•·\xa0\xad"
_NEVER_AFTER = "ƒˆ‰˜œšž¢£¤¥¦¬±µ¼½¾"


def find_mojibake(text: str) -> tuple[str, str] | None:
    """The first run that is proven, and the text it was; None where there is none."""
    for run in _RUN.finditer(text):
        try:
            meant = run[0].translate(_BYTES).encode("latin-1").decode()
        except UnicodeDecodeError:
            continue
        is_written = all(unicodedata.category(char) not in ("Cc", "Cn", "Co") for char in meant)
        if is_written and _is_proven(run[0], meant, text[: run.start()][-1:], text[run.end() :][:1]):
            return run[0], meant
    return None


def _is_proven(run: str, meant: str, before: str, after: str) -> bool:
    if any("\x80" <= char <= "\x9f" and char != "\x85" for char in run):
        return True  # nobody writes controls
    if len(meant) > 1 and len(seconds := set(run) - set(_LEAD)) > 1 and not seconds <= set(_QUOTES):
        return True  # but "Ä–Ö–" is a list
    if len(run) == 2 * len(meant):
        # One letter of the languages of Europe. Others come in words, which are longer runs.
        lead, second, is_inside = run[0], run[1], before.isalpha() and after.isalpha()
        if lead not in "ÂÃÄÅÈ":
            return False
        if lead in "ÂÃ" and "\xa0" <= second <= "\xbf" and not before.isalpha():
            return True  # 25Â°C
        if lead == "Ã" and (second in _NEVER_AFTER or (is_inside and second not in _JOINS)):
            return True  # ZURÃœCK, AÃ‘OS
        return before.islower() or (lead != "È" and after.islower() and second not in _QUOTES)  # cafÃ©, MÃ¼ller
    if run.startswith("ðŸ"):
        return True
    if meant in "\ufeff\ufffd":
        return True
    if run[0] == "â":
        return run[1] not in _AFTER or run[2] not in _AFTER
    if run[0] == "á" and run[1] in "¸¹º»":  # Vietnamese
        return run[2] not in _QUOTES and (run[2] not in _AFTER or (before.isalpha() and after.isalpha()))
    return run[1] not in _AFTER and run[2] not in _AFTER
