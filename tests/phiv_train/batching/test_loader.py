"""Rows to batches: exact, the same with any number of workers, and every failure names its row in one line."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixed_data import Exchange, any_rows, converted

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.utils.signals import STOPS
from phiv_schemas.errors import RecordError, ShardError
from phiv_train.batching.lengths import fit, measure
from phiv_train.batching.loader import Collate, EncodedRows, RowError, make_loader
from phiv_train.batching.plan import PlannedRow, PlanSpec, make_plan
from phiv_train.batching.sampler import PlanSampler
from phiv_train.batching.schedule import Schedule
from phiv_train.families.base import IGNORE, Encoded, get_family
from phiv_train.families.tiny import tiny_processor

TINY = get_family("tiny")
PROCESSOR = tiny_processor(2)
CLIP = Exchange(((60, 40),) * 32, "Which class?", "Archery")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ConversationDataset:
    """Rows of every shape, the last one long, one of text alone."""
    rows = [*any_rows(20), Exchange((), "2 + 2?", "4"), CLIP]
    return converted(tmp_path_factory.mktemp("data") / "data", *rows)


@pytest.fixture(scope="module")
def rows(data: ConversationDataset) -> EncodedRows:
    """All rows, with their lengths."""
    lengths = measure(data, TINY, PROCESSOR)
    return EncodedRows(data, TINY, PROCESSOR, fit(data, lengths, TINY, PROCESSOR, max_length=10_000))


def sampler_over(rows: EncodedRows, *, start: int = 0, **spec: Any) -> PlanSampler:
    """Two epochs over `rows`."""
    selection = rows.selection
    assert selection is not None
    settings = PlanSpec(**{"packs_per_step": 2, "max_tokens": 2000} | spec)
    loads = selection.lengths.tokens, selection.lengths.image_tokens
    return PlanSampler(
        Schedule(tuple(make_plan(*loads, settings, epoch=e, rows=selection.rows) for e in (0, 1))), start=start
    )


def test_a_row_is_what_the_family_encodes(rows: EncodedRows, data: ConversationDataset) -> None:
    for row, sample in enumerate(data):
        same(rows.encode(row), TINY.encode(sample.conversation, [image.open() for image in sample.images], PROCESSOR))


def test_a_padding_example_is_the_row_without_labels(rows: EncodedRows) -> None:
    for index in (0, 20, 21):
        padding = rows[PlannedRow(index, weight=0)]
        assert (padding.labels == IGNORE).all()
        same(replace(padding, labels=rows.encode(index).labels), rows.encode(index))
        same(rows[PlannedRow(index)], rows.encode(index))


def test_a_trimmed_row_has_its_planned_length_and_the_kept_images(data: ConversationDataset) -> None:
    lengths = measure(data, TINY, PROCESSOR)
    limit = int(lengths.tokens[21]) * 2 // 3
    selection = fit(data, lengths, TINY, PROCESSOR, max_length=limit, on_too_long="trim_images")
    kept = selection.kept_images[21]
    encoded = EncodedRows(data, TINY, PROCESSOR, selection).encode(21)
    assert len(encoded) == selection.lengths.tokens[21] <= limit
    assert len(encoded.media["image_sizes"]) == len(kept) < 32
    whole = EncodedRows(data, TINY, PROCESSOR).encode(21)
    crops = len(whole.media["crops"]) // 32
    expected = np.concatenate([whole.media["crops"][i * crops : (i + 1) * crops] for i in kept])
    assert np.array_equal(encoded.media["crops"], expected)


def test_batches_hold_the_rows_of_the_plan_and_do_not_depend_on_workers(rows: EncodedRows) -> None:
    sampler = sampler_over(rows)
    alone = list(make_loader(rows, sampler))
    together = list(make_loader(rows, sampler, num_workers=2))
    assert len(alone) == len(sampler)
    for planned, one, other in zip(sampler, alone, together, strict=True):
        expected = np.concatenate([rows[row].input_ids for row in planned])
        assert np.array_equal(one["input_ids"][0].numpy(), expected)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_workers_leave_stop_signals_to_the_main_process(rows: EncodedRows) -> None:
    loader = iter(make_loader(rows, sampler_over(rows), num_workers=1))
    for child in multiprocessing.active_children():  # before it has even started
        for stop in STOPS:
            os.kill(child.pid or 0, stop)
    next(loader)
    for child in multiprocessing.active_children():
        for stop in STOPS:
            os.kill(child.pid or 0, stop)
    assert len(list(loader)) == len(sampler_over(rows)) - 1


def test_a_resumed_loader_gives_the_remaining_batches(rows: EncodedRows) -> None:
    whole = list(make_loader(rows, sampler_over(rows)))
    resumed = list(make_loader(rows, sampler_over(rows, start=3)))
    assert len(resumed) == len(whole) - 3 * 2 > 0
    for one, other in zip(whole[3 * 2 :], resumed, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_padded_layout_pads_to_the_longest_of_the_pack(rows: EncodedRows) -> None:
    sampler = sampler_over(rows, layout="padded", max_rows=3, max_tokens=None)
    for planned, batch in zip(sampler, make_loader(rows, sampler, layout="right"), strict=True):
        lengths = [len(rows[row]) for row in planned]
        assert batch["input_ids"].shape == (len(planned), max(lengths))
        assert batch["attention_mask"].sum(1).tolist() == lengths


def test_a_batch_without_images_has_empty_media(rows: EncodedRows) -> None:
    text, both = (Collate(TINY, PROCESSOR)([rows.encode(r) for r in chosen]) for chosen in ([20], [20, 21]))
    assert text.keys() == both.keys()
    assert len(text["crops"]) == len(text["image_sizes"]) == 0
    assert text["crops"].shape[1:] == both["crops"].shape[1:]


def test_loading_leaves_torchs_global_generator_alone(rows: EncodedRows) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(make_loader(rows, sampler_over(rows)))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_pickle_small_and_work_again(rows: EncodedRows) -> None:
    rows.dataset[0]
    sent = pickle.dumps(rows)
    assert len(sent) < 200_000
    same(pickle.loads(sent).encode(5), rows.encode(5))


def test_importing_needs_no_torch() -> None:
    modules = ", ".join(f"phiv_train.batching.{name}" for name in ("loader", "sampler", "plan"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- failures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> EncodedRows:
    """Row 1's first image does not open; its shard is whole otherwise."""
    data = converted(tmp_path / "data", CLIP, replace(CLIP, assistant="Bowling"), Exchange((), "2 + 2?", "4"))
    lengths = measure(data, TINY, PROCESSOR)
    selection = fit(data, lengths, TINY, PROCESSOR, max_length=10_000)
    image = data[1].images[0].data
    (shard,) = (tmp_path / "data").glob("arrow/train/*.arrow")
    content = shard.read_bytes()
    assert content.count(image) == 1
    shard.write_bytes(content.replace(image, bytes(len(image))))
    dataset = ConversationDataset(tmp_path / "data", "train", verify="none")  # else its sha256 is found to differ
    return EncodedRows(dataset, TINY, PROCESSOR, selection)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_of_other_bytes_is_named_with_its_row(damaged: EncodedRows, num_workers: int) -> None:
    checked = replace(damaged, dataset=ConversationDataset(damaged.dataset.path, "train"))
    with pytest.raises(RowError, match=r"^train-0000000001: .*image 'train/000001\.0\.0\.png' was changed") as caught:
        list(make_loader(checked, sampler_over(checked), num_workers=num_workers))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_does_not_open_is_named_with_its_row(damaged: EncodedRows, num_workers: int) -> None:
    with pytest.raises(RowError) as caught:
        list(make_loader(damaged, sampler_over(damaged), num_workers=num_workers))
    assert str(caught.value).startswith("train-0000000001: train/000001.0.0.png: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_bad_row_that_is_skipped_keeps_its_place_without_labels_and_is_recorded(
    damaged: EncodedRows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lenient = replace(damaged, on_bad="skip", bad_file=tmp_path / "bad_rows.jsonl")
    encoded = lenient.encode(1)
    assert encoded.id == "train-0000000001"
    assert len(encoded) == lenient.selection.lengths.tokens[1]
    assert (encoded.labels == IGNORE).all()
    (line,) = (tmp_path / "bad_rows.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "train-0000000001"
    assert "train/000001.0.0.png" in json.loads(line)["reason"]
    assert "train-0000000001 is left out of training" in caplog.text
    same(lenient.encode(0), damaged.encode(0))
    assert len(list(make_loader(lenient, sampler_over(lenient)))) == len(sampler_over(lenient))


def test_wrong_stored_sizes_are_detected_before_the_batch_leaves(rows: EncodedRows) -> None:
    assert rows.selection is not None
    wrong = replace(rows.selection, lengths=replace(rows.selection.lengths, tokens=rows.selection.lengths.tokens + 1))
    with pytest.raises(RowError, match=r"train-0000000004: is \d+ tokens, not the \d+ its stored sizes give"):
        replace(rows, selection=wrong).encode(4)


def test_an_unlabeled_row_is_refused(tmp_path: Path) -> None:
    data = converted(tmp_path / "data", Exchange((), "?", None), include_unlabeled=True)
    with pytest.raises(RowError, match=r"train-0000000000.*nothing to learn"):
        EncodedRows(data, TINY, PROCESSOR).encode(0)


@dataclass(frozen=True)
class Mute:
    """A family that supervises nothing in a row, as a mask that missed its marker does."""

    def encode(self, *arguments: Any, **options: Any) -> Encoded:
        encoded = TINY.encode(*arguments, **options)
        return replace(encoded, labels=np.full_like(encoded.labels, IGNORE))


def test_a_row_without_a_single_label_is_refused(data: ConversationDataset) -> None:
    mute: Any = Mute()
    with pytest.raises(RowError, match=r"train-0000000004: has nothing to learn"):
        EncodedRows(data, mute, PROCESSOR).encode(4)


@dataclass(frozen=True)
class Lossy:
    """A family whose encoding loses one image slot, as truncation of tokens does."""

    def encode(self, *arguments: Any, **options: Any) -> Encoded:
        encoded = TINY.encode(*arguments, **options)
        keep = np.arange(len(encoded)) != int((encoded.input_ids == PROCESSOR.image_id).argmax())
        return replace(encoded, input_ids=encoded.input_ids[keep], labels=encoded.labels[keep])

    def __getattr__(self, name: str) -> Any:
        return getattr(TINY, name)


def test_placeholders_that_do_not_match_features_name_the_row(data: ConversationDataset) -> None:
    lossy: Any = Lossy()
    collate, lossy_rows = Collate(lossy, PROCESSOR), EncodedRows(data, lossy, PROCESSOR)
    with pytest.raises(RowError, match=r"train-0000000021: has \d+ image slots for \d+ image features"):
        collate([lossy_rows.encode(21)])


def test_a_row_error_is_itself_again_after_a_workers_traceback() -> None:
    error = RowError("train-1: a.png", "is broken (cut)", "Convert again")
    assert isinstance(error, RecordError)
    received = RowError(
        f"Caught RowError in DataLoader worker process 0.\nTraceback\nphiv_train.batching.loader.RowError: {error}\n"
    )
    assert str(received) == str(error) == str(pickle.loads(pickle.dumps(error)))


# -- a shard that changed on the disk ----------------------------------------------------------------------------------
def flip(path: Path, at: int) -> None:
    """Change one bit of a file, in place: who has mapped it sees that."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_changed_byte_is_never_trained_on(tmp_path: Path, data: ConversationDataset, rows: EncodedRows) -> None:
    """In any region of a shard: its row or image is an error, or nothing that a batch is made of has changed."""
    folder = tmp_path / "data"
    shutil.copytree(data.path, folder)
    shard = max(folder.rglob("*.arrow"), key=lambda path: path.stat().st_size)
    expected = [rows.encode(row) for row in range(len(data))]
    found, size = 0, shard.stat().st_size
    for at in range(0, size, size // 60):
        flip(shard, at)
        try:
            opened = EncodedRows(ConversationDataset(folder, data.split), TINY, PROCESSOR, rows.selection)
            for row, whole in enumerate(expected):
                same(opened.encode(row), whole)
        except (RecordError, ShardError):
            found += 1
        flip(shard, at)
    assert found > 30


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_changes_while_it_is_mapped_is_an_error(
    tmp_path: Path, data: ConversationDataset, rows: EncodedRows, num_workers: int
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data.path, folder)
    opened = EncodedRows(ConversationDataset(folder, data.split), TINY, PROCESSOR, rows.selection)
    row = next(row for row, sample in enumerate(data) if sample.images)
    opened.encode(row)  # its rows are checked, and the shard is mapped
    image = data[row].images[0].data
    shard = next(path for path in folder.rglob("*.arrow") if image in path.read_bytes())
    flip(shard, shard.read_bytes().index(image) + len(image) // 2)
    loader = make_loader(opened, sampler_over(opened), num_workers=num_workers)
    with pytest.raises(RowError, match="was changed: it has another sha256"):
        list(loader)


def same(one: Encoded, other: Encoded) -> None:
    """Equal to the last byte."""
    assert one.id == other.id
    assert np.array_equal(one.input_ids, other.input_ids)
    assert np.array_equal(one.labels, other.labels)
    assert one.media.keys() == other.media.keys()
    assert all(np.array_equal(one.media[key], other.media[key]) for key in one.media)
