"""Files of other tools' rows: found, listed in flat memory, and converted with their images as they are."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phiv_converters.chat_json.options import LlavaOptions, SharegptOptions, SwiftOptions, TrlOptions
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data.convert.engine import NothingWritten, Outcome, convert
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.engine import export
from phiv_data.formats import FORMATS
from phiv_data.formats.files import read_entries, safe_name, strip_folders
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.testing import Case, Check, conformance_checks
from phiv_data.testing.helpers import demand_valid
from phiv_data.validation import validate
from phiv_schemas import Conversation, PhivError, SourceError, Turn, UsageError

OPTIONS: dict[str, Callable[..., Any]] = {
    "llava": LlavaOptions,
    "sharegpt": SharegptOptions,
    "swift": SwiftOptions,
    "trl": TrlOptions,
}


def draw(path: Path, shade: int = 0, format: str | None = None) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20 + shade % 50, 16), (shade % 256, 80, 120)).save(path, format)
    return path.read_bytes()


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def row(image: Any, user: str = "<image>\nWhat?", answer: str | None = "It.", **more: Any) -> dict[str, Any]:
    record = {"image": image, "conversations": [{"from": "human", "value": user}]} | more
    if answer is not None:
        record["conversations"].append({"from": "gpt", "value": answer})
    return record


def converted(options: Any, tmp: Path, *, val_fraction: float = 0, **how: Any) -> Outcome:
    options = dataclasses.replace(options, val_fraction=val_fraction)
    return convert(options, tmp / "out", num_workers=0, arrow=how.pop("arrow", False), **how)


def rejects(tmp: Path) -> list[tuple[str, str]]:
    lines = (tmp / "out/rejects.jsonl").read_text().splitlines()
    return [(reject["code"], reject["reason"]) for reject in map(json.loads, lines)]


def records(tmp: Path, name: str = "llava_train") -> list[Conversation]:
    lines = (tmp / f"out/{name}.jsonl").read_text().splitlines()
    return [Conversation.model_validate_json(line) for line in lines]


# The contract --------------------------------------------------------------------------------------------------------


def tiny(format: str, folder: Path) -> Case:
    """Two rows of train in an array, two of val in lines, one of them without an answer."""
    rows = []
    for i in range(4):
        draw(folder / f"images/{i}/a.jpg", 40 * i)
        turn = Turn(images=(f"images/{i}/a.jpg",), user="What?", assistant="It." if i != 3 else None)
        rows.append(FORMATS[format].render(Conversation(id=str(i), source="synthetic", conversations=[turn])))
    (folder / "train.json").write_text(json.dumps(rows[:2], indent=1))
    write_lines(folder / "validation.jsonl", rows[2:])
    options = OPTIONS[format]
    own: dict[str, Any] = {"marker": "<IMG>"} if format == "trl" else {"markers": "lenient"}
    changes = (own, {"keep_ids": True}, {"split": "test"}, {"strip_folders": 1, "images": folder / "images"})
    return Case(options, folder, changed=tuple(partial(options, **change) for change in changes), unlabeled=1)


@pytest.fixture(scope="module", params=sorted(OPTIONS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return tiny(request.param, tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_every_format_keeps_the_contract(check: Check, case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("format", sorted(OPTIONS))
def test_rows_of_phiv_come_back_with_their_ids_and_sources(format: str, tmp_path: Path) -> None:
    case = tiny(format, tmp_path / "source")
    converted(OPTIONS[format](case.source, keep_ids=True), tmp_path, arrow=True, include_unlabeled=True)
    found = [*records(tmp_path, f"{format}_train"), *records(tmp_path, f"{format}_val")]
    assert [(c.id, c.source, c.image_paths) for c in found] == [
        (str(i), "synthetic", (f"{'train' if i < 2 else 'val'}/images/{i}/a.jpg",)) for i in range(4)
    ]
    assert [c.turns[0].user for c in found] == ["What?"] * 4
    assert len(ConversationDataset(tmp_path / "out", "val")) == 2


# Images ------------------------------------------------------------------------------------------------------------


def test_images_are_copied_byte_for_byte_from_wherever_their_path_leads(tmp_path: Path) -> None:
    here, there, far = tmp_path / "data/json", tmp_path / "images", tmp_path / "far"
    data = {
        "below/a.jpg": draw(there / "below/a.jpg", 1),
        "beside/a.jpg": draw(here / "beside/a.jpg", 2),
        "../up/a.jpg": draw(tmp_path / "data/up/a.jpg", 3),
        str(far / "a.jpg"): draw(far / "a.jpg", 4),
        "./dot/../a b.jpg": draw(here / "a b.jpg", 5) if (here / "dot").mkdir(parents=True) is None else b"",
        (far / "é.jpg").as_uri(): draw(far / "é.jpg", 6),
        "back\\slash.jpg": draw(here / "back/slash.jpg", 7),
    }
    source = write_lines(here / "rows.jsonl", [row(ref) for ref in data])
    account = converted(LlavaOptions(source, images=there), tmp_path).manifest.accounting
    assert (account.written, account.rejected) == (7, {})
    paths = [c.image_paths[0] for c in records(tmp_path)]
    root = f"_root{far.as_posix()}"
    assert paths == [
        f"train/{name}"
        for name in (
            "below/a.jpg", "beside/a.jpg", "_up/up/a.jpg", f"{root}/a.jpg", "a b.jpg", f"{root}/é.jpg", "back/slash.jpg"
        )
    ]  # fmt: skip
    for path, expected in zip(paths, data.values(), strict=True):
        assert (tmp_path / "out/images" / path).read_bytes() == expected
    demand_valid(tmp_path / "out")


def test_one_base_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    draw(tmp_path / "in/a/1.jpg", 1), draw(tmp_path / "in/b/1.jpg", 2)
    for name in "ab":
        write_lines(tmp_path / f"in/{name}/rows.jsonl", [row("1.jpg")])
    converted(LlavaOptions(tmp_path / "in"), tmp_path)
    assert [c.image_paths for c in records(tmp_path)] == [("train/a/1.jpg",), ("train/b/1.jpg",)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("a/../b.jpg", "b.jpg"),
        ("../b.jpg", "_up/b.jpg"),
        ("../../b.jpg", "_up/_up/b.jpg"),
        ("a/../../b.jpg", "_up/b.jpg"),
        ("/etc/../b.jpg", "_root/b.jpg"),
        ("/../b.jpg", "_root/_up/b.jpg"),
        ("C:/x/b.jpg", "_root/C/x/b.jpg"),
    ],
)
def test_names_under_images_stay_there(path: str, name: str) -> None:
    assert safe_name(path) == name


@pytest.mark.parametrize(
    ("ref", "strip", "path"),
    [("a/b/c.jpg", 1, "b/c.jpg"), ("/a/b/c.jpg", 2, "c.jpg"), ("a/c.jpg", 5, "c.jpg"), ("./a/c.jpg", 1, "c.jpg")],
)
def test_folders_at_the_front_can_be_left_out(ref: str, strip: int, path: str) -> None:
    assert strip_folders(ref, strip) == path


def test_data_uris_are_decoded_and_named_by_their_content(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()  # says png, is a JPEG
    source = write_lines(
        tmp_path / "rows.jsonl", [row(uri), row(uri), row("data:image/png;base64,%%%"), row("data:,x")]
    )
    converted(LlavaOptions(source), tmp_path)
    name = f"train/data/{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.jpg"
    assert [c.image_paths for c in records(tmp_path)] == [(name,), (name,)]
    assert (tmp_path / "out/images" / name).read_bytes() == buffer.getvalue()
    assert [code for code, _ in rejects(tmp_path)] == ["bad-row", "not-an-image"]


def test_a_image_that_cannot_be_had_costs_its_row_alone(tmp_path: Path) -> None:
    draw(tmp_path / "good.jpg", 1)
    draw(tmp_path / "named.png", 2, format="JPEG")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    refs = ["good.jpg", "gone.jpg", "https://example.com/a.jpg", "text.jpg", "folder.jpg", "x" * 300, "named.png"]
    source = write_lines(tmp_path / "rows.jsonl", [row(ref) for ref in refs])
    account = converted(LlavaOptions(source), tmp_path).manifest.accounting
    assert account.written == 2
    codes = [code for code, _ in rejects(tmp_path)]
    assert codes == ["missing-image", "missing-image", "not-an-image", "unreadable", "missing-image"]
    assert "downloads no images" in rejects(tmp_path)[1][1]
    assert "--images" in rejects(tmp_path)[0][1]


def test_a_image_shown_twice_in_a_row_is_stored_once(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    converted(LlavaOptions(write_lines(tmp_path / "rows.jsonl", [row(["a.jpg"] * 2, "<image>A<image>")])), tmp_path)
    (record,) = records(tmp_path)
    assert record.image_paths == ("train/a.jpg", "train/a.jpg")
    assert record.turns[0].image_offsets == (0, 1)


# Splits ------------------------------------------------------------------------------------------------------------


def splits_of(tmp: Path, *names: str, **options: Any) -> dict[str, str]:
    """The split that a row of each file went to, with what was said of them."""
    for name in names:
        write_lines(tmp / "in" / name, [row(None, name)])
    outcome = converted(LlavaOptions(tmp / "in", **options), tmp)
    found = {c.turns[0].user: s.name for s in outcome.manifest.splits for c in records(tmp, f"llava_{s.name}")}
    said = dict(warning.split(" (")[0].split(" is ") for warning in outcome.warnings if " (" in warning)
    assert said == found
    return found


def test_names_mean_what_people_mean_by_them(tmp_path: Path) -> None:
    names = {"trainval.json": "train", "coco_minival2014.json": "val", "holdout.jsonl": "test", "train.json": "train"}
    assert splits_of(tmp_path, *names) == names


def test_files_of_two_words_for_a_split_are_two_splits(tmp_path: Path) -> None:
    names = {"train.json": "train", "val.json": "val", "dev.json": "dev", "test.json": "test", "val_2.json": "val"}
    assert splits_of(tmp_path, *names) == names


def test_files_of_an_export_are_the_splits_of_their_names(tmp_path: Path) -> None:
    names = {"train.json": "train", "test_seen.json": "test_seen", "test_unseen.json": "test_unseen", "x.json": "x"}
    (tmp_path / "in").mkdir()
    record = {"format": "llava", "dataset": "d", "rows": {}, "files": [{"path": name} for name in names]}
    (tmp_path / "in/.phiv-export.json").write_text(json.dumps(record))
    assert splits_of(tmp_path, *names, "added_val.json") == names | {"added_val.json": "val"}


@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("record", [True, False], ids=["record", "no record"])
def test_an_export_comes_back_with_its_splits(name: str, record: bool, tmp_path: Path) -> None:
    counts = {"train": 3, "val": 1, "dev": 2, "test": 1}
    for split, count in counts.items():
        turns = [{"images": [], "user": f"{split} {i}", "assistant": "a"} for i in range(count)]
        write_lines(tmp_path / f"in/{split}.jsonl", [{"conversations": [turn]} for turn in turns])
    convert(JsonlOptions(tmp_path / "in"), tmp_path / "data", num_workers=0)
    writer = {"llava": Llava, "sharegpt": ShareGpt, "swift": Swift, "trl": Trl}[name]
    export(writer(), tmp_path / "data", tmp_path / "export")
    if not record:
        (tmp_path / "export/.phiv-export.json").unlink()
    splits = converted(OPTIONS[name](tmp_path / "export"), tmp_path).manifest.splits
    assert {s.name: s.rows for s in splits} == counts


def test_a_file_without_a_split_beside_others_is_a_warning(tmp_path: Path) -> None:
    for name in ("train.json", "more.json"):
        write_lines(tmp_path / "in" / name, [row(None, name)])
    *_, last = converted(LlavaOptions(tmp_path / "in"), tmp_path).warnings
    assert (
        last == "'more.json' beside files of named splits is taken for train. Pass it alone with --split if it is not"
    )


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("llava_train.json", "train"), ("x_validation.jsonl", "val"), ("dev.json", "val"), ("test/rows.json", "test"),
        ("mllm_demo.json", "train"), ("eval.ndjson", "test"),
    ],
)  # fmt: skip
def test_splits_follow_the_names_of_files(name: str, split: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "in" / name, [row(None, "u")])
    outcome = converted(LlavaOptions(tmp_path / "in"), tmp_path)
    assert [s.name for s in outcome.manifest.splits] == [split]
    again = convert(LlavaOptions(tmp_path / "in", split="mine"), tmp_path / "again", num_workers=0, arrow=False)
    assert [(s.name, s.rows) for s in again.manifest.splits] == [("mine", 1)]


def test_the_folder_around_the_source_tells_no_split(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "test/rows.jsonl", [row(None, "u")])
    assert [s.name for s in converted(LlavaOptions(source), tmp_path).manifest.splits] == ["train"]


def test_arrays_lines_and_lines_of_arrays_are_distinguished(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    write_lines(tmp_path / "in/lines.json", [{"messages": messages}] * 2)
    write_lines(tmp_path / "in/lists.jsonl", [messages] * 3)
    (tmp_path / "in/array.jsonl").write_text(json.dumps([{"messages": messages}] * 4, indent=2))
    (tmp_path / "in/short.json").write_text("\ufeff \n" + json.dumps([{"messages": messages}]))
    outcome = converted(TrlOptions(tmp_path / "in"), tmp_path)
    assert outcome.manifest.accounting.written == 10
    kinds = "array.jsonl (JSON array), lines.json (JSON lines), lists.jsonl (JSON lines), short.json (JSON array)"
    assert outcome.manifest.source == f"trl rows in {kinds}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{\n "root": "data/",\n "annotation": "x.jsonl"\n}', "one JSON object"),
        ('[{"messages": []},\n{"messages": []}]\n[1]', "after the end"),
        ('[{"messages": []},', "cut"),
        ("<!DOCTYPE html><html>", "web page"),
        ('{"text": "The sky is blue."}\n', "none of them is one"),
        ("not json\n", "none of them is one"),
        (f"{json.dumps(row(None, 'u'), indent=1)}\n" * 2, "objects one after another.*jq"),
        (json.dumps(row(None, "u"), indent=1), "one row over several lines.*jq"),
        (json.dumps({"a": row(None, "u"), "b": row(None, "u")}), "rows by key \\('a', 'b'"),
        (json.dumps({"data": [row(None, "u")], "version": 1}, indent=1), "rows under 'data'"),
        (json.dumps({"version": 1}, indent=1), "one JSON object, and no row"),
        ('{\n "conversations": [', "first line is '{' alone"),
        (json.dumps({"conversations": [{"images": ["a"], "user": "u", "assistant": "a"}]}), "phiv's own rows.*jsonl"),
        (json.dumps({"query": "q", "response": "r"}), "They read as swift rows"),
        ("", "no inputs"),
        ("[]", "no inputs"),
    ],
)
def test_a_file_that_holds_no_such_rows_is_reported(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(SourceError, match=what):
        converted(LlavaOptions(tmp_path / "rows.json"), tmp_path)


def test_a_broken_line_is_one_reject_that_names_the_line(tmp_path: Path) -> None:
    lines = [json.dumps(row(None, "u")), "{broken", "", json.dumps(row(None, "v"))]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    account = converted(LlavaOptions(tmp_path / "rows.jsonl"), tmp_path).manifest.accounting
    assert (account.inputs, account.written, account.rejected) == (3, 2, {"bad-row": 1})


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (partial(LlavaOptions, strip_folders=-1), "--strip_folders"),
        (partial(LlavaOptions, split="a/b"), "--split"),
        (partial(LlavaOptions, images=Path("/no/such/folder")), "--images"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(options: Callable[..., Any], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        options(Path("rows.json"))


# What is left out is reported ---------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_in_warnings(tmp_path: Path) -> None:
    rows = [row(None, "u", id=1, category="x"), row(None, "What is <image>?", category="y"), row("gone.jpg", id=2)]
    outcome = converted(LlavaOptions(write_lines(tmp_path / "rows.jsonl", rows)), tmp_path)
    assert outcome.warnings == (
        "rows.jsonl is train (its name says no split)",
        "2 rows have 'category', which is left out",
        "2 rows have an id, which is left out (--keep_ids keeps it)",
        "1 rows without images have <image> in their text: it is kept as text",
    )
    assert records(tmp_path)[1].turns[0].user == "What is <image>?"


def test_kept_ids_must_be_there_and_differ(tmp_path: Path) -> None:
    rows = [row(None, "u", id=7), row(None, "u"), row(None, "u", id=" blank ")]
    converted(LlavaOptions(write_lines(tmp_path / "rows.jsonl", rows), keep_ids=True), tmp_path)
    assert [c.id for c in records(tmp_path)] == ["7"]
    assert [code for code, _ in rejects(tmp_path)] == ["bad-row", "bad-row"]
    twice = write_lines(tmp_path / "twice.jsonl", [row(None, "u", id="7"), row(None, "v", id=7)])
    with pytest.raises(PhivError, match="two rows have the id '7'"):
        convert(LlavaOptions(twice, keep_ids=True), tmp_path / "again", num_workers=0, arrow=False)


def test_every_kind_of_bad_row_is_counted_by_its_code(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    rows = [
        row("a.jpg"),
        row("a.jpg", "<image><image>"),
        row("a.jpg", answer=None),
        row(None, "u", audio="a.wav"),
        {"conversations": [{"from": "gpt", "value": "a"}]},
        {"image": 3, "conversations": []},
        "text",
    ]
    source = write_lines(tmp_path / "rows.jsonl", rows)
    account = converted(LlavaOptions(source), tmp_path).manifest.accounting
    assert account.rejected == {"bad-row": 2, "bad-turns": 1, "marker-mismatch": 1, "unsupported-media": 1}
    assert (account.written, account.unlabeled, account.inputs) == (1, 1, 7)


def test_lenient_markers_are_an_option(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    source = write_lines(tmp_path / "rows.jsonl", [row("a.jpg", "<image>\nA <image>?"), row("a.jpg", "B?")])
    converted(LlavaOptions(source, markers="lenient"), tmp_path)
    assert [c.turns[0].user for c in records(tmp_path)] == ["A <image>?", "B?"]


def test_every_kind_of_marker_in_text_is_counted(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    markers = ("<video>", "<audio>", "<|image_1|>", "<image 1>", "<ImageHere>", "[IMG]")
    rows = [
        {"messages": [{"role": "user", "content": f"{m} u"}, {"role": "assistant", "content": "a"}]} for m in markers
    ]
    rows += [rows[2], rows[2] | {"images": ["a.jpg"]}]
    rows[-1] = rows[-1] | {"messages": [{"role": "user", "content": "<image><|image_2|>"}, *rows[2]["messages"][1:]]}
    warnings = converted(SharegptOptions(write_lines(tmp_path / "rows.jsonl", rows)), tmp_path).warnings[1:]
    counts = [
        f"{2 if '_1' in m else 1} rows without images have {m} in their text: it is kept as text" for m in markers
    ]
    last = "1 rows with images have <|image_2|> in their text: it is kept as text. --marker '<|image_2|>' reads it as"
    assert sorted(warnings[:-1]) == sorted(counts)
    assert warnings[-1].startswith(last)


def test_a_marker_of_another_tool_is_an_option(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    source = write_lines(tmp_path / "rows.jsonl", [row("a.jpg", "<|image_1|>\nWhat?")])
    converted(LlavaOptions(source, marker="<|image_1|>"), tmp_path)
    assert [(c.image_paths, c.turns[0].user) for c in records(tmp_path)] == [(("train/a.jpg",), "What?")]


@pytest.mark.parametrize("format", sorted(OPTIONS))
def test_a_row_with_a_key_twice_is_rejected(format: str, tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "yes"}]}
    twice = json.dumps(good)[:-3] + ', "content": "no"}]}'
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(good)}\n\n{twice}\n")
    (tmp_path / "array.json").write_text(f"[{json.dumps(good)},\n{twice}]")
    for name, where in (("rows.jsonl", "rows.jsonl:3"), ("array.json", "array.json:2")):
        outcome = convert(OPTIONS[format](tmp_path / name), tmp_path / f"{name}.out", num_workers=0, arrow=False)
        assert outcome.manifest.accounting.rejected == {"bad-row": 1}
        reject = json.loads((tmp_path / f"{name}.out/rejects.jsonl").read_text())
        assert (reject["input"], "duplicate key 'content'" in reject["reason"]) == (where, True)


def test_rejects_name_the_line_and_the_image(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(draw(tmp_path / "a.jpg")[:-30])
    (tmp_path / "empty.jpg").touch()
    lines = [json.dumps(row("a.jpg")), "", json.dumps(row("bad.jpg")), "  ", json.dumps(row("empty.jpg"))]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "array.json").write_text(f"[{', '.join(filter(str.strip, lines))}]")
    for name, numbers in (("rows.jsonl", (3, 5)), ("array.json", (2, 3))):  # rows on one line have their place
        convert(LlavaOptions(tmp_path / name), tmp_path / f"{name}.out", num_workers=0, arrow=False)
        found = [json.loads(line) for line in (tmp_path / f"{name}.out/rejects.jsonl").read_text().splitlines()]
        assert [reject["input"] for reject in found] == [f"{name}:{number}" for number in numbers]
        assert ["image 'bad.jpg': " in found[0]["reason"], "image 'empty.jpg': " in found[1]["reason"]] == [True] * 2


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("IMG/A 1.JPG", "Did you mean 'img/a 1.jpg'?"),
        ("img/a%201.jpg", "Did you mean 'img/a 1.jpg'?"),
        ("img/a 1.png", "Did you mean 'img/a 1.jpg'?"),
        ("img/Gro\u0308\u00dfe.jpg", "Did you mean 'img/Gr\u00f6\u00dfe.jpg'?"),
        ("coco/img/a 1.jpg", "It is there as 'img/a 1.jpg': pass --strip_folders 1"),
        ("in/img/a 1.jpg", "It is there as 'img/a 1.jpg': pass --strip_folders 1"),
        ("other/b.jpg", "Pass --images {tmp}: it is there"),
        ("nothing/like/it.jpg", "Pass the folder that its path starts from as --images"),
        ("../img/none.jpg", "Pass the folder that its path starts from as --images"),
        ("nul\0.jpg", "Pass the folder that its path starts from as --images"),
    ],
)
def test_a_missing_image_comes_with_what_was_likely_meant(ref: str, hint: str, tmp_path: Path) -> None:
    for name in ("in/img/a 1.jpg", "in/img/Gr\u00f6\u00dfe.jpg", "other/b.jpg"):
        draw(tmp_path / name)
    source = write_lines(tmp_path / "in/rows.jsonl", [row(ref), row("img/a 1.jpg")])
    if "strip" in hint and ref.startswith("in/"):
        hint = "Pass --images {tmp}: it is there"
    converted(LlavaOptions(source), tmp_path)
    ((code, reason),) = rejects(tmp_path)
    assert code == "missing-image"
    assert hint.format(tmp=tmp_path) in reason


def test_bytes_in_base64_are_read_in_every_form(tmp_path: Path) -> None:
    data = draw(tmp_path / "a.png")
    bare, broken = base64.b64encode(data).decode(), base64.encodebytes(data).decode()
    forms = [
        bare,
        broken,
        f"data:image/png;base64,{broken}",
        f"data:;base64,{bare.rstrip('=')}",
        {"bytes": bare, "path": "x"},
    ]
    source = write_lines(tmp_path / "rows.jsonl", [row(form) for form in (*forms, f"data:;base64,{bare[:50]}?")])
    converted(LlavaOptions(source), tmp_path)
    assert {c.image_paths for c in records(tmp_path)} == {(f"train/data/{hashlib.sha256(data).hexdigest()[:32]}.png",)}
    assert len(records(tmp_path)) == len(forms)
    ((code, reason),) = rejects(tmp_path)
    assert (code, len(reason) < 150) == ("bad-row", True)


@pytest.mark.parametrize("name", ["img-2024-01-01T10:00:00.jpg", "s3:a.jpg", "a: b/c: d.jpg"])
def test_a_name_with_a_colon_is_no_address(name: str, tmp_path: Path) -> None:
    draw(tmp_path / name)
    converted(LlavaOptions(write_lines(tmp_path / "rows.jsonl", [row(name)])), tmp_path)
    assert [c.image_paths for c in records(tmp_path)] == [(f"train/{name}",)]


# LLaMA-Factory -------------------------------------------------------------------------------------------------------


def described(folder: Path, entries: dict[str, Any]) -> Path:
    messages = [{"who": "me", "said": "u"}, {"who": "it", "said": "a"}]
    write_lines(folder / "own.jsonl", [{"talk": messages}])
    write_lines(folder / "usual.jsonl", [row(None, "u")])
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return folder


TAGS = {"role_tag": "who", "content_tag": "said", "user_tag": "me", "assistant_tag": "it"}
OWN = {"file_name": "own.jsonl", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS}


@pytest.mark.parametrize(("name", "dataset", "rows"), [("", None, 2), ("own.jsonl", None, 1), ("", "mine", 1)])
def test_dataset_info_names_files_columns_and_roles(name: str, dataset: str | None, rows: int, tmp_path: Path) -> None:
    folder = described(tmp_path / "in", {"other": {"hf_hub_url": "x/y"}, "mine": OWN})
    outcome = converted(SharegptOptions(folder / name, dataset=dataset), tmp_path)
    assert outcome.manifest.accounting.written == rows
    assert "own.jsonl (JSON lines, by dataset_info.json)" in outcome.manifest.source
    assert outcome.manifest.options["entries"] == {"own.jsonl": OWN}


@pytest.mark.parametrize(
    ("entries", "dataset", "what"),
    [
        ({"mine": OWN | {"formatting": "alpaca"}}, None, "not of the format sharegpt"),
        ({"mine": OWN}, "another", "no entry 'another' \\(found mine\\)"),
        ({"mine": {"hf_hub_url": "x/y"}}, "mine", "names no file"),
        ({"mine": OWN | {"file_name": "gone.json"}}, "mine", "not beside it"),
        ([], None, "no object of datasets"),
    ],
)
def test_a_wrong_dataset_info_is_reported(entries: Any, dataset: str | None, what: str, tmp_path: Path) -> None:
    folder = described(tmp_path / "in", entries)
    with pytest.raises(SourceError, match=what):
        converted(SharegptOptions(folder, dataset=dataset), tmp_path)


# Real files ----------------------------------------------------------------------------------------------------------

XTUNER = {"images": "xtuner", "marker": "<IMG_CONTEXT>"}
LMMS = {"images": "llava_lmms_finetune/images"}
QUESTIONS = "llava_official/playground/data/coco2014_val_qa_eval/qa90_questions.jsonl"
REAL: list[tuple[str, str, dict[str, Any], int, dict[str, int]]] = [
    ("llava", "llava_lmms_finetune/single_image.json", LMMS, 0, {"missing-image": 2}),
    ("llava", "llava_lmms_finetune/multi_images.json", LMMS, 1, {"missing-image": 1}),
    ("llava", QUESTIONS, {}, 0, {"missing-image": 90}),
    ("llava", "qwen_vl_finetune/single_images.json", {"images": "qwen_vl_finetune", "strip_folders": 1}, 3, {}),
    ("llava", "qwen_vl_finetune/video.json", {}, 0, {"unsupported-media": 3}),
    ("sharegpt", "mantis/train.json", {}, 22, {"missing-image": 78}),
    ("sharegpt", "sharegpt_llamafactory", {"dataset": "mllm_demo"}, 6, {}),
    ("swift", "ms_swift/data", {}, 10, {"missing-image": 5}),
    ("trl", "xtuner/resource/mllm_sft_single_image_example_data.jsonl", XTUNER, 22, {}),
    ("trl", "xtuner/resource/mllm_sft_multi_image_example_data.jsonl", XTUNER, 11, {}),
    ("trl", "xtuner/resource/mllm_pretrain_image_example_data.jsonl", XTUNER, 0, {"bad-turns": 12}),
    ("trl", "xtuner/resource/openai_sft.jsonl", {}, 128, {}),
]


@pytest.mark.parametrize(("format", "name", "how", "written", "rejected"), REAL, ids=[entry[1] for entry in REAL])
def test_real_files_of_other_tools_convert(
    format: str, name: str, how: dict[str, Any], written: int, rejected: dict[str, int], shared: Path, tmp_path: Path
) -> None:
    root = shared / "samples/formats"
    how = how | ({"images": root / how["images"]} if "images" in how else {})
    options = OPTIONS[format](root / name, **how)
    if not written:
        with pytest.raises(NothingWritten, match=", ".join(f"{count} {code}" for code, count in rejected.items())):
            converted(options, tmp_path)
        return
    account = converted(options, tmp_path, arrow=True).manifest.accounting
    assert (account.written, account.rejected) == (written, rejected)
    assert account.inputs == written + sum(rejected.values())
    demand_valid(tmp_path / "out")


def test_real_rows_come_out_as_they_went_in(shared: Path, tmp_path: Path) -> None:
    folder = shared / "samples/formats/sharegpt_llamafactory"
    converted(SharegptOptions(folder / "mllm_demo.json"), tmp_path)
    original = json.loads((folder / "mllm_demo.json").read_text())
    rendered = [FORMATS["sharegpt"].render(record) for record in records(tmp_path, "sharegpt_train")]
    assert [record["messages"] for record in rendered] == [
        [{"role": m["role"], "content": m["content"]} for m in record["messages"]] for record in original
    ]
    assert [[f"train/{path}" for path in record["images"]] for record in original] == [r["images"] for r in rendered]
    image = "mllm_demo_data/1.jpg"
    assert (tmp_path / "out/images/train" / image).read_bytes() == (folder / image).read_bytes()


# Memory --------------------------------------------------------------------------------------------------------------

_LIST = """
import resource, sys
from pathlib import Path
from phiv_converters.chat_json.options import LlavaOptions
from phiv_data.convert.plan import make_plan
def listed(name):
    converter = LlavaOptions(Path(name)).open(Path("."))
    plan = make_plan(converter, converter.inputs(), Path(name + ".items"), Path("."))
    return plan.num_items, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
_, before = listed(sys.argv[1])
count, after = listed(sys.argv[2])
print(count, after - before)
"""


def test_a_row_costs_less_than_a_hundred_bytes_of_memory(tmp_path: Path) -> None:
    count = 40_000
    files = [str(tmp_path / name) for name in ("few.json", "many.json")]
    for name, rows in zip(files, (1000, count), strict=True):
        text = json.dumps(row(None, "text " * 100))
        Path(name).write_text(f"[{','.join([text] * rows)}]")
    run = subprocess.run([sys.executable, "-c", _LIST, *files], capture_output=True, text=True, check=True)
    found, grown = map(int, run.stdout.split())
    assert found == count
    assert grown < 100 * count, f"{grown / count:.0f} bytes a row, of a file of 600 bytes a row"


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_table_gives_the_records_of_the_same_rows_in_json(place: str, tmp_path: Path) -> None:
    data = draw(tmp_path / "a.png")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    rows = [
        {"messages": [*turns, {"role": "assistant", "content": [{"type": "text", "text": f"{i}"}]}]} for i in range(3)
    ]
    struct = [row | {"images": [{"bytes": data, "path": "a.png"}]} for row in rows]
    (tmp_path / "t/data").mkdir(parents=True)
    file = tmp_path / "t/data/train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(struct), file)
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    write_lines(tmp_path / "train.jsonl", [row | {"images": [uri]} for row in rows])
    convert(TrlOptions(file if place == "file" else tmp_path / "t"), tmp_path / "table", num_workers=0)
    convert(TrlOptions(tmp_path / "train.jsonl"), tmp_path / "json", num_workers=0)
    assert (tmp_path / "table/trl_train.jsonl").read_bytes() == (tmp_path / "json/trl_train.jsonl").read_bytes()
    assert next((tmp_path / "table/images").rglob("*.png")).read_bytes() == data


@pytest.mark.parametrize(
    "info",
    ['{"mine": {"file_name": "a.json"}, "mine": {}}', '{"mine": {"file_name": "a.json", "file_name": "b.json"}}', "[]"],
)
def test_an_ambiguous_dataset_info_is_an_error(info: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(info)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(SourceError, match=r"dataset_info.json: is no object of datasets"):
        convert(SharegptOptions(tmp_path), tmp_path / "out", num_workers=0)


def test_a_dataset_info_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_entries(tmp_path / "dataset_info.json") == {}
    (tmp_path / "dataset_info.json").write_bytes(b'\xef\xbb\xbf{"mine": {"file_name": "a.json"}}\n')
    assert read_entries(tmp_path / "dataset_info.json") == {"mine": {"file_name": "a.json"}}


# Val of rows that are all train -----------------------------------------------------------------------------------


def test_val_is_made_of_whole_groups_of_rows_with_an_image_in_common(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(40):
        Image.new("RGB", (8 + i, 8)).save(tmp_path / f"in/{i}.png")
    pairs = [row([f"{i}.png", f"{i + 1}.png"], f"<image><image>Which {i}?") for i in range(0, 39, 4)]
    rows = pairs + [row(f"{i}.png", f"<image>Which one, {i}?") for i in range(39)]
    source = write_lines(tmp_path / "in/rows.jsonl", rows)
    outcome = converted(LlavaOptions(source), tmp_path, val_fraction=0.2)
    counts = {split.name: split.rows for split in outcome.manifest.splits}
    assert counts.keys() == {"train", "val"}
    assert 2 <= counts["val"] <= 20
    assert f"{counts['val']} of 49 rows, by whole groups" in outcome.warnings[-1]
    leaks = {"PV240", "PV241", "PV242", "PV243"}
    assert not validate(tmp_path / "out", source=source).counts().keys() & leaks
    again = convert(LlavaOptions(source, val_fraction=0.2, seed=7), tmp_path / "seed", num_workers=0)
    assert [split.jsonl.sha256 for split in again.manifest.splits] != [s.jsonl.sha256 for s in outcome.manifest.splits]


def test_no_val_is_made_where_the_split_is_said(tmp_path: Path) -> None:
    rows = [row(None, f"q{i}") for i in range(30)]
    source = write_lines(tmp_path / "in/rows.jsonl", rows)
    for name, options in (
        ("said", LlavaOptions(source, split="train")),
        ("zero", LlavaOptions(source, val_fraction=0)),
        ("made", LlavaOptions(source)),
    ):
        outcome = convert(options, tmp_path / name, num_workers=0)
        assert [split.name for split in outcome.manifest.splits] == ["train", "val"][: 1 + (name == "made")]
    export(Llava(), tmp_path / "said", tmp_path / "export")
    outcome = convert(LlavaOptions(tmp_path / "export"), tmp_path / "back", num_workers=0)
    assert [(split.name, split.rows) for split in outcome.manifest.splits] == [("train", 30)]
    outcome = convert(LlavaOptions(tmp_path / "export/train.json"), tmp_path / "file", num_workers=0)
    assert [split.name for split in outcome.manifest.splits] == ["train"]
    with pytest.raises(UsageError, match="--test_fraction: does not go with --split"):
        LlavaOptions(source, split="train", test_fraction=0.2)


def test_an_image_under_other_spellings_is_one(tmp_path: Path) -> None:
    (tmp_path / "in/img").mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (8 + i, 8)).save(tmp_path / f"in/img/{i}.png")
    spelled = [f"img/{i}.png" for i in range(12)] + [f"./img//{i}.png" for i in range(12)]
    spelled += [f"{tmp_path}/in/img/{i}.png" for i in range(12)]
    source = write_lines(tmp_path / "in/rows.jsonl", [row(path, f"<image>q {n}") for n, path in enumerate(spelled)])
    converted(LlavaOptions(source), tmp_path, val_fraction=0.3, arrow=True)
    assert "PV240" not in validate(tmp_path / "out").counts()


def test_an_image_of_rows_in_two_files_is_one(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "in/img").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i, 8)).save(tmp_path / f"in/img/{i}.png")
    for folder in ("a", "b"):
        rows = [row(f"../img/{i}.png", f"<image>{folder} {i}") for i in range(12)]
        write_lines(tmp_path / f"in/{folder}/{folder}.jsonl", rows)
    converted(LlavaOptions(tmp_path / "in"), tmp_path, val_fraction=0.3, arrow=True)
    assert "PV240" not in validate(tmp_path / "out").counts()


def test_an_image_outside_of_the_source_is_not_taken_for_its_namesake(tmp_path: Path) -> None:
    for number, name in enumerate(("in/img/0.png", "img/0.png")):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8 + number, 8)).save(tmp_path / name)
    source = write_lines(tmp_path / "in/rows.jsonl", [row("../img/0.png")])
    converted(LlavaOptions(source), tmp_path, arrow=True)
    (issue,) = validate(tmp_path / "out", source=source).issues
    assert (issue.code, "outside of the folder" in issue.message) == ("PV313", True)
