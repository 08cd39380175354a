"""Lines damaged in every way that files are: by bytes, by JSON tokens, by what people and attackers put into them.

>>> mutated(b'{"id": "val-0"}', Random(3))

The randomness is given, so hypothesis, atheris and plain seeds can all drive it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Mutation = Callable[[bytearray, Random], object]

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|\s+|[^\s"{}\[\]:,]+', re.DOTALL)

HOSTILE = [
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0.1", b"1.0", b"01", b"1" * 5000, b"-1", b"9" * 30),
    *(b"true", b"null", b"[]", b"{}", b'""', b"//", b"/* */", b"'", b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]"),
    *(rb'"\ud800"', rb'"\udc00\ud800"', rb'"\ud83e\udd8a"', rb'"\u0000"', rb"\u0022", rb"\x41", rb"\U0001f98a"),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xf0\x9f\xa6"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"),
    *(b"\r", b"\r\n", b"\n", b"\t", b"\x0b", b"\x0c", b"\x1f", b"\x7f", b"\xc2\x85", b"\xc2\xa0", b"\xe2\x80\xa8"),
    *(b'"user": "twice", ', b'"id": "twice", ', b'"images": [], ', b'"answers": ["a", "cat"], ', b'"answers": null, '),
    *(b'"image_offsets": [0], ', b'"image_offsets": [9, 3], ', b'"system": "\xe2\x80\xae", ', b'"conversations": [], '),
    *(b'"../a.png"', b'"/etc/passwd"', b'"C:\\\\a"', b'"a//b"', b'" a"', b'"a\\nb"', b'"\\""', b'"\\\\"'),
    b'{"images": [], "user": "more", "assistant": null}, ',
    b"[" * 400,
    b"[" * 5000,
    b'{"a":' * 400,
    b'"' + b"x" * 70_000 + b'"',
]  # fmt: skip

KEYS = ["id", "source", "system", "conversations", "images", "user", "assistant", "answers", "image_offsets", "x", ""]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.0, 0.5, 1e300, 10**30, float("nan"), float("inf"), [], {}, [[]], [None], [0]),
    *("", " ", "a", "cat", "a ", "\x00", "\ud800", "\x7f", "\u202e", "🦊", "a\nb", '"', '\\"', "e\u0301", "x" * 70_000),
    *(
        "../a",
        "/a",
        "a/../b",
        "a//b",
        "C:/a",
        "a\\b",
        "a/",
        ".a",
        "a/.",
        "...",
        "a\x1fb",
        ["a.png"],
        ["../a"],
        ["a", "a"],
    ),
    *(["cat"], ["cat", "dog"], [0, 1], [1, 0], [0.0], [True], ["0"], {"images": [], "user": "", "assistant": None}),
]


def mutated(line: bytes, random: Random) -> bytes:
    """`line` after mutations: of its values half the time, of its bytes and tokens the other."""
    by_value = random.random() < 0.5
    data = bytearray(_with_other_values(line, random) if by_value else line)
    for _ in range(random.choice([0, 0, 0, 1]) if by_value else random.choice([1, 1, 1, 2, 4])):
        random.choice(MUTATIONS)(data, random)
    return bytes(data)


def good_line(random: Random, number: int) -> bytes:
    """A line that the format allows; its id is `good-{number}`."""
    text = random.choice(
        ["What is it?", "", "Was ist das? 🦊", 'say "user": "x"', "\\", "<|end|>", "a\nb\u2028c", "\x7f"]
    )
    turn = {"images": random.choice([[], ["a.png"], ["b/ü.png", "a.png"]]), "user": text, "assistant": "cat"}
    if random.random() < 0.2:
        turn["answers"] = ["cat", text]
    if random.random() < 0.2:
        turn["image_offsets"] = [len(text)] * len(turn["images"])
    record = {"id": f"good-{number}", "source": "mine", "conversations": [turn] * random.randint(1, 3)}
    if random.random() < 0.2:
        record["system"] = text
    return json.dumps(record, ensure_ascii=random.random() < 0.5, indent=None).encode()


# The mutations ------------------------------------------------------------------------------------------------------


def _span(data: bytearray, random: Random) -> slice:
    start = random.randint(0, len(data))
    return slice(start, min(len(data), start + random.choice([1, 1, 2, 3, 8, 40])))


def _flip_a_bit(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set_a_byte(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _delete(data: bytearray, random: Random) -> None:
    del data[_span(data, random)]


def _repeat(data: bytearray, random: Random) -> None:
    span = _span(data, random)
    data[span.stop : span.stop] = data[span]


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _insert(data: bytearray, random: Random) -> None:
    at = random.randint(0, len(data))
    data[at:at] = random.choice(HOSTILE)


def _tokens(change: Callable[[list[bytes], Random], object]) -> Mutation:
    def mutate(data: bytearray, random: Random) -> None:
        if tokens := _TOKEN.findall(data):
            change(tokens, random)
            data[:] = b"".join(tokens)

    return mutate


def _swap_tokens(tokens: list[bytes], random: Random) -> None:
    i, j = random.randrange(len(tokens)), random.randrange(len(tokens))
    tokens[i], tokens[j] = tokens[j], tokens[i]


def _swap_strings(tokens: list[bytes], random: Random) -> None:
    strings = [i for i, token in enumerate(tokens) if token.startswith(b'"')] or [0]
    i, j = random.choice(strings), random.choice(strings)
    tokens[i], tokens[j] = tokens[j], tokens[i]


def _replace_a_token(tokens: list[bytes], random: Random) -> None:
    tokens[random.randrange(len(tokens))] = random.choice(HOSTILE)


def _insert_a_token(tokens: list[bytes], random: Random) -> None:
    tokens.insert(random.randrange(len(tokens)), random.choice(HOSTILE))


def _insert_after_a_bracket(tokens: list[bytes], random: Random) -> None:
    brackets = [i for i, token in enumerate(tokens) if token in b"{["] or [0]
    tokens.insert(random.choice(brackets) + 1, random.choice(HOSTILE))


def _repeat_tokens(tokens: list[bytes], random: Random) -> None:
    start = random.randrange(len(tokens))
    some = tokens[start : start + random.randint(1, 8)]
    tokens[start:start] = some


def _delete_tokens(tokens: list[bytes], random: Random) -> None:
    start = random.randrange(len(tokens))
    del tokens[start : start + random.randint(1, 5)]


def _with_other_values(line: bytes, random: Random) -> bytes:
    """The JSON of `line` with one or two of its values replaced, moved, doubled or taken away."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    for _ in range(random.choice([1, 1, 2])):
        places = list(_places(record))
        if not places:
            break
        (holder, key), (other, other_key) = random.choice(places), random.choice(places)
        match random.randrange(5):
            case 0:
                holder[key] = deepcopy(other[other_key])
            case 1:
                del holder[key]
            case 2:
                holder[random.choice(KEYS) if isinstance(holder, dict) else key] = deepcopy(holder[key])
            case _:
                holder[key] = deepcopy(random.choice(VALUES))
    return json.dumps(record, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every `(object or list, key or index)` of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


MUTATIONS: list[Mutation] = [
    _flip_a_bit,
    _set_a_byte,
    _delete,
    _repeat,
    _truncate,
    _insert,
    *map(_tokens, [_swap_tokens, _swap_strings, _replace_a_token, _insert_a_token, _insert_after_a_bracket]),
    *map(_tokens, [_repeat_tokens, _delete_tokens]),
]
