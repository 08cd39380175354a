"""Rules about what is said in one record: empty, odd or dangerous text.

    blanks(record)   PV210 to PV212: about every record
    marks(record)    PV215, PV220 to PV225, PV401: about records that hold more than plain text

The rules of `TEXT_RULES` are pure functions of one text, which say what is wrong with it, or "". They are asked of the
system prompt, of what is said, and of every accepted answer. Most records are plain: printable ASCII without `<`, `[`
or `:`, which takes `marks` some hundred nanoseconds to see. Where it holds more, only the rules that need such
characters are asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from phiv_data.storage.record_errors import short_repr
from phiv_data.validation.core.finding import Found
from phiv_data.validation.rules.mojibake import mojibake
from phiv_schemas import Conversation, Turn

_PLAIN = bytes({*b"\t\r", *range(32, 127)} - {*b":<["})
_LINE_END, _COLON, _LESS, _BRACKET = b"\n:<["


# Empty text --------------------------------------------------------------------------------------------------------


def blanks(record: Conversation) -> Iterable[Found]:
    """PV210 to PV212: nothing is said, or blanks stand around it."""
    for turn in record.conversations:
        user, said = turn.user, turn.assistant
        if not user or user.strip() != user or (said is not None and (not said or said.strip() != said)):
            return _blanks(record)
    return _blanks(record) if record.system and record.system.strip() != record.system else ()


def _blanks(record: Conversation) -> Iterator[Found]:
    if record.system:
        yield from _edges("$.system", record.system, _LINE_ENDS)
    for t, turn in enumerate(record.conversations):
        path = f"$.conversations[{t}]"
        if not turn.user.strip():
            what = "asks nothing" if turn.images else "asks nothing and shows no image"
            yield Found("PV210", f"{path}.user", f"{what} (found {short_repr(turn.user)})")
        elif not _at_images(turn):
            yield from _edges(f"{path}.user", turn.user, _LINE_ENDS)
        if turn.assistant is not None and not turn.assistant.strip():
            yield Found("PV211", f"{path}.assistant", f"answers nothing (found {short_repr(turn.assistant)})")
        elif turn.assistant is not None:
            yield from _edges(f"{path}.assistant", turn.assistant)


_LINE_ENDS = "\r\n"  # around what is asked these are many a template's, and not learnt


def _edges(path: str, text: str, fine: str = "") -> Iterator[Found]:
    """PV212, unless there are no blanks at the edges but `fine` ones."""
    text = text.strip(fine) if fine else text
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    if where := [
        f"{word} with {short_repr(blanks)}" for word, blanks in (("begins", before), ("ends", after)) if blanks
    ]:
        yield Found("PV212", path, " and ".join(where))


def _at_images(turn: Turn) -> bool:
    """True when every blank edge of the question stands at an image: there it parts text from image."""
    offsets, text = turn.image_offsets or (), turn.user
    before, after = len(text) - len(text.lstrip()), len(text.rstrip())
    at_start = not before or any(offset <= before for offset in offsets)
    return at_start and (after == len(text) or any(offset >= after for offset in offsets))


# Odd text ----------------------------------------------------------------------------------------------------------


def marks(record: Conversation) -> Iterable[Found]:
    """What `TEXT_RULES` find."""
    said = ["" if record.system is None else record.system]
    for turn in record.conversations:
        said += (turn.user, turn.assistant or "")
        if turn.answers is not None:
            said += turn.answers
    rest = "".join(said).encode().translate(None, _PLAIN)
    codes = _suspected(said, rest) if rest.strip(b"\n") else ()
    return _marks(record, codes) if codes else ()


def _suspected(said: list[str], rest: bytes) -> list[str]:
    """The rules that may find something in what is said; `rest` are its bytes that are not plain."""
    joined, codes = "\n".join(said), []
    if _COLON in rest and (_ROLE_LINE.search("\n" + joined) or (_LINE_END in rest and any(map(role_in_text, said)))):
        codes.append("PV215")
    if _LESS in rest or _BRACKET in rest:  # as numbers: ten times faster than as bytes
        codes += [code for code, pattern in _TAGS.items() if pattern.search(joined)]
    if rest.strip(b"\n:<["):
        codes += [code for code, suspects in _ODD.items() if suspects(joined)]
    return sorted(codes)


def _marks(record: Conversation, codes: list[str]) -> Iterator[Found]:
    for path, text in texts(record):
        for code in codes:
            if what := TEXT_RULES[code](text):
                yield Found(code, path, what)


def texts(record: Conversation) -> Iterator[tuple[str, str]]:
    """Every text of a record with its JSON path; an answer that is the one of `assistant` only once."""
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


def role_in_text(text: str) -> str:
    """PV215: a line that names who speaks, as the text form of other templates does; or a dialogue within one text."""
    if marker := _ROLE_LINE.search("\n" + text):
        return f"a line begins with {short_repr(marker[0].strip())}, as if someone else spoke"
    if "\n" in text and "Assistant" in text and len(speakers := set(_SPEAKER.findall(text))) > 1:
        return "holds a whole dialogue, with 'Assistant:' at the start of lines" if "Assistant" in speakers else ""
    return ""


# Both begin with a set of characters, to which the search jumps.
_MARKER = re.compile(
    r"""[<\[](?:(?<=<)(?:
      \|?/?(?:image|image_pad|vision_start|vision_end|vision_pad|video|video_pad|start_of_image|end_of_image
         |image_soft_token|img_context|imagehere)(?:[_\ ]?\d+)?\|?>
    | img>(?=[^<>]{0,400}</img>))                               # Qwen-VL; HTML's img has no end
    | (?<=\[)(?-i:IMG\](?!\s*http)))                            # Pixtral, not a forum's""",
    re.IGNORECASE | re.VERBOSE,
)
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


def image_marker(text: str) -> str:
    """PV401: text that other formats take for the place of an image."""
    marker = _MARKER.search(text)
    return f"text holds {marker[0]!r}, which is text here and stands for no image" if marker else ""


def control_token(text: str) -> str:
    """PV220: what a chat template or a tokenizer takes for the end of a turn, or of the text. Not what PV401 tells."""
    tokens = [token[0] for token in _CONTROL_TOKEN.finditer(text) if not _MARKER.fullmatch(token[0])]
    return f"text holds the control token {tokens[0]!r}{_more(len(tokens))}" if tokens else ""


def bad_decoding(text: str) -> str:
    """PV221: UTF-8 that was read as another encoding."""
    found = mojibake(text)
    return (
        f"{short_repr(found[0])} is UTF-8 that was read as Windows-1252: it was {short_repr(found[1])}" if found else ""
    )


_CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def control_character(text: str) -> str:
    """PV222: characters that control a terminal or nothing. Tabs and line ends are fine."""
    found = _CONTROL.findall(text)
    return f"text holds the control character U+{ord(found[0]):04X}{_more(len(found))}" if found else ""


# Joiners and marks of direction; what is never seen; variation selectors and tags.
_INVISIBLE = re.compile(
    "[\u200b-\u200d\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\xad\u115f\u180e\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\ufe00-\ufe0f\U000e0000-\U000e01ef]"
)
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069"
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_NO_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf]")  # Thai, Lao, Tibetan, Burmese, Khmer
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# After a letter or a blank one is left of an emoji that was removed; three in a row carry hidden data.
_STRAY_VARIATION = re.compile(rf"[A-Za-z\s]{_VARIATION.pattern}|{_VARIATION.pattern}{{3}}")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f")


def invisible(text: str) -> str:
    """PV223: characters that no reader sees, where no script and no emoji needs them."""
    if _INVISIBLE.search(text) is None:
        return ""
    text = _FLAG.sub("", text)
    fine = "\u200b" if _NO_SPACES.search(text) else ""
    fine += _DIRECTIONS if _RIGHT_TO_LEFT.search(text) else ""
    found = [one[0] for one in _INVISIBLE.finditer(text) if one[0] not in fine and not _has_use(text, one.start())]
    if not found:
        return ""
    name = unicodedata.name(found[0], "")
    return f"text holds the invisible U+{ord(found[0]):04X}{f' {name}' if name else ''}{_more(len(found))}"


def _has_use(text: str, at: int) -> bool:
    """True for a joiner or variation selector that changes how its neighbours look."""
    around = text[max(0, at - 2) : at + 3]
    if text[at] in "\u200c\u200d":
        return any(map(_joins, around))
    if _VARIATION.match(text[at]):
        return at > 0 and _STRAY_VARIATION.search(around) is None
    return text[at] == "\u115f" and "\u1160" <= text[at + 1 : at + 2] <= "\u11ff"


def _joins(char: str) -> bool:
    """True for letters and marks of scripts that need joiners, and for emoji."""
    return char >= "\u0530" and unicodedata.category(char) in ("Lo", "Lm", "Mn", "Mc", "Me", "So", "Sk", "Nd")


# Every character that Unicode composes with the one before it; the tests hold this against Unicode's tables.
COMPOSES = re.compile(
    "[\u0300-\u0345\u0653-\u0655\u093c\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0c56\u0cc2\u0cd5\u0cd6"
    "\u0d3e\u0d57\u0dca\u0dcf\u0ddf\u102e\u1161-\u1175\u11a8-\u11c2\u1b35\u3099\u309a"
    "\U000110ba\U00011127\U0001133e\U00011357\U000114b0\U000114ba\U000114bd\U000115af\U00011930]"
)


def not_composed(text: str) -> str:
    """PV224: a letter and its accent as two characters, where Unicode has one (NFC): two words to a tokenizer.

    Forms that NFC takes apart (Bengali য়, the Ohm sign) and the order of marks are left alone: keyboards write them.
    """
    if unicodedata.is_normalized("NFC", text):
        return ""
    for second in COMPOSES.finditer(text):
        pair = text[max(0, second.start() - 1) : second.end()]
        if len(composed := unicodedata.normalize("NFC", pair)) < len(pair):
            codes = " ".join(f"U+{ord(char):04X}" for char in pair)
            return f"{short_repr(composed)} is written as two characters, {codes}"
    return ""


def replacement_character(text: str) -> str:
    """PV225: U+FFFD, which stands where bytes could not be read."""
    count = text.count("\ufffd")
    return f"text holds U+FFFD, which stands for what could not be decoded{_more(count)}" if count else ""


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


TEXT_RULES: dict[str, Callable[[str], str]] = {
    "PV215": role_in_text,
    "PV220": control_token,
    "PV221": bad_decoding,
    "PV222": control_character,
    "PV223": invisible,
    "PV224": not_composed,
    "PV225": replacement_character,
    "PV401": image_marker,
}
"""Code to what says what is wrong with a text."""

# What is true of several texts, joined, if a rule finds something in one of them: rules that need `<` or `[`, then
# those that need a character beyond printable ASCII.
_TAGS = {"PV220": _CONTROL_TOKEN, "PV401": _MARKER}
_ODD: dict[str, Callable[[str], object]] = {
    "PV221": mojibake,
    "PV222": _CONTROL.search,
    "PV223": _INVISIBLE.search,
    "PV224": not_composed,
    "PV225": replacement_character,
}
