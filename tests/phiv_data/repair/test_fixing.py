"""--fix: a new data set, whole or not there; the old one untouched; every change in the log; damage is not copied."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from data_builders import image_bytes
from toy_converter import ToyOptions, draw_toy_source

from phiv_converters.own_jsonl.convert import open_jsonl
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data import repair
from phiv_data.cli.validate import main
from phiv_data.convert.engine import convert
from phiv_data.repair import FixResult, fix
from phiv_data.repair.lines import parse_log_entry
from phiv_data.repair.records import undo
from phiv_data.storage.dataset import ConversationDataset, read_manifest
from phiv_data.storage.jsonl import read_jsonl, write_jsonl
from phiv_data.validation import validate
from phiv_schemas import Conversation, PhivError, ShardError, UsageError


def row(number: int, *paths: str, user: str = "What is it?", **more: Any) -> dict[str, Any]:
    turn = {"images": list(paths), "user": f"{user} ({number})", "assistant": "a fox"} | more
    return {"id": f"r{number}", "source": "synthetic", "conversations": [turn]}


def write(folder: Path, *rows: Any, name: str = "val.jsonl", images: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    raw = [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in rows]
    (folder / name).write_bytes(b"".join(raw))
    for path, data in (images or {}).items():
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / path).write_bytes(data)
    return folder / name


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


PNG, JPEG, SMALL_JPEG = image_bytes(1), image_bytes(2, kind="JPEG"), image_bytes(3, (4, 3), "JPEG")
MESSY = [
    b"\xef\xbb\xbf" + json.dumps(row(0, "a.jpg", user="cafe\u0301")).encode() + b"\r\n",
    b"  \n",
    row(1, "b.png", "a.jpg", image_offsets=[9, 3]),
    {"source": "synthetic", "id": "r2", "conversations": [{"user": "And this?"}]},
    b'{"id": 3,  "source":"synthetic", "conversations": [{"images": ["b.png"], "user": "?", "assistant": "b"}]}\n',
    b"{\n",
    b'{"id":"r5", "source":"synthetic", "conversations":[{"images":["b.png"],"user":"Kept?","assistant":"yes"}]}',
]
IMAGES = {"a.jpg": PNG, "b.png": PNG, "unused.png": PNG}


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    return write(tmp_path / "data", *MESSY, images=IMAGES)


def test_the_fixed_set_has_none_of_what_was_fixed_and_all_else(messy: Path, tmp_path: Path) -> None:
    before = validate(messy)
    fixed = fix(messy, tmp_path / "out")
    after = validate(fixed.path)
    gone = {"PV006": 1, "PV110": 1, "PV224": 1}  # a.jpg is not looked at in the row with bad offsets
    assert {code: before.counts()[code] for code in gone} == gone
    assert not after.counts().keys() & gone.keys()
    assert (before.counts()["PV002"], after.counts()["PV002"]) == (4, 1)
    assert (after.counts()["PV001"], after.rows) == (before.counts()["PV001"], before.rows)
    assert fixed == FixResult(
        tmp_path / "out" / "val.jsonl", 6, 3, 2, 2, 0,
        {"mark": 1, "nfc": 1, "suffix": 2, "offsets": 2, "missing": 2, "order": 2}, fixed.examples,
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["a.png", "b.png"]


def test_the_old_set_is_not_touched(messy: Path, tmp_path: Path) -> None:
    before = state(messy.parent)
    fix(messy, tmp_path / "out")
    assert state(messy.parent) == before


def test_lines_that_need_no_fix_and_lines_that_stay_bad_keep_their_bytes(messy: Path, tmp_path: Path) -> None:
    old = messy.read_bytes().split(b"\n")
    new = fix(messy, tmp_path / "out").path.read_bytes().split(b"\n")
    assert len(old) == len(new)
    assert [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b] == [0, 2, 3]


def test_every_change_is_in_the_log_and_can_be_undone(messy: Path, tmp_path: Path) -> None:
    fixed = fix(messy, tmp_path / "out")
    log = list(map(parse_log_entry, (tmp_path / "out" / "phiv-fixes.jsonl").read_bytes().splitlines()[:-1]))
    assert len(log) == sum(fixed.counts.values())
    assert {file for file, *_ in log} == {"val.jsonl"}
    old, new = messy.read_bytes().split(b"\n"), fixed.path.read_bytes().split(b"\n")
    for line in {number for _, number, *_ in log}:
        changes = [change for _, number, change, _ in log if number == line]
        was = old[line - 1].removeprefix(b"\xef\xbb\xbf")
        assert json.dumps(undo(json.loads(new[line - 1]), changes)) == json.dumps(json.loads(was))


def test_a_new_name_is_never_one_that_is_taken(tmp_path: Path) -> None:
    rows = [row(0, "a.jpg"), row(1, "a.png"), row(2, "c.jpg"), row(3, "c.png"), row(4, "d.jpg"), row(5, "d.jpg.png")]
    there = {"a.jpg": PNG, "a.png": JPEG, "c.jpg": PNG, "d.jpg": PNG, "d.png": PNG, "d.jpg.png": PNG}
    data = write(tmp_path / "data", *rows, row(6, "d.png"), images=there)  # c.png is missing, and stays so
    fixed = fix(data, tmp_path / "out")
    found = [record.image_paths[0] for record in read_jsonl(fixed.path)]
    assert found == ["a.jpg.png", "a.png.jpg", "c.jpg.png", "c.png", "d.jpg", "d.jpg.png", "d.png"]
    for old, new in zip((row["conversations"][0]["images"][0] for row in [*rows, row(6, "d.png")]), found, strict=True):
        copy = tmp_path / "out" / "images" / new
        assert there.get(old) == (copy.read_bytes() if copy.exists() else None)
    assert {c: n for c, n in validate(fixed.path).counts().items() if c != "PV203"} == {"PV101": 1, "PV110": 1}


def test_an_image_of_a_bad_line_keeps_its_name(tmp_path: Path) -> None:
    data = write(tmp_path / "data", row(0, "a.jpg"), row(1, "a.jpg", user=3), images={"a.jpg": PNG})
    bad = json.loads(data.read_text().splitlines()[1])
    bad["conversations"][0]["user"] = 3
    data.write_text(json.dumps(row(0, "a.jpg")) + "\n" + json.dumps(bad) + "\n")
    fixed = fix(data, tmp_path / "out")
    assert "suffix" not in fixed.counts
    assert (tmp_path / "out" / "images" / "a.jpg").read_bytes() == PNG


def test_images_that_lead_out_or_are_no_files_are_not_copied(tmp_path: Path) -> None:
    data = write(tmp_path / "data", row(0, "link.png"), row(1, "pipe.png"), row(2, "../x.png"), images={"a.png": PNG})
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "data/images/link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(tmp_path / "data/images/pipe.png")
    fixed = fix(data, tmp_path / "out")
    assert (fixed.num_images, fixed.images_left) == (0, 2)
    assert list((tmp_path / "out").rglob("*.png")) == []


def test_without_images_only_lines_are_fixed(messy: Path, tmp_path: Path) -> None:
    fixed = fix(messy, tmp_path / "out", images=False)
    assert "suffix" not in fixed.counts
    assert fixed.num_images == 0
    assert not (tmp_path / "out" / "images").exists()


def test_a_folder_of_files_shares_its_images(tmp_path: Path) -> None:
    write(tmp_path / "data", row(0, "a.jpg"), name="train.jsonl", images={"a.jpg": PNG})
    write(tmp_path / "data", row(1, "a.jpg"), name="val.jsonl")
    (tmp_path / "data" / "rejects.jsonl").write_text("no rows\n")
    fixed = fix(tmp_path / "data", tmp_path / "out")
    assert (fixed.path, fixed.num_images, fixed.counts) == (tmp_path / "out", 1, {"suffix": 2})
    assert sorted(p.name for p in (tmp_path / "out").glob("*.jsonl")) == [
        "phiv-fixes.jsonl",
        "train.jsonl",
        "val.jsonl",
    ]
    assert validate(tmp_path / "out").rows == 2


def test_it_is_whole_or_not_there(messy: Path, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fix(messy, tmp_path / "out", on_rows=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_twice_gives_the_same_bytes(messy: Path, tmp_path: Path) -> None:
    fix(messy, tmp_path / "one")
    fix(messy, tmp_path / "two")
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert [data for _, data in one.values()] == [data for _, data in two.values()]


def test_names_of_bad_lines_and_of_unused_files_are_not_taken(tmp_path: Path) -> None:
    images = {f"{name}.jpg": image_bytes(i) for i, name in enumerate("abcde")} | {"a.png": JPEG, "E.png": JPEG}
    bad = [
        b'{"id": "1", "conversations": [{"images": ["b.jpg"],}]}\n',
        json.dumps(row(2, "c.jpg")).replace('"source"', '"source": "s", "source"').encode() + b"\n",
        b'{"id": "3", "source": "s", "conversations": [{"images": "b.png", "user": "?", "assistant": "?"}]}\n',
    ]
    data = write(tmp_path / "data", *bad, *(row(k, f"{name}.jpg") for k, name in enumerate("abcde")), images=images)
    fixed = fix(data, tmp_path / "out")
    assert [r.image_paths[0] for r in map(read_one, fixed.path.read_bytes().splitlines()[3:])] == [
        "a.jpg.png", "b.jpg", "c.jpg", "d.png", "e.jpg.png"
    ]  # fmt: skip
    copies = {path.name: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
    assert copies == {new: images[f"{new[0]}.jpg"] for new in ("a.jpg.png", "b.jpg", "c.jpg", "d.png", "e.jpg.png")}


def read_one(line: bytes) -> Conversation:
    return Conversation.model_validate_json(line)


def test_a_second_fixing_keeps_the_log_and_the_ends_of_lines(messy: Path, tmp_path: Path) -> None:
    messy.write_bytes(messy.read_bytes().replace(b"\n", b"\r\n").replace(b"\r\r\n", b"\r\n"))
    once = fix(messy, tmp_path / "once")
    assert once.path.read_bytes().count(b"\r\n") == messy.read_bytes().count(b"\n")
    again = fix(tmp_path / "once", tmp_path / "twice")
    assert again.counts == {}
    logs = [(tmp_path / name / "phiv-fixes.jsonl").read_bytes() for name in ("once", "twice")]
    assert logs[0] == logs[1] != b""


def test_nothing_that_appears_at_the_place_is_touched(messy: Path, tmp_path: Path) -> None:
    def appear(count: int) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "precious").touch()

    with pytest.raises(UsageError, match="appeared while it was written"):
        fix(messy, tmp_path / "out", on_rows=appear)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_names_are_looked_up_again_in_every_run(tmp_path: Path) -> None:
    data = write(tmp_path / "data", row(0, "a.jpg"), images={"a.jpg": PNG})
    fix(data, tmp_path / "one")
    (tmp_path / "data/images/a.png").write_bytes(JPEG)  # no row names it
    fix(data, tmp_path / "two")
    names = [[path.name for path in (tmp_path / out / "images").iterdir()] for out in ("one", "two")]
    assert names == [["a.png"], ["a.jpg.png"]]


def test_a_name_that_would_be_too_long_stays(tmp_path: Path) -> None:
    name = "x" * 251 + ".jpg"
    fixed = fix(write(tmp_path / "data", row(0, name), images={name: webp()}), tmp_path / "out")
    assert (fixed.counts, [path.name for path in (tmp_path / "out/images").iterdir()]) == ({}, [name])


def webp() -> bytes:
    return image_bytes(4, kind="WEBP")


def test_a_link_to_an_empty_folder_is_followed(messy: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fix(messy, tmp_path / "link")
    assert (tmp_path / "real" / "val.jsonl").is_file()


@pytest.mark.parametrize("where", ["data", "data/fixed", "full", "file", "file/below", "data/images/x"])
def test_never_in_place_nor_over_anything(messy: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    before = state(tmp_path)
    with pytest.raises(UsageError, match=r"already exists|is in|is a file"):
        fix(messy.parent, tmp_path / where)
    assert state(tmp_path) == before


def test_other_tools_rows_are_to_be_converted_first(tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"image": "a.png", "conversations": [{"from": "human", "value": "<image>?"}]})
    with pytest.raises(UsageError, match=r"has llava rows.*phiv-convert llava"):
        fix(data, tmp_path / "out")
    with pytest.raises(UsageError, match="has no jsonl file to fix"):
        fix(tmp_path, tmp_path / "out")


# What phiv-convert wrote --------------------------------------------------------------------------------------------


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Two splits with shards, a question in two characters where Unicode has one, and a JPEG that is called .png."""
    source = draw_toy_source(tmp_path / "source", {"train": ["fox", "owl"], "val": ["cat"]})
    (source / "train" / "owl.png").write_bytes(SMALL_JPEG)
    options = ToyOptions(source, splits=("train", "val"), question="Que\u0301?")
    convert(options, tmp_path / "data", num_workers=0)
    return tmp_path / "data"


def test_a_converted_folder_stays_one(converted: Path, tmp_path: Path) -> None:
    assert set(validate(converted).counts()) >= {"PV110", "PV224"}
    fixed = fix(converted, tmp_path / "out")
    report = validate(tmp_path / "out")
    assert not {"PV110", "PV224"} & report.counts().keys()
    assert report.ok, report.issues
    assert fixed.counts == {"nfc": 3, "suffix": 1}
    for split in ("train", "val"):
        old, new = (ConversationDataset(path, split, verify="sha256") for path in (converted, tmp_path / "out"))
        assert [row.conversation for row in new] == list(read_jsonl(tmp_path / "out" / f"toy_{split}.jsonl"))
        assert [[i.data for i in row.images] for row in new] == [[i.data for i in row.images] for row in old]
        assert [unicodedata.normalize("NFC", row.conversation.turns[0].user) for row in old] == [
            row.conversation.turns[0].user for row in new
        ]
    assert (tmp_path / "out" / "images" / "train" / "owl.jpg").read_bytes() == SMALL_JPEG
    manifest = read_manifest(tmp_path / "out")
    assert manifest.options["fixed"] == fixed.counts
    assert manifest.accounting == read_manifest(converted).accounting


def test_phiv_convert_does_not_take_the_copy_for_its_own(converted: Path, tmp_path: Path) -> None:
    fix(converted, tmp_path / "out")
    options = ToyOptions(tmp_path / "source", splits=("train", "val"), question="Que\u0301?")
    with pytest.raises(UsageError, match="differs in fixed"):
        convert(options, tmp_path / "out", num_workers=0)


@pytest.mark.parametrize("damaged", ["images/train/fox.png", "arrow/val/data-00000-of-00001.arrow", "toy_val.jsonl"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_damage_is_not_copied(converted: Path, tmp_path: Path, damaged: str, is_gone: bool) -> None:
    file = converted / damaged
    data = file.read_bytes()
    file.unlink()
    if not is_gone:
        file.write_bytes(data[:-20] + bytes(20))
    with pytest.raises(ShardError, match=r"--overwrite, then fix"):
        fix(converted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_converted_folder_without_shards_stays_without(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "source", {"val": ["cat"]})
    convert(ToyOptions(source, splits=("val",)), tmp_path / "data", num_workers=0, arrow=False)
    fix(tmp_path / "data", tmp_path / "out")
    assert validate(tmp_path / "out").ok
    assert not (tmp_path / "out" / "arrow").exists()


# The command --------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-validate", *map(str, args)])
    return main()


def test_the_command_says_what_it_did_and_checks_the_copy(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, messy, "--fix", tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 3 of 6 rows fixed, 2 images copied\n" in out
    assert '         val.jsonl:1: $.conversations[0].user: "cafe\\u0301 (0)" -> "caf\\u00e9 (0)"\n' in out
    assert "  2 of 6 rows left as they are: they break the format otherwise\n" in out
    assert out.endswith("(1 PV001 invalid-json, 1 PV002 schema, 1 PV403 unlabeled)\n")


def test_a_report_on_stdout_is_nothing_but_the_report(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, converted, "--fix", tmp_path / "out", "--format", "json") == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["path"] == str(tmp_path / "out")
    assert "3 of 3 rows fixed" in streams.err


@pytest.mark.parametrize(
    "flags",
    [
        ["--ignore", "PV000"], ["--max_issues", "0"], ["--max_tokens", "9"], ["--source", "x"], ["--images_root", "no"],
    ],
)  # fmt: skip
def test_wrong_flags_are_reported_before_anything_is_written(
    messy: Path, tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, messy, "--fix", tmp_path / "out", *flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_errors_are_one_line(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, messy, "--fix", messy.parent) == 2
    assert run(monkeypatch, messy, messy, "--fix", tmp_path / "out") == 2
    assert run(monkeypatch, tmp_path / "none.jsonl", "--fix", tmp_path / "out") == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert issubclass(UsageError, PhivError)


def test_images_root_is_where_the_old_images_are(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (messy.parent / "images").rename(tmp_path / "elsewhere")
    run(monkeypatch, messy, "--images_root", tmp_path / "elsewhere", "--fix", tmp_path / "out")
    assert "3 of 6 rows fixed, 2 images copied" in capsys.readouterr().out


def test_a_row_written_by_phiv_is_as_phiv_writes_it(tmp_path: Path, messy: Path) -> None:
    records = read_records(fix(messy, tmp_path / "out").path)
    write_jsonl(tmp_path / "again.jsonl", records)
    new = (tmp_path / "out" / "val.jsonl").read_bytes().split(b"\n")
    again = (tmp_path / "again.jsonl").read_bytes().split(b"\n")
    assert [new[i].rstrip(b"\r") for i in (0, 2, 3)] == again[:3]


def read_records(path: Path) -> list[Any]:
    from phiv_data.storage.jsonl import read_lines

    return [line.conversation for line in read_lines(path) if line.conversation]


def test_rows_without_id_and_source_get_those_of_phiv_convert_jsonl(tmp_path: Path) -> None:
    data, turn = tmp_path / "data", {"images": [], "user": "Which bird?", "assistant": "a wren"}
    data.mkdir()
    given = {"id": "x", "source": "me", "conversations": [turn]}
    train = [{"conversations": [turn]}, given, {"id": "y", "conversations": [turn]}, {"conversations": [turn]}]
    (data / "birds_train.jsonl").write_text("\n\n".join(map(json.dumps, train)) + "\n")
    (data / "birds_val.jsonl").write_text(json.dumps({"conversations": [turn]}) + "\n")
    report = validate(data)
    assert [(issue.code, issue.file) for issue in report.issues if issue.code == "PV404"] == [
        *(("PV404", "birds_train.jsonl"), ("PV404", "birds_val.jsonl")),
    ]
    assert report.ok
    fix(data, tmp_path / "fixed")
    assert not validate(tmp_path / "fixed").counts().get("PV404")
    convert(open_jsonl(JsonlOptions(data), tmp_path / "work"), tmp_path / "out", num_workers=0)
    for name in ("birds_train.jsonl", "birds_val.jsonl"):
        lines = [line for line in (tmp_path / "fixed" / name).read_text().splitlines() if line]
        assert lines == (tmp_path / "out" / name).read_text().splitlines()
    repair.undo(tmp_path / "fixed", tmp_path / "again")
    assert (tmp_path / "again/birds_train.jsonl").read_bytes() == (data / "birds_train.jsonl").read_bytes()


def test_a_row_without_id_in_a_converted_folder_is_an_error(converted: Path) -> None:
    path = next(converted.glob("*_train.jsonl"))
    path.write_text(path.read_text().replace('"id": "', '"ix": "', 1))
    assert "PV002" in validate(converted).counts()


def test_a_log_of_fixes_of_odd_bytes_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"conversations": []}\n')
    (tmp_path / "phiv-fixes.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match="log of fixes"):
        fix(tmp_path / "mine.jsonl", tmp_path / "fixed")
