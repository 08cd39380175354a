"""Rules about text fire on what they name, and stay silent on the languages, emoji, code and math of real data."""

from __future__ import annotations

import json
import sys
import unicodedata
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from data_builders import conversations
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.validation.core.finding import Finding
from phiv_data.validation.inputs.fast_parse import fast_record
from phiv_data.validation.rules.mojibake import find_mojibake
from phiv_data.validation.rules.registry import record_finders
from phiv_data.validation.rules.text import COMPOSES, TEXT_RULES, find_blank_text, find_unusual_text, texts
from phiv_schemas import Conversation


def record(**changes: Any) -> Conversation:
    turn = {"images": ["a.png"], "user": "What is it?", "assistant": "a fox"}
    turn |= {key: value for key, value in changes.items() if key != "system"}
    system = {"system": changes["system"]} if "system" in changes else {}
    return Conversation.model_validate({"id": "val-0", "source": "s", "conversations": [turn], **system})


def codes(text: str) -> set[str]:
    """What the rules of one text find."""
    return {code for code, find in TEXT_RULES.items() if find(text)}


def found(rows: Any) -> list[tuple[str, str | None]]:
    return [(one.code, one.json_path) for one in rows]


# Empty text --------------------------------------------------------------------------------------------------------

USER, ANSWER = "$.conversations[0].user", "$.conversations[0].assistant"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user": ""}, [("PV210", USER)]),
        ({"user": " \n\u3000"}, [("PV210", USER)]),
        ({"user": "", "images": []}, [("PV210", USER)]),
        ({"assistant": ""}, [("PV211", ANSWER)]),
        ({"assistant": " \xa0"}, [("PV211", ANSWER)]),
        ({"user": " ", "assistant": "\t"}, [("PV210", USER), ("PV211", ANSWER)]),
        ({"user": " What is it?"}, [("PV212", USER)]),
        ({"user": "What is it? \n"}, [("PV212", USER)]),
        ({"assistant": "a fox\n"}, [("PV212", ANSWER)]),
        ({"assistant": " a fox"}, [("PV212", ANSWER)]),
        ({"system": "Be brief. "}, [("PV212", "$.system")]),
        ({"user": " What is it?", "image_offsets": [12]}, [("PV212", USER)]),
    ],
)
def test_empty_texts_and_outer_blanks_are_found(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(find_blank_text(record(**changes))) == expected
    assert not list(find_unusual_text(record(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"assistant": None},
        {"assistant": "0"},
        {"user": "What is it?\n"},
        {"user": "\nWhat is it?\r\n", "system": "Be brief.\n"},
        {"assistant": "a  fox\n\nand a dog"},
        {"system": ""},
        {"user": " is what?", "image_offsets": [0]},
        {"user": "What is ", "image_offsets": [8]},
        {"user": " and ", "images": ["a.png", "b.png"], "image_offsets": [0, 5]},
        {"answers": ["a fox", " a fox", ""]},
    ],
)
def test_texts_with_content_are_fine(changes: dict[str, Any]) -> None:
    assert list(find_blank_text(record(**changes))) == []


def test_messages_contain_what_was_found() -> None:
    assert [one.message for one in find_blank_text(record(user="", images=[]))] == [
        "asks nothing and shows no image (found '')"
    ]
    (edges,) = find_blank_text(record(assistant="\ta fox \n"))
    assert edges.message == "begins with '\\t' and ends with ' \\n'"


# Odd text ----------------------------------------------------------------------------------------------------------

BAD = {
    "PV215": [
        "USER: What is it?", "What?\nASSISTANT: a fox", "### Human: What is it?",
        "Below is it.\n\n### Response:\na fox", "###Assistant: a fox", "Human: What is it?\nAssistant: a fox",
        "A chat.\n\nUser: Hi\n\nAssistant:",
    ],
    "PV220": [
        "a<|end|>", "<|user|>\nHi", "<|assistant|>", "<|endoftext|>", "<s>", "a fox</s>", "<|im_start|>user",
        "<bos>", "[INST] Hi [/INST]", "<<SYS>>", "<start_of_turn>user", "<end_of_utterance>", "<|eot_id|>",
        "<|placeholder1|>", "<｜begin▁of▁sentence｜>", "<|START_OF_TURN_TOKEN|>", "<unk>", "[/INST]",
        "<reserved_106>",
    ],
    "PV221": [
        "a cafÃ©", "itâ€™s", "25Â°C", "ðŸ˜€", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "ä½\xa0å¥½", "MÃ¼ller", "DOS AÃ‘OS", "ï»¿What",
        "â\x80\x99s",
    ],
    "PV222": [
        "a\0b", "\x1b[1mbold\x1b[0m", "a\x7f", "a\x0bb", "\x84Handwerk\x93", "a\x85b", "\x08",
    ],
    "PV223": [
        "a\u200bb", "\ufeffWhat", "a\u2060b", "soft\xadhyphen", "x\u202e(drowssap)", "a\u2066b\u2069",
        "line\u2028end", "pass\u200dword", "foo\u200cbar", "a\U000e0041\U000e0042", "a\u200eb", "nice \ufe0f",
        "\u3164", "x\U000e0101\U000e0102\U000e0103", "🦊\ufe01\ufe02\ufe03\ufe04",
    ],
    "PV224": [
        "cafe\u0301", "Vie\u0323\u0302t", "\u1112\u1161\u11ab", "か\u3099", "\u0627\u0654", "\u0bc6\u0bbe",
    ],
    "PV225": [
        "caf\ufffd", "\ufffd\ufffd",
    ],
    "PV401": [
        "<image>\nWhat?", "<|image_1|>", "<IMG_CONTEXT>", "<|vision_start|><|image_pad|>", "<image 2>", "</image>",
        "<img>a.jpg</img>What?", "[IMG]What?", "<video>", "<ImageHere>", "<start_of_image>",
        "<audio>", "<|audio_1|>", "<|AUDIO|>", "<|audio_bos|>", "<speech>", "[AUDIO]", "<im_patch>", "<|media_pad|>",
        "<|begin_of_video|>", "<image_placeholder>",
    ],
}  # fmt: skip
FINE = [
    "What is it?", "Is a < b and b > c, or a <= b?", "<p>What is <b>this</b>?</p>", "<div><span></span></div>",
    "the <img> tag, <img src='a.png'>, <imagery>", "[img]http://a.b/c.png[/img] [IMG]http://a.b[/IMG]",
    "x[0] = [1, 2]", "[0.12, 0.30, 0.55, 0.9]", "<|box_start|>(1,2)<|box_end|>", "a <| b |> c", "x |> f",
    "std::vector<int>", "if (a<b>c) [INSTALL] [IMAGE]", "Time: 10:45", "user: admin, assistant: none",
    "User: admin", "Human: 30\nDog: 20", "USER", "SUPERUSER: root", "The assistant: a fox",
    "## Response\nIt is a fox", "<start> <end> <pad> <eol>", "Assistant: a\nAssistant: b",
    "$\\int_0^1 x^2\\,dx = \\frac{1}{3}$ ∑∞ √π ≤ ½ µ Å Ω", "tab\there\r\nand there\n",
    "‘It’s’ “quoted” – yes… • ™ ® © ° § ¶ † ‡ ‰ € £ ¥ ¿ ¡ « » ‹ ›", "1×2×3…", "5×£35", "10 Å²", "Ø½in", "IKEÅ™",
    "NESTLÉ® – « voilà\xa0», café…—but, “fiancé”—she, QUEM É¿", "SELKÄ\xa0EDELLÄ\xa0MAAHAN", "A–Ä–Ö–U",
    "„Spaß“, »Spaß«", "Größe, Äpfel, Öl, Übung, Straße: 5 °C", "L’été à l’île, garçon, œuvre, où, ï ÿ Ÿ",
    "¿Qué año? ¡Mañana!", "MAÇÃ, ÇÃO, NÃO", "Zażółć gęślą jaźń", "Příliš žluťoučký kůň",
    "Tiếng Việt: Đã được, ở, ỹ, ẵ", "Þórður ætlar að fá ð", "İstanbul ığüşöç", "Съешь ещё этих булочек: ёлка",
    "Η ¨ανατροφή¨ δυστυχώς", "שָׁלוֹם עולם", "\u200fשלום\u200f (abc)", "مرحبا \u202babc\u202c",
    "می\u200cخواهم PDF\u200cها", "क्\u200dष और क\u200c्ष, फ़ क़", "য় ড়", "ភាសា\u200bខ្មែរ abc\u200b", "ไทย\u200bไทย",
    "你好，世界！「テスト」", "한국어",
    "👩‍👩‍👧 ❤️‍🔥 👍🏽 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 1️⃣ ☺️ 🏳️‍🌈 👩‍❤️‍💋‍👨",
    "葛\U000e0100", "\u2126 \u212b", "𝒳 ∈ ℝⁿ",
]  # fmt: skip


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, some in BAD.items() for text in some], ids=repr)
def test_each_rule_fires_alone_on_what_it_names(code: str, text: str) -> None:
    beside = {"PV222"} if code == "PV221" and "\x80" in text else set()
    assert codes(text) == {code} | beside
    assert [one.code for one in find_unusual_text(record(user=f"What? {text}" if code == "PV220" else text))][:1] == [
        code
    ]


@pytest.mark.parametrize("text", FINE, ids=repr)
def test_real_text_is_fine(text: str) -> None:
    assert codes(text) == set()
    assert list(find_unusual_text(record(user=text, assistant=text))) == []


def test_every_text_is_checked_and_named_by_its_path() -> None:
    row = record(system="\0", user="\0", assistant="\0", answers=["a", "\0", "\0b"])
    assert [path for _, path in found(find_unusual_text(row))] == [
        "$.system",
        USER,
        ANSWER,
        "$.conversations[0].answers[2]",
    ]


def test_messages_count_what_is_more_than_once() -> None:
    (one,) = find_unusual_text(record(user="<|end|><|user|>\nHi<|end|>"))
    assert one == Finding("PV220", USER, "text contains the control token '<|end|>' (and 2 more)")
    (one,) = find_unusual_text(record(user="a\u200bb"))
    assert one.message == "text contains the invisible U+200B ZERO WIDTH SPACE"
    (one,) = find_unusual_text(record(assistant="cafe\u0301"))
    assert one.message == "'é' is written as two characters, U+0065 U+0301"


PIECES = st.sampled_from([text for some in BAD.values() for text in some] + FINE + ["\n", " ", ":", "<", "[", "USER"])
SAID = st.lists(PIECES | st.text(max_size=3), max_size=4).map("".join)


@given(SAID, SAID, st.lists(SAID, max_size=2), st.none() | SAID)
def test_the_fast_check_of_a_record_misses_nothing(user: str, said: str, more: list[str], system: str | None) -> None:
    row = record(user=user, assistant=said, answers=[*more, said], **({} if system is None else {"system": system}))
    slow = [(code, path) for path, text in texts(row) for code, find in TEXT_RULES.items() if find(text)]
    assert found(find_unusual_text(row)) == slow


@given(conversations())
def test_fast_records_give_the_same_findings(conversation: Conversation) -> None:
    fast = fast_record(conversation.to_line().encode())
    for find in record_finders() if fast else ():
        assert list(find(fast)) == list(find(conversation))  # type: ignore[arg-type]  # not None here


def test_every_character_that_unicode_composes_is_known() -> None:
    seconds = set()
    for number in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(number)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            pair = "".join(chr(int(part, 16)) for part in parts)
            if unicodedata.normalize("NFC", pair) == chr(number):
                seconds.add(pair[1])
    assert len(seconds) > 60
    assert not [hex(ord(char)) for char in seconds if not COMPOSES.match(char)]


@given(st.text(st.sampled_from("<>|[]sSendINT/\u200b\u200d\ufe0f\u200e𝄞\u0301e: \nUSER###ÃÂâ€™"), max_size=40))
def test_rules_take_any_text(text: str) -> None:
    assert codes(text) <= TEXT_RULES.keys()


@pytest.mark.parametrize(
    "text", ["\u200e" * 200_000, "a\u200d" * 100_000, "<img>" * 50_000, "<|" * 100_000, "e\u0301" * 9]
)
def test_hostile_text_takes_no_long_time(text: str) -> None:
    """Quadratic rules would take minutes here."""
    assert codes(text) or "<" in text


# Mojibake ----------------------------------------------------------------------------------------------------------

SENTENCES = [
    "Wie heißt die größte Stadt?", "Où est le garçon, à l’école ?", "¿Dónde está el niño?", "Não há pão na mesa.",
    "Która godzina?", "Kde je ta kočka?", "Nơi này là gì?", "Какая это машина?", "Ποιο είναι αυτό;", "מה זה?",
    "ما هذا؟", "यह क्या है?", "এটা কী?", "นี่คืออะไร", "这是什么？", "これは何ですか？", "이것은 무엇입니까?",
    "It’s “quoted” — yes…", "a 🦊 here", "İstanbul’da ışık", "Hvað er þetta, maður?", "Ett öga, två ögon på ön",
    "Çfarë është kjo?", "5 °C ± 2 µm",
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_decoded_as_another_encoding_are_found_with_the_original(text: str, encoding: str) -> None:
    wrong = "".join(bytes([byte]).decode(encoding, "ignore") or chr(byte) for byte in text.encode())
    pair = find_mojibake(wrong)
    assert pair is not None
    assert pair[0] in wrong
    assert pair[1] in text
    assert find_mojibake(text) is None


WORDS = ["é", "CAFÉ", "Spaß", "voilà", "olá", "lá", "É", "Ä", "Å", "ñ", "passé", "MAÇÃ", "ĐÃ", "LÂ", "ÔÔ", "ô", "São"]
AFTER = ["…", "’", "”", "“", "»", "«", "\xa0", "–", "—", "®", "™", "©", "°", "•", "²", "´", "¿", "¡", "!", "É", ""]


def test_no_word_before_any_punctuation_is_mistaken_for_mojibake() -> None:
    for word, first, second, last in product(WORDS, AFTER, AFTER, ["", " y", "."]):
        text = f"{word}{first}{second}{last}"
        assert find_mojibake(text) is None, text


# Real data ---------------------------------------------------------------------------------------------------------


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in strings(one)]


def test_the_texts_of_real_datasets_hold_nothing_unusual_but_markers(shared: Path) -> None:
    """The formats of other tools hold markers, which is what PV401 is for."""
    files = [path for path in sorted((shared / "samples").rglob("*.json*")) if path.stat().st_size]
    count = 0
    for path in files:
        lines = [path.read_text(encoding="utf-8")]
        try:
            values = [json.loads(lines[0])]
        except ValueError:
            values = [json.loads(line) for line in lines[0].splitlines() if line.strip()]
        for text in strings(values):
            count += 1
            assert codes(text) <= {"PV401"}, (path.name, text[:200])
            assert "formats" in path.parts or not codes(text), (path.name, text[:200])
    assert count > 50_000
