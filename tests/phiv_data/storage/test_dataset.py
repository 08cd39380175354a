"""A dataset is a sequence of exactly what was written, and refuses what is not whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from data_builders import any_samples, sample, samples, seal_manifest, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_data.storage.dataset import ConversationDataset, Verify, read_manifest
from phiv_data.storage.sample import Sample
from phiv_schemas import ShardError
from phiv_schemas.errors import UsageError

ROWS = {"train": samples("train", 230), "val": samples("val", 3, 230), "test": list[Sample]()}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("out"), ROWS, max_shard_bytes=9000)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A dataset a test may break: five rows a shard."""
    rows = samples("val", 12)
    size = sum(len(image.data) for image in rows[0].images)
    return write_dataset(tmp_path, {"val": rows}, max_shard_bytes=5 * size + size // 2)


@settings(max_examples=25)
@given(st.lists(any_samples(), max_size=4, unique_by=lambda s: s.id), st.integers(1, 200))
def test_samples_come_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Sample], shard_bytes: int
) -> None:
    from data_builders import write_manifest

    from phiv_data.storage.jsonl import write_jsonl
    from phiv_data.storage.shards import plan_shards, shard_name, write_shard
    from phiv_schemas import SplitInfo

    folder = tmp_path_factory.mktemp("round_trip")
    plan = plan_shards([sum(len(i.data) for i in row.images) for row in rows], shard_bytes)
    shards = [
        write_shard(folder / "arrow" / shard_name(i, len(plan)), rows[part.start : part.stop], root=folder)
        for i, part in enumerate(plan)
    ]
    for name in ("rejects.jsonl", "images.sha256"):
        (folder / name).touch()
    jsonl = write_jsonl(folder / "x.jsonl", (row.conversation for row in rows))
    write_manifest(folder, [SplitInfo(name="val", rows=len(rows), num_images=0, jsonl=jsonl, shards=shards)])
    data = ConversationDataset(folder, "val", verify="sha256")
    assert list(data) == rows
    assert [data.conversation(i) for i in range(len(data))] == [row.conversation for row in rows]


def test_it_is_a_sequence_like_the_list_it_was_made_of(out: Path) -> None:
    data, rows = ConversationDataset(out, "train"), ROWS["train"]
    assert len(data) == len(rows)
    assert list(data) == rows
    for index in (0, 1, 99, 100, 229, -1, -230, np.int64(7)):
        assert data[index] == rows[index]
    for bad in (230, -231):
        with pytest.raises(IndexError):
            data[bad]
    for part in (slice(None), slice(5, 9), slice(None, None, -7), slice(-3, None), slice(9, 3)):
        assert list(data[part]) == rows[part]
        assert len(data[part]) == len(rows[part])
    assert list(data[10:50][5:8]) == rows[10:50][5:8]
    assert data[10:50][-1] == rows[49]


def test_an_empty_split_is_an_empty_sequence(out: Path) -> None:
    data = ConversationDataset(out, "test")
    assert list(data) == []
    assert [array.tolist() for array in data.sizes()] == [[], [], [0]]


def test_sizes_are_those_of_the_images_in_order(tmp_path: Path) -> None:
    rows = [sample("val", i, num_images=i % 4) for i in range(9)]
    data = ConversationDataset(write_dataset(tmp_path, {"val": rows}, max_shard_bytes=300), "val")
    sizes = data.sizes()
    assert sizes.offsets.tolist() == np.cumsum([0, *(len(row.images) for row in rows)]).tolist()
    metas = [image.meta for row in rows for image in row.images]
    assert sizes.widths.tolist() == [meta.width for meta in metas]
    assert sizes.heights.tolist() == [meta.height for meta in metas]
    assert [data.sizes_of(i) for i in range(9)] == [
        tuple((i.meta.width, i.meta.height) for i in r.images) for r in rows
    ]
    assert data.sizes_of(-1) == data.sizes_of(8)
    with pytest.raises(IndexError):
        data.sizes_of(9)


def test_images_are_decoded_when_asked(out: Path) -> None:
    image = ConversationDataset(out, "val")[-1].images[0]
    assert image.open().size == (image.meta.width, image.meta.height)


def test_a_pickle_holds_the_path_only_and_opens_elsewhere(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)
    data = ConversationDataset(".", "train")
    _ = data[0], data.sizes()
    monkeypatch.chdir("/")
    pickled = pickle.dumps(data)
    assert len(pickled) < 1000
    assert pickle.loads(pickled)[17] == ROWS["train"][17]


def test_spawned_workers_read_the_same(out: Path) -> None:
    data = ConversationDataset(out, "train")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(data.conversation, 150).result() == ROWS["train"][150].conversation


def test_threads_read_the_same(out: Path) -> None:
    data, order = ConversationDataset(out, "train"), [i * 37 % 230 for i in range(230)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(data.__getitem__, order)) == [ROWS["train"][i] for i in order]


def test_an_unfinished_conversion_is_refused(own: Path) -> None:
    (own / "manifest.json").unlink()
    with pytest.raises(ShardError, match=r"has no manifest.json: not a converted dataset, or unfinished\. Run"):
        ConversationDataset(own, "val")
    with pytest.raises(UsageError, match="no such folder"):
        ConversationDataset(own / "none", "val")


def test_an_unknown_split_names_those_there_are(out: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'valid' \(found: train, val, test\)"):
        ConversationDataset(out, "valid")


def test_a_split_without_shards_says_how_to_get_them(own: Path) -> None:
    from phiv_data.storage.dataset import read_manifest

    manifest = read_manifest(own)
    split = manifest.splits[0].model_copy(update={"shards": []})
    seal_manifest(own, manifest.model_copy(update={"splits": [split]}))
    with pytest.raises(ShardError, match=r"'val' has no shards\. Convert it without --no_arrow"):
        ConversationDataset(own, "val")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid JSON"),
        ("{}", "required key is missing"),
        ("[1]", "must be an object"),
    ],
)
def test_a_broken_manifest_is_one_line(own: Path, text: str, words: str) -> None:
    (own / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ShardError, match=words) as caught:
        ConversationDataset(own, "val")
    assert "\n" not in str(caught.value)
    assert "manifest.json" in str(caught.value)


def test_a_manifest_cannot_name_files_outside_the_folder(own: Path) -> None:
    path = own / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("arrow/val/data-00001", "../val/data-00001"))
    with pytest.raises(ShardError, match="outside its folder"):
        ConversationDataset(own, "val")


def damage(change: Callable[[bytes], bytes], folder: Path) -> Path:
    path = sorted((folder / "arrow" / "val").glob("*.arrow"))[1]
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize("verify", ["size", "sha256"])
@pytest.mark.parametrize("cut", [0, 8, 1000, -8, -1])
def test_a_cut_shard_is_refused_at_once(own: Path, cut: int, verify: Verify) -> None:
    path = damage(lambda data: data[:cut], own)
    with pytest.raises(ShardError, match=r"was cut or changed: \d+ bytes \(the manifest says \d+\)") as caught:
        ConversationDataset(own, "val", verify=verify)
    assert path.name in str(caught.value)


def test_a_missing_shard_is_refused_at_once(own: Path) -> None:
    damage(lambda data: data, own).unlink()
    with pytest.raises(ShardError, match=r"data-00001-of-00003\.arrow: is in the manifest but not there"):
        ConversationDataset(own, "val")


def test_any_flipped_byte_is_detected_with_sha256(own: Path) -> None:
    whole = damage(lambda data: data, own).read_bytes()
    for at in range(0, len(whole), len(whole) // 25):
        damage(lambda _, at=at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], own)  # type: ignore[misc]  # bound
        with pytest.raises(ShardError, match="sha256 is not the manifest's"):
            ConversationDataset(own, "val", verify="sha256")


def test_a_shard_of_another_run_with_other_rows_is_refused_when_touched(own: Path) -> None:
    shards = sorted((own / "arrow" / "val").glob("*.arrow"))
    shards[0].write_bytes(shards[2].read_bytes())
    data = ConversationDataset(own, "val", verify="none")
    with pytest.raises(ShardError, match=r"holds \d+ rows \(the manifest says 5\)"):
        data[0]


def test_without_verification_a_cut_shard_still_fails_when_touched(own: Path) -> None:
    damage(lambda data: data[:-9], own)
    data = ConversationDataset(own, "val", verify="none")
    assert data[0].id == "val-0000000000"
    with pytest.raises(ShardError, match="no end mark"):
        data[5]


# Damage that keeps the size ----------------------------------------------------------------------------------------


def read_all(folder: Path) -> list[Sample]:
    return list(ConversationDataset(folder, "val"))


def test_a_changed_byte_is_detected_or_changes_nothing(own: Path) -> None:
    """By default; what is neither row nor image is padding and names of columns that are checked by themselves."""
    rows = read_all(own)
    whole = damage(lambda data: data, own).read_bytes()
    detected = 0
    for at in range(0, len(whole), max(1, len(whole) // 400)):
        damage(lambda _, at=at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], own)  # type: ignore[misc]  # bound
        try:
            assert read_all(own) == rows
        except ShardError:
            detected += 1
    assert detected > 200


@pytest.mark.parametrize("start", [0.3, 0.5, 0.9])
def test_a_block_of_zeros_is_detected(own: Path, start: float) -> None:
    def zero(data: bytes) -> bytes:
        at = int(len(data) * start) // 512 * 512
        return data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]

    damage(zero, own)
    with pytest.raises(ShardError):
        read_all(own)


def test_a_shard_in_the_place_of_another_is_detected(tmp_path: Path) -> None:
    """Of as many rows and, as far as the manifest knows, bytes."""
    rows = samples("val", 8)
    size = sum(len(image.data) for image in rows[0].images)
    out = write_dataset(tmp_path, {"val": rows}, max_shard_bytes=4 * size + size // 2)
    one, other = sorted((out / "arrow/val").glob("*.arrow"))
    one.write_bytes(other.read_bytes())
    manifest = read_manifest(out)
    shards = list(manifest.splits[0].shards)
    shards[0] = shards[0].model_copy(update={"size_bytes": one.stat().st_size})
    split = manifest.splits[0].model_copy(update={"shards": shards})
    seal_manifest(out, manifest.model_copy(update={"splits": [split]}))
    with pytest.raises(ShardError, match=r"data-00000-of-00002\.arrow: was changed: its rows are not those of the man"):
        read_all(out)


def test_a_changed_image_is_named(own: Path) -> None:
    image = read_all(own)[6].images[0]
    damage(lambda data: data.replace(image.data, image.data[:-1] + bytes([image.data[-1] ^ 1]), 1), own)
    data = ConversationDataset(own, "val")
    assert data.conversation(6).image_paths[0] == image.meta.path
    with pytest.raises(ShardError, match=rf"image '{image.meta.path}' was changed: it has another sha256"):
        data[6]
    assert ConversationDataset(own, "val", verify="none")[6].images[0].data != image.data


# Another dataset in its place --------------------------------------------------------------------------------------


def test_a_pickle_opens_the_dataset_it_was_made_of_or_none(own: Path, tmp_path: Path) -> None:
    pickled = pickle.dumps(ConversationDataset(own, "val"))
    assert len(pickle.loads(pickled)) == 12
    write_dataset(own, {"val": samples("val", 3)}, max_shard_bytes=10**6)
    with pytest.raises(ShardError, match=r"another dataset is there now than was opened\. Open it again"):
        pickle.loads(pickled)
    (own / "manifest.json").unlink()
    with pytest.raises(ShardError, match="another dataset is there now"):
        pickle.loads(pickled)


def test_an_open_dataset_reads_no_other(own: Path) -> None:
    data = ConversationDataset(own, "val")
    first = data[0]
    write_dataset(own, {"val": samples("val", 12, 50)}, max_shard_bytes=10**6)
    assert data[0] == first
    with pytest.raises(ShardError, match="another dataset is there now"):
        data[11]
