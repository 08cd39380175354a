"""Rules about the texts of one record: empty, damaged or dangerous text.

    find_blank_text(record)      PV210 to PV212: about every record
    find_unusual_text(record)    PV215, PV220 to PV225, PV401: about records with more than plain text

The rules of `TEXT_RULES` are pure functions of one text that return what is wrong with it, or "". They check the system
prompt, every question and answer, and every accepted answer. Most records are plain: printable ASCII without `<`, `[`
or `:`, which takes `find_unusual_text` some hundred nanoseconds to find out. Where there is more, only the rules that
need such characters are called.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from phiv_data.formats.text import MEDIA_MARKER
from phiv_data.storage.record_errors import short_repr
from phiv_data.validation.core.finding import Finding
from phiv_data.validation.rules.mojibake import find_mojibake
from phiv_schemas import Conversation

_PLAIN = bytes({*b"\t\r", *range(32, 127)} - {*b":<["})
_LINE_END, _COLON, _LESS, _BRACKET = b"\n:<["


# Empty text --------------------------------------------------------------------------------------------------------


def find_blank_text(record: Conversation) -> Iterable[Finding]:
    """PV210 to PV212: text that is empty, or has blanks around it."""
    for turn in record.conversations:
        user, answer = turn.user, turn.assistant
        if not user or user.strip() != user or (answer is not None and (not answer or answer.strip() != answer)):
            return _blank_text(record)
    return _blank_text(record) if record.system and record.system.strip() != record.system else ()


def _blank_text(record: Conversation) -> Iterator[Finding]:
    """`find_blank_text` where there is something to find."""
    if record.system:
        yield from _outer_blanks("$.system", record.system, _LINE_ENDS)
    for t, turn in enumerate(record.conversations):
        path = f"$.conversations[{t}]"
        # Where an image is placed at each end that has blanks, they separate text and image.
        offsets, text = turn.image_offsets or (), turn.user
        before, after = len(text) - len(text.lstrip()), len(text.rstrip())
        at_start = not before or any(offset <= before for offset in offsets)
        at_end = after == len(text) or any(offset >= after for offset in offsets)
        if not turn.user.strip():
            what = "asks nothing" if turn.images else "asks nothing and shows no image"
            yield Finding("PV210", f"{path}.user", f"{what} (found {short_repr(turn.user)})")
        elif not (at_start and at_end):
            yield from _outer_blanks(f"{path}.user", turn.user, _LINE_ENDS)
        if turn.assistant is not None and not turn.assistant.strip():
            yield Finding("PV211", f"{path}.assistant", f"answers nothing (found {short_repr(turn.assistant)})")
        elif turn.assistant is not None:
            yield from _outer_blanks(f"{path}.assistant", turn.assistant)


_LINE_ENDS = "\r\n"  # around a prompt these often come from a template, and no loss is computed on them


def _outer_blanks(path: str, text: str, allowed: str = "") -> Iterator[Finding]:
    """PV212, unless the only blanks around the text are `allowed` ones."""
    text = text.strip(allowed) if allowed else text
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    if where := [
        f"{verb} with {short_repr(blanks)}" for verb, blanks in (("begins", before), ("ends", after)) if blanks
    ]:
        yield Finding("PV212", path, " and ".join(where))


# Unusual text ------------------------------------------------------------------------------------------------------


def find_unusual_text(record: Conversation) -> Iterable[Finding]:
    """What the `TEXT_RULES` find in any text of the record."""
    all_texts = ["" if record.system is None else record.system]
    for turn in record.conversations:
        all_texts += (turn.user, turn.assistant or "")
        if turn.answers is not None:
            all_texts += turn.answers
    rest = "".join(all_texts).encode().translate(None, _PLAIN)
    if not rest.strip(b"\n"):
        return ()
    # The rules that may find something in the texts, by the bytes that are not plain.
    joined, codes = "\n".join(all_texts), []
    if _COLON in rest and (
        _ROLE_LINE.search("\n" + joined) or (_LINE_END in rest and any(map(check_role_markers, all_texts)))
    ):
        codes.append("PV215")
    if _LESS in rest or _BRACKET in rest:  # as numbers: ten times faster than as bytes
        codes += [code for code, pattern in _MARKUP.items() if pattern.search(joined)]
    if rest.strip(b"\n:<["):
        codes += [code for code, suspects in _BEYOND_ASCII.items() if suspects(joined)]
    if not codes:
        return ()
    found = ((code, path, TEXT_RULES[code](text)) for path, text in texts(record) for code in sorted(codes))
    return [Finding(code, path, what) for code, path, what in found if what]


def texts(record: Conversation) -> Iterator[tuple[str, str]]:
    """Every text of a record with its JSON path; an accepted answer that equals `assistant` only once."""
    if record.system:
        yield "$.system", record.system
    for t, turn in enumerate(record.conversations):
        yield f"$.conversations[{t}].user", turn.user
        if turn.assistant:
            yield f"$.conversations[{t}].assistant", turn.assistant
        for i, answer in enumerate(turn.answers or ()):
            if answer != turn.assistant:
                yield f"$.conversations[{t}].answers[{i}]", answer


_ROLE_LINE = re.compile(
    r"\n[ \t]*+(?:###[ \t]*+(?i:human|user|assistant|system|instruction|response)|USER|ASSISTANT)[ \t]*:"
)
_SPEAKER = re.compile(r"^[ \t]*+(Human|User|Assistant)[ \t]*:", re.MULTILINE)


def check_role_markers(text: str) -> str:
    """PV215: a line that begins with a role, as in the text form of other chat templates; or a dialogue in one text."""
    if marker := _ROLE_LINE.search("\n" + text):
        return f"a line begins with {short_repr(marker[0].strip())}, as if someone else spoke"
    if "\n" in text and "Assistant" in text and len(speakers := set(_SPEAKER.findall(text))) > 1:
        return "contains a whole dialogue, with 'Assistant:' at the start of lines" if "Assistant" in speakers else ""
    return ""


# Begins with a set of characters, to which the search jumps.
_CONTROL_TOKEN = re.compile(
    r"""[<\[](?:(?<=<)(?:
      \|(?!(?:box|quad|object_ref)_)[A-Za-z_]\w{0,40}\|>       # Phi, Qwen, Llama 3, GLM, Command R
    | ｜[^｜<>\s]{1,40}｜>                                      # DeepSeek
    | /?s> | (?:bos|eos|unk|sop|eop|eod)>                       # Llama, Gemma, GLM
    | (?:start_of_turn|end_of_turn|end_of_utterance|fake_token_around_image|reserved_\d+)>
    | </?SYS>>)
    | (?<=\[)(?:/?INST|/?SYSTEM_PROMPT)\])                      # Llama 2, Mistral""",
    re.VERBOSE,
)


def check_image_markers(text: str) -> str:
    """PV401: text that other formats read as the position of an image."""
    marker = MEDIA_MARKER.search(text)
    return f"text contains {marker[0]!r}, which is text here and marks no image" if marker else ""


def check_control_tokens(text: str) -> str:
    """PV220: what a chat template or tokenizer reads as the end of a turn or of the text. Not what PV401 reports."""
    tokens = [token[0] for token in _CONTROL_TOKEN.finditer(text) if not MEDIA_MARKER.fullmatch(token[0])]
    return f"text contains the control token {tokens[0]!r}{_more(len(tokens))}" if tokens else ""


def check_decoding(text: str) -> str:
    """PV221: UTF-8 that was decoded as another encoding."""
    found = find_mojibake(text)
    return (
        f"{short_repr(found[0])} is UTF-8 that was decoded as Windows-1252: it was {short_repr(found[1])}"
        if found
        else ""
    )


_CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def check_control_characters(text: str) -> str:
    """PV222: characters that control a terminal or nothing. Tabs and line ends are fine."""
    found = _CONTROL.findall(text)
    return f"text contains the control character U+{ord(found[0]):04X}{_more(len(found))}" if found else ""


# Joiners and direction marks; characters that are never visible; variation selectors and tags.
_INVISIBLE = re.compile(
    "[\u200b-\u200d\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\xad\u115f\u180e\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\ufe00-\ufe0f\U000e0000-\U000e01ef]"
)
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069"
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_NO_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf]")  # Thai, Lao, Tibetan, Burmese, Khmer
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# One after a letter or blank is the rest of an emoji that was removed; three in a row carry hidden data.
_STRAY_VARIATION = re.compile(rf"[A-Za-z\s]{_VARIATION.pattern}|{_VARIATION.pattern}{{3}}")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f")


def check_invisible_characters(text: str) -> str:
    """PV223: invisible characters, where no script and no emoji needs them."""
    if _INVISIBLE.search(text) is None:
        return ""
    text = _FLAG.sub("", text)
    fine = "\u200b" if _NO_SPACES.search(text) else ""
    fine += _DIRECTIONS if _RIGHT_TO_LEFT.search(text) else ""
    found = [one[0] for one in _INVISIBLE.finditer(text) if one[0] not in fine and not _has_use(text, one.start())]
    if not found:
        return ""
    name = unicodedata.name(found[0], "")
    return f"text contains the invisible U+{ord(found[0]):04X}{f' {name}' if name else ''}{_more(len(found))}"


def _has_use(text: str, at: int) -> bool:
    """True for a joiner or variation selector that changes how its neighbors are displayed."""
    around = text[max(0, at - 2) : at + 3]
    if text[at] in "\u200c\u200d":  # beside letters and marks of scripts that need joiners, and emoji
        joined = ("Lo", "Lm", "Mn", "Mc", "Me", "So", "Sk", "Nd")
        return any(char >= "\u0530" and unicodedata.category(char) in joined for char in around)
    if _VARIATION.match(text[at]):
        return at > 0 and _STRAY_VARIATION.search(around) is None
    return text[at] == "\u115f" and "\u1160" <= text[at + 1 : at + 2] <= "\u11ff"


# Every character that Unicode composes with the one before it; the tests compare this with Unicode's tables.
COMPOSES = re.compile(
    "[\u0300-\u0345\u0653-\u0655\u093c\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0c56\u0cc2\u0cd5\u0cd6"
    "\u0d3e\u0d57\u0dca\u0dcf\u0ddf\u102e\u1161-\u1175\u11a8-\u11c2\u1b35\u3099\u309a"
    "\U000110ba\U00011127\U0001133e\U00011357\U000114b0\U000114ba\U000114bd\U000115af\U00011930]"
)


def check_composition(text: str) -> str:
    """PV224: a letter and its accent as two characters, where Unicode has one (NFC): two words to a tokenizer.

    Forms that NFC decomposes (Bengali য়, the Ohm sign) and the order of marks are fine: keyboards write them.
    """
    if unicodedata.is_normalized("NFC", text):
        return ""
    for second in COMPOSES.finditer(text):
        pair = text[max(0, second.start() - 1) : second.end()]
        if len(composed := unicodedata.normalize("NFC", pair)) < len(pair):
            codes = " ".join(f"U+{ord(char):04X}" for char in pair)
            return f"{short_repr(composed)} is written as two characters, {codes}"
    return ""


def check_replacement_characters(text: str) -> str:
    """PV225: U+FFFD, which replaces bytes that could not be decoded."""
    count = text.count("\ufffd")
    return f"text contains U+FFFD, which replaces what could not be decoded{_more(count)}" if count else ""


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


TEXT_RULES: dict[str, Callable[[str], str]] = {
    "PV215": check_role_markers,
    "PV220": check_control_tokens,
    "PV221": check_decoding,
    "PV222": check_control_characters,
    "PV223": check_invisible_characters,
    "PV224": check_composition,
    "PV225": check_replacement_characters,
    "PV401": check_image_markers,
}
"""Code to the function that returns what is wrong with a text."""

# Tests of all texts joined, true whenever a rule finds something in one of them: first of the rules that need `<` or
# `[`, then of those that need a character beyond printable ASCII.
_MARKUP = {"PV220": _CONTROL_TOKEN, "PV401": MEDIA_MARKER}
_BEYOND_ASCII: dict[str, Callable[[str], object]] = {
    "PV221": find_mojibake,
    "PV222": _CONTROL.search,
    "PV223": _INVISIBLE.search,
    "PV224": check_composition,
    "PV225": check_replacement_characters,
}
