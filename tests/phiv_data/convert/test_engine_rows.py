"""What the engine makes of drafts: ids and sources of their own, shared images, duplicates, any splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from list_converter import ListOptions, Row
from toy_converter import ToyOptions, draw_toy_source

from phiv_data import ConversationDataset, read_jsonl, validate
from phiv_data.convert import assemble, tasks
from phiv_data.convert.base import Duplicate, Inputs, Item
from phiv_data.convert.engine import convert
from phiv_data.storage.shards import plan_shards
from phiv_schemas import Conversation, Manifest, Sharing, SourceError


def rows(out: Path, split: str = "train") -> list[Conversation]:
    return list(read_jsonl(out / f"listed_{split}.jsonl"))


def run(out: Path, *given: Row, workers: int = 0, **more: object) -> Manifest:
    return convert(ListOptions(given, **more), out, num_workers=workers).manifest  # type: ignore[arg-type]


def test_a_draft_may_have_an_id_and_a_source_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, Row(id="mine", source="theirs"), Row())
    assert [(r.id, r.source) for r in rows(tmp_path)] == [("mine", "theirs"), ("train-0000000001", "listed")]


def test_every_row_of_every_split_is_written_whatever_the_splits_are_called(tmp_path: Path) -> None:
    splits = ("train", "val", "dev", "test1", "test2")
    manifest = run(tmp_path, *[Row(split=s) for s in reversed(splits)], splits=splits)
    assert [s.name for s in manifest.splits] == list(splits)
    assert [rows(tmp_path, s)[0].id for s in splits] == [f"{s}-{i:010d}" for i, s in enumerate(splits)]
    assert [len(ConversationDataset(tmp_path, s)) for s in splits] == [1] * 5
    assert validate(tmp_path).ok


def test_a_split_without_rows_is_written_where_it_is_listed(tmp_path: Path) -> None:
    run(tmp_path, Row(), splits=("train", "val"))
    assert rows(tmp_path, "val") == []
    assert len(ConversationDataset(tmp_path, "val")) == 0


def test_inputs_given_again_are_counted_and_named(tmp_path: Path) -> None:
    duplicates = (Duplicate("q1", "q1 (line 9)"), Duplicate("q0", "q0 (line 7)"), Duplicate("q1", "q1 (line 8)"))
    manifest = run(tmp_path, Row(), Row(answer="reject"), Row(answer=None), duplicates=duplicates)
    a = manifest.accounting
    assert (a.inputs, a.written, a.rejected, a.unlabeled, a.duplicates) == (6, 1, {"bad": 1}, 1, 3)
    assert manifest.duplicate_inputs == [["q0", "q0 (line 7)"], ["q1", "q1 (line 8)", "q1 (line 9)"]]
    assert "3 inputs are given again by the source" in (tmp_path / "README.md").read_text()


def test_other_duplicates_are_another_plan(tmp_path: Path) -> None:
    one = run(tmp_path / "one", Row())
    two = run(tmp_path / "two", Row(), duplicates=(Duplicate("a", "b"),))
    assert one.plan_sha256 != two.plan_sha256


def test_a_image_of_many_rows_is_staged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = tasks.atomic_write

    def counting(path: Path, **more: bool):  # type: ignore[no-untyped-def]
        written.append(path)
        return real(path, **more)

    monkeypatch.setattr(tasks, "atomic_write", counting)
    manifest = run(tmp_path, *[Row(images=(("page.png", 7),))] * 5)
    assert [path.name for path in written if path.suffix == ".png"] == ["page.png"]
    assert (manifest.splits[0].rows, manifest.splits[0].num_images) == (5, 1)
    assert [len(sample.images) for sample in ConversationDataset(tmp_path, "train")] == [1] * 5


@pytest.mark.parametrize("workers", [0, 2])
def test_two_images_under_one_path_are_an_error_that_names_both_rows(tmp_path: Path, workers: int) -> None:
    """Rows of far-off tasks, which different processes make."""
    given = [Row()] * 2100
    given[5] = Row(images=(("a/page.png", 1),))
    given[2099] = Row(images=(("a/page.png", 2),))
    with pytest.raises(SourceError, match=r"images/a/page.png: .*'train-0000000005'.*'train-0000002099'"):
        run(tmp_path / "out", *given, workers=workers)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_two_images_under_one_path_in_one_row_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"images/page.png: "):
        run(tmp_path / "out", Row(images=(("page.png", 1), ("page.png", 2))))


def test_two_rows_with_one_id_are_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"listed: two rows have the id 'train-0000000001'"):
        run(tmp_path / "out", Row(id="train-0000000001"), Row())


def test_a_staged_image_of_the_right_size_but_other_bytes_is_written_again(tmp_path: Path) -> None:
    """A power cut can leave zeros."""
    staged = tmp_path / ".phiv" / "stage" / "images" / "page.png"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(bytes(40))
    run(tmp_path, Row(images=(("page.png", 7),)))
    assert (tmp_path / "images" / "page.png").read_bytes() == b"\7" * 40


def test_an_input_that_kills_its_process_is_found_among_many(tmp_path: Path) -> None:
    given = [Row()] * 300
    given[200] = Row(kills=True)
    manifest = run(tmp_path, *given, workers=1)
    assert (manifest.accounting.written, manifest.accounting.rejected) == (299, {"crashed": 1})
    assert (tmp_path / "rejects.jsonl").stat().st_size


@pytest.mark.parametrize("keys", [("a", "b", "b"), ("b", "a", "b")])
def test_an_input_listed_twice_is_an_error(
    tmp_path: Path, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = tuple(Item("train", key, b"", 0) for key in keys)
    monkeypatch.setattr(ListOptions, "inputs", lambda self: Inputs(items))
    with pytest.raises(SourceError, match="input 'b' is listed twice in 'train'"):
        run(tmp_path / "out", Row())


def test_shards_that_begin_and_end_inside_tasks_hold_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "plan_shards", lambda sizes: plan_shards(sizes, 6000))
    given = [Row(split="val" if i % 3 else "train", answer="reject" if i % 7 == 0 else "yes") for i in range(1500)]
    manifest = run(tmp_path, *given, splits=("train", "val"))
    assert [len(split.shards) > 5 for split in manifest.splits] == [True, True]
    for split in ("train", "val"):
        data = ConversationDataset(tmp_path, split)
        assert [data.conversation(i) for i in range(len(data))] == rows(tmp_path, split)
    assert validate(tmp_path).ok


def test_what_a_converter_declares_of_its_images_is_in_the_manifest(tmp_path: Path) -> None:
    class Sharer(ListOptions):
        sharing = Sharing(group="page", group_pattern=r"(\w+)\.png", shares=("similar",))

    assert convert(Sharer((Row(),)), tmp_path / "out", num_workers=0).manifest.sharing == Sharer.sharing
    run(tmp_path / "plain", Row())
    assert "sharing" not in (tmp_path / "plain/manifest.json").read_text()


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (10, ["a", "b_bad"], []),
        (
            40,
            ["a", "b_bad", "c_bad", "d_bad"],
            ["val has 2.4% of the rows, 9.1% were planned (rejected: 3 of "],
        ),
        (40, ["a_bad", "b_bad"], ["val has no rows (rejected: 2 of its 2 inputs). Correct them, then pass --update"]),
        (40, ["a", "b_unlabeled", "c_unlabeled"], []),
    ],
)
def test_a_split_that_rejects_leave_with_another_share_is_named(
    train: int, val: list[str], said: list[str], tmp_path: Path
) -> None:
    source = draw_toy_source(tmp_path / "toy", {"train": [f"t{i}" for i in range(train)], "val": val})
    warnings = convert(ToyOptions(source), tmp_path / "out", num_workers=0).warnings
    assert [warning.startswith(text) for warning, text in zip(warnings, said, strict=True)] == [True] * len(said)


def test_rejects_of_train_that_leave_too_much_val_are_named(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "toy", {"train": ["a", *(f"{i}_bad" for i in range(9))], "val": ["b"]})
    (warning,) = convert(ToyOptions(source), tmp_path / "out", num_workers=0).warnings
    assert warning.startswith("val has 50.0% of the rows, 9.1% were planned (rejected: 0 of its 1 inputs)")
