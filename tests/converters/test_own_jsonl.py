"""`jsonl`: the user's own rows come back as they are, or are rejected with what is wrong with them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data import ConversationDataset, read_jsonl, validate
from phiv_data.convert.engine import Outcome, convert
from phiv_data.testing import check_converter
from phiv_schemas import Conversation, PhivError, Reject, SourceError, UsageError


def record(number: int = 0, *, images: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    turn = {"images": list(images), "user": f"Question {number}?", "assistant": "yes"}
    return {"id": f"mine-{number}", "source": "own", "conversations": [turn], **more}


def write(path: Path, *rows: Any) -> Path:
    """One line per row: text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def draw(path: Path, number: int = 0) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (number % 256, 99, 7)).save(path)
    return path.read_bytes()


def run(source: Path, out: Path, **options: Any) -> Outcome:
    return convert(JsonlOptions(source, **options), out, num_workers=0)


def rejects(out: Path) -> list[Reject]:
    return [Reject.model_validate_json(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits and three images, one of them shown twice."""
    data = tmp_path / "data"
    for k in range(3):
        draw(data / "images" / "a" / f"{k}.png", k)
    write(data / "my_val.jsonl", record(9))
    write(data / "my_train.jsonl", record(0, images=["a/0.png"]), record(1, images=["a/1.png", "a/2.png"]))
    return data


def test_it_passes_the_conformance_kit(folder: Path) -> None:
    other = (lambda source: JsonlOptions(source, name="other"),)
    check_converter(JsonlOptions, folder, changed=other, damaged="images/a/0.png")


def test_a_folder_becomes_a_checked_dataset_with_its_bytes(folder: Path, tmp_path: Path) -> None:
    manifest = run(folder, tmp_path / "out").manifest
    assert [(split.name, split.rows) for split in manifest.splits] == [("train", 2), ("val", 1)]
    assert manifest.source == "jsonl in phiv's format (my_train.jsonl is train, my_val.jsonl is val, by name)"
    assert (tmp_path / "out" / "my_train.jsonl").read_bytes() == (folder / "my_train.jsonl").read_bytes()
    assert (tmp_path / "out" / "images/a/0.png").read_bytes() == (folder / "images/a/0.png").read_bytes()
    sample = ConversationDataset(tmp_path / "out", "train")[1]
    assert [image.data for image in sample.images] == [(folder / f"images/a/{k}.png").read_bytes() for k in (1, 2)]
    assert validate(tmp_path / "out").ok


def test_an_output_of_phiv_is_an_input_again(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "one")
    run(tmp_path / "one", tmp_path / "two")
    for name in ("my_train.jsonl", "my_val.jsonl", "images.sha256"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def _conversations() -> st.SearchStrategy[list[Conversation]]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "phiv_data"))
    from data_builders import conversations

    return st.lists(conversations(), max_size=5, min_size=1, unique_by=lambda c: c.id)


@given(given=_conversations())
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_any_rows_come_back_in_order_and_whole(
    given: list[Conversation], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every optional field, blank texts and odd ids included; of rows with images the images are left out."""
    bare = []
    for c in given:
        turns = tuple(t.model_copy(update={"images": (), "image_offsets": None}) for t in c.turns)
        bare.append(c.model_copy(update={"conversations": turns}))
    tmp = tmp_path_factory.mktemp("any")
    write(tmp / "train.jsonl", *(c.to_line() for c in bare))
    convert(JsonlOptions(tmp / "train.jsonl"), tmp / "out", num_workers=0, include_unlabeled=True)
    assert list(read_jsonl(tmp / "out" / "own_train.jsonl")) == bare


def test_optional_fields_and_offsets_are_kept(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "p.png")
    row = record(images=["p.png"], system="Be brief.")
    row["conversations"][0] |= {"answers": ["yes", "Yes."], "image_offsets": [4]}
    source = write(tmp_path / "my.jsonl", row)
    run(source, tmp_path / "out")
    assert (tmp_path / "out" / "my_train.jsonl").read_bytes() == source.read_bytes()


def test_rows_without_id_and_source_are_given_them(tmp_path: Path) -> None:
    row = record()
    del row["id"], row["source"]
    outcome = run(write(tmp_path / "birds_val.jsonl", row, record(1)), tmp_path / "out")
    rows = list(read_jsonl(tmp_path / "out" / "birds_val.jsonl"))
    assert [(r.id, r.source) for r in rows] == [("val-0000000000", "birds"), ("mine-1", "own")]
    assert outcome.warnings == ("1 rows have no id and are given one",)


def test_a_row_given_twice_is_written_once_and_counted(tmp_path: Path) -> None:
    """Spaces and the order of keys do not make another row; neither does another split."""
    again = json.dumps(dict(reversed(record(0).items())), separators=(",", ":"))
    write(tmp_path / "in" / "train.jsonl", record(0), record(1), again)
    write(tmp_path / "in" / "val.jsonl", record(1), record(2))
    manifest = run(tmp_path / "in", tmp_path / "out").manifest
    assert [split.rows for split in manifest.splits] == [2, 1]
    assert (manifest.accounting.inputs, manifest.accounting.duplicates) == (5, 2)
    assert manifest.duplicate_inputs == [
        ["train.jsonl:1", "train.jsonl:3"],
        ["train.jsonl:2", "val.jsonl:1"],
    ]


def test_another_row_with_the_same_id_is_rejected_with_where_the_first_is(tmp_path: Path) -> None:
    run(write(tmp_path / "train.jsonl", record(0), record(0, source="else")), tmp_path / "out")
    (reject,) = rejects(tmp_path / "out")
    assert (reject.input, reject.code) == ("train.jsonl:2", "duplicate-id")
    assert reject.reason == "$.id: the id is that of another row, at train.jsonl:1"


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ('{"id": ', "bad-row", "not valid JSON: the line ends while parsing a value at byte 6"),
        ("[]", "bad-row", "$: must be an object (found a list)"),
        (
            record(images=["../x.png"]),
            "bad-row",
            "$.conversations[0].images[0]: must not hold empty, '.' or '..' parts",
        ),
        (record(system=7), "bad-row", "$.system: must be a string (found 7)"),
        (record(id=7), "bad-row", "$.id: must be a string (found 7)"),
        ('{"id": "a", "id": "b", "conversations": []}', "bad-row", "$: duplicate key 'id'"),
        ({"conversations": [{"images": [], "user": "u"}]}, "bad-row", "$.conversations[0].assistant: required key"),
        (record(images=["gone.png"]), "missing-image", "no file 'gone.png' below images/"),
        (record(images=["text.png"]), "not-an-image", "'text.png' below images/: no image format phiv accepts"),
        (record(images=["folder"]), "unreadable", "'folder' below images/: not a regular file"),
        ('{"id": "\\ud800", "source": "s", "conversations": []}', "bad-row", ""),
    ],
)
def test_a_bad_row_is_rejected_with_its_line_and_json_path(tmp_path: Path, line: Any, code: str, reason: str) -> None:
    (tmp_path / "images" / "folder").mkdir(parents=True)
    (tmp_path / "images" / "text.png").write_text("text")
    manifest = run(write(tmp_path / "train.jsonl", "", record(5), line), tmp_path / "out").manifest
    (reject,) = rejects(tmp_path / "out")
    assert (reject.input, reject.code) == ("train.jsonl:3", code)
    assert reject.reason.startswith(reason)
    assert manifest.accounting.written == 1


def test_a_image_of_many_rows_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phiv_data.sources import image_index

    decoded, real = [], image_index.open_image
    monkeypatch.setattr(image_index, "open_image", lambda *a, **k: decoded.append(a) or real(*a, **k))  # type: ignore[func-returns-value]
    draw(tmp_path / "images" / "page.png")
    run(write(tmp_path / "train.jsonl", *(record(i, images=["page.png"]) for i in range(5))), tmp_path / "out")
    assert len(decoded) == 1


def test_byte_order_mark_windows_ends_and_blank_lines_are_understood(tmp_path: Path) -> None:
    text = "\r\n\r\n".join(json.dumps(record(i)) for i in range(3))
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    run(tmp_path / "train.jsonl", tmp_path / "out")
    assert [r.id for r in read_jsonl(tmp_path / "out" / "own_train.jsonl")] == ["mine-0", "mine-1", "mine-2"]


# Splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "options", "split", "name"),
    [
        ("my_val.jsonl", {}, "val", "my"),
        ("my-test2.jsonl", {}, "test2", "my"),
        ("dev.jsonl", {}, "dev", "own"),
        ("birds.jsonl", {}, "train", "birds"),
        ("my_val.jsonl", {"split": "pool", "name": "x"}, "pool", "x"),
        ("my_minival.jsonl", {}, "val", "my"),
        ("holdout.jsonl", {}, "test", "own"),
        ("my-trainval2.jsonl", {}, "train2", "my"),
        ("Größe (1)_val.jsonl", {}, "val", "Größe_1"),
    ],
)
def test_the_split_of_a_file_is_given_or_in_its_name(
    tmp_path: Path, file: str, options: dict[str, str], split: str, name: str
) -> None:
    manifest = run(write(tmp_path / file, record()), tmp_path / "out", **options).manifest
    assert [s.jsonl.path for s in manifest.splits] == [f"{name}_{split}.jsonl"]


def test_splits_of_a_folder_are_in_the_usual_order(tmp_path: Path) -> None:
    splits = ("train", "val", "dev", "test", "test1", "test2")
    for k, split in enumerate(reversed(splits)):
        write(tmp_path / "in" / f"{split}.jsonl", record(k))
    assert tuple(s.name for s in run(tmp_path / "in", tmp_path / "out").manifest.splits) == splits


def test_a_share_of_train_becomes_val_by_image_and_stays_when_rows_are_added(tmp_path: Path) -> None:
    for k in range(40):
        draw(tmp_path / "images" / f"{k}.png", k)
    rows = [record(i, images=[f"{i % 40}.png"]) for i in range(200)]
    ids: list[set[str]] = []
    for count in (120, 200):
        source, out = write(tmp_path / "my.jsonl", *rows[:count]), tmp_path / f"out{count}"
        run(source, out, val_fraction=0.25)
        val, train = (list(read_jsonl(out / f"my_{split}.jsonl")) for split in ("val", "train"))
        assert {r.image_paths for r in val}.isdisjoint({r.image_paths for r in train})
        assert len(val) + len(train) == count
        assert 0.1 < len(val) / count < 0.45
        ids.append({r.id for r in val})
    assert ids[0] == ids[1] & {row["id"] for row in rows[:120]}


@pytest.mark.parametrize(
    ("files", "options", "error", "message"),
    [
        (["a_train.jsonl", "b_train.jsonl"], {}, SourceError, "'a_train.jsonl' and 'b_train.jsonl' are both train"),
        (
            ["notes.jsonl"],
            {},
            SourceError,
            r"the name of 'notes.jsonl' does not end in a split .* pass this file alone",
        ),
        ([], {}, SourceError, "no \\*.jsonl in"),
        (["train.jsonl", "val.jsonl"], {"val_fraction": 0.5}, UsageError, r"--val_fraction: .*\(found train, val\)"),
        (["train.jsonl"], {"val_fraction": 1.0}, UsageError, "--val_fraction: must be 0 or more and below 1"),
        (["train.jsonl"], {"split": "val"}, UsageError, "--split: names the split of a single file"),
        (["train.jsonl"], {"name": "a/b"}, UsageError, "--name: must be letters"),
        (["train.jsonl"], {"images": Path("/no/such")}, UsageError, "--images: no such folder '/no/such'"),
    ],
)
def test_sources_that_will_not_do(
    tmp_path: Path, files: list[str], options: dict[str, Any], error: type[PhivError], message: str
) -> None:
    (tmp_path / "in").mkdir()
    for k, file in enumerate(files):
        write(tmp_path / "in" / file, record(k))
    with pytest.raises(error, match=message):
        run(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_web_page_under_the_name_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a web page"):
        run(write(tmp_path / "train.jsonl", "<!DOCTYPE html><html>Log in</html>"), tmp_path / "out")


def test_a_changed_row_of_the_same_length_is_seen(tmp_path: Path) -> None:
    run(write(tmp_path / "train.jsonl", record(1)), tmp_path / "out")
    with pytest.raises(UsageError, match="differs in files"):
        run(write(tmp_path / "train.jsonl", record(2)), tmp_path / "out")


# Memory -----------------------------------------------------------------------------------------------------------

LIMITED = """
import json, resource, sys
from pathlib import Path
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data.convert.engine import convert
import phiv_data.convert.assemble, phiv_data.utils.seen_index, phiv_data.storage.jsonl, phiv_data.storage.shards
import phiv_data.sources.image_index, pyarrow, sqlite3

source, out, space = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
convert(JsonlOptions(source / "warm.jsonl"), out / "warm", num_workers=0)  # pools and caches at their usual size
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # data and stack
resource.setrlimit(resource.RLIMIT_DATA, (used + space, used + space))
print(convert(JsonlOptions(source / "rows.jsonl"), out / "rows", num_workers=0).manifest.rows)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_hold_the_rows(tmp_path: Path) -> None:
    """5,000 rows of 16 kB, 80 MB as text and more as objects, with 48 MB of memory: one by one they fit."""
    padding = "x" * 16_000
    with (tmp_path / "rows.jsonl").open("w") as file:
        for i in range(5000):
            file.write(json.dumps(record(i, system=hashlib.sha256(b"%d" % i).hexdigest() + padding)) + "\n")
    write(tmp_path / "warm.jsonl", *(record(i, system=padding) for i in range(300)))
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(tmp_path / "out"), str(48 * 2**20)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "5000\n", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}]}), "phiv-convert trl"),
        (json.dumps(record(), indent=1), "one row over several lines. Write a row per line: jq -c"),
        (json.dumps({"a": record(), "b": record()}), "one object of rows by key"),
    ],
)
def test_rows_of_another_kind_say_what_they_are(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        run(write(tmp_path / "train.jsonl", text), tmp_path / "out")


def test_a_missing_image_comes_with_what_was_likely_meant(tmp_path: Path) -> None:
    draw(tmp_path / "images/a/0.png")
    draw(tmp_path / "b.png")
    rows = [record(0, images=["A/0.PNG"]), record(1, images=["b.png"]), record(2, images=["c/a/0.png"]), record(3)]
    run(write(tmp_path / "train.jsonl", *rows), tmp_path / "out")
    first, second, third = [reject.reason for reject in rejects(tmp_path / "out")]
    assert first == "no file 'A/0.PNG' below images/. Did you mean 'a/0.png'?"
    assert second == f"no file 'b.png' below images/. Pass --images {tmp_path}: it is there"
    assert third == "no file 'c/a/0.png' below images/. Did you mean 'a/0.png'?"


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 5000 + ".png", "z\0.png", "half\ud800.png", "é" * 200])
def test_a_name_that_no_file_can_have_costs_its_row_alone(name: str, tmp_path: Path) -> None:
    run(write(tmp_path / "train.jsonl", record(0, images=[name]), record(1)), tmp_path / "out")
    (reject,) = rejects(tmp_path / "out")
    assert (reject.input, len(reject.reason) < 300) == ("train.jsonl:1", True)


def test_rows_of_another_kind_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('[\n{"a": 1},\n{"a": 2}\n]\n')
    with pytest.raises(SourceError, match="no line of the source is a record with conversations"):
        convert(JsonlOptions(tmp_path / "train.jsonl"), tmp_path / "out", num_workers=0)


def test_a_converted_folder_keeps_splits_that_its_manifest_alone_knows(tmp_path: Path) -> None:
    rows = [{"images": [], "user": "q", "assistant": str(i)} for i in range(3)]
    for name, row in zip(("train", "extra", "test-dev"), rows, strict=True):
        line = json.dumps({"conversations": [row]}) + "\n"
        (tmp_path / f"{name}.jsonl").write_text(line)
        run(tmp_path / f"{name}.jsonl", tmp_path / name, split=name, name="birds")
    one = tmp_path / "test-dev"
    (again,) = run(one, tmp_path / "again").manifest.splits
    assert (again.name, again.jsonl.path) == ("test-dev", "birds_test-dev.jsonl")
    assert [split.name for split in run(tmp_path / "extra", tmp_path / "more").manifest.splits] == ["extra"]
