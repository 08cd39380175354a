"""Draws the data sets of rules about texts, repeats and labels: `python tests/corpus/draw_text.py [PVxxx ...]`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from draw import FOX, HERE, Draw, image, lines, record

FENNEC = FOX | {"fennec.png": image("tan")}


def texts(broken: list[dict[str, Any]], clean: list[dict[str, Any]]) -> Draw:
    """Rows of these changes, numbered."""

    def draw(folder: Path) -> None:
        for name, rows in (("broken", broken), ("clean", clean)):
            lines(folder / name, *(record(i, **row) for i, row in enumerate(rows)))

    return draw


def duplicate_content(folder: Path) -> None:
    row = {"images": ["fox.png"], "user": "What is it?", "assistant": "It is a fox that stands in the snow."}
    lines(folder / "broken", record(0, **row), record(1), record(2, **row), images=FOX)
    others = [{"images": ["fennec.png"]}, {"user": "Where is it?"}, {"assistant": "A fox."}, {"system": "Be brief."}]
    lines(folder / "clean", *(record(i, **row | other) for i, other in enumerate([{}, *others])), images=FENNEC)


def conflicting_answers(folder: Path) -> None:
    row = {"images": ["fox.png"], "user": "Is it a fox?"}
    rows = [
        record(0, **row, assistant="Yes."),
        record(1, **row, assistant="no"),
        record(2, **row, assistant="Not sure"),
    ]
    lines(folder / "broken", *rows, images=FOX)
    several = [("ITC", ["ITC", "ITC Ltd"]), ("ITC Limited", ["ITC Limited", "itc"])]
    clean = [record(i, images=["fox.png"], user="Who?", assistant=a, answers=b) for i, (a, b) in enumerate(several)]
    captions = ["a red fox in the snow", "an animal that looks at us"]
    clean += [record(2 + i, images=["fox.png"], user="Describe it.", assistant=a) for i, a in enumerate(captions)]
    clean += [record(4 + i, user="Name an animal.", assistant=a) for i, a in enumerate(["fox", "dog"])]
    lines(folder / "clean", *clean, images=FOX)


def labeled(broken: dict[str, dict[str, int]], clean: dict[str, dict[str, int]]) -> Draw:
    """Files of splits, with so many rows of each answer."""

    def draw(folder: Path) -> None:
        for name, splits in (("broken", broken), ("clean", clean)):
            for split, counts in splits.items():
                answers = [answer for answer, count in counts.items() for _ in range(count)]
                rows = [record(i, id=f"{split}-{i}", assistant=answer) for i, answer in enumerate(answers)]
                lines(folder / name, *rows, name=f"{split}.jsonl")

    return draw


PERSIAN, FAMILY = "می\u200cخواهم", "\U0001f469\u200d\U0001f469\u200d\U0001f467"
DRAWN: dict[str, Draw] = {
    "PV203-duplicate-content": duplicate_content,
    "PV210-empty-user": texts([{"user": ""}, {"user": " \n"}], [{"user": "?"}, {"user": "0"}]),
    "PV211-empty-answer": texts([{"assistant": ""}, {"assistant": " \n"}], [{"assistant": "0"}, {"assistant": None}]),
    "PV212-surrounding-whitespace": texts(
        [{"user": " What is it?"}, {"assistant": "a fox\n"}, {"system": "Be brief. "}],
        [{"user": "What is it?\n"}, {"assistant": "a fox\n\nin the  snow"}, {"user": "It is a", "assistant": "fox"}],
    ),
    "PV214-conflicting-answers": conflicting_answers,
    "PV215-role-marker-in-text": texts(
        [{"user": "USER: What is it?\nASSISTANT:"}, {"assistant": "### Response:\na fox"}],
        [{"user": "Who is the user: a fox or a dog?"}, {"assistant": "Human: 30\nDog: 20"}],
    ),
    "PV220-control-token": texts(
        [{"user": "What is it?<|end|>"}, {"assistant": "a fox</s>"}, {"system": "[INST] <<SYS>>"}],
        [{"user": "Is a < b | c > d?"}, {"assistant": "x <| f |> y, <p>"}, {"user": "[INSTALL] <end>"}],
    ),
    "PV221-mojibake": texts(
        [{"user": "a cafÃ© in Paris"}, {"assistant": "itâ€™s a fox"}, {"user": "25Â°C"}, {"user": "Ð¿Ñ€Ð¸Ð²ÐµÑ‚"}],
        [{"user": "« Voilà\xa0», un CAFÉ® à 25 °C"}, {"assistant": "Spaß“ – Ä…"}, {"user": "привет, 你好"}],
    ),
    "PV222-control-character": texts(
        [{"user": "What\0 is it?"}, {"assistant": "\x1b[1ma fox\x1b[0m"}, {"assistant": "a fox\x7f"}],
        [{"user": "What\tis\r\nit?"}, {"assistant": "a\xa0fox"}],
    ),
    "PV223-invisible-unicode": texts(
        [
            {"user": "What\u200b is it?"},
            {"assistant": "\ufeffa fox"},
            {"assistant": "a \u202efox"},
            {"user": "so\xadft"},
        ],
        [{"user": PERSIAN}, {"assistant": FAMILY}, {"assistant": "\u200fשלום\u200f"}, {"user": "\u2764\ufe0f"}],
    ),
    "PV224-not-nfc": texts(
        [{"user": "a cafe\u0301"}, {"assistant": "Vie\u0323\u0302t"}],
        [{"user": "a café"}, {"assistant": "Việt"}, {"user": "য়"}],
    ),
    "PV225-replacement-character": texts([{"user": "a caf\ufffd"}], [{"user": "a caf?"}]),
    "PV230-class-imbalance": labeled(
        {"train": {"cat": 20, "dog": 20, "fox": 1}}, {"train": {"cat": 19, "dog": 20, "fox": 2}}
    ),
    "PV231-class-unseen-in-train": labeled(
        {"train": {"cat": 15, "dog": 14}, "val": {"cat": 1, "fox": 1}},
        {"train": {"cat": 15, "dog": 14}, "val": {"cat": 2}},
    ),
    "PV232-class-missing-in-split": labeled(
        {"train": {"cat": 15, "dog": 15}, "val": {"cat": 20}}, {"train": {"cat": 15, "dog": 15}, "val": {"cat": 19}}
    ),
    "PV233-class-spelling-variant": labeled(
        {"train": {"cat": 20, "dog": 20, "Cat": 1}, "val": {"dog.": 1}},
        {"train": {"cat": 20, "dog": 20, "cats": 1}, "val": {"dog": 1}},
    ),
}


if __name__ == "__main__":
    for name, draw in DRAWN.items():
        if not sys.argv[1:] or name[:5] in sys.argv[1:]:
            for part in ("broken", "clean"):
                shutil.rmtree(HERE / name / part, ignore_errors=True)
            (HERE / name).mkdir(exist_ok=True)
            draw(HERE / name)
