"""A converted dataset in an object store is read as the local one, byte for byte."""

from __future__ import annotations

import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from data_builders import samples, write_dataset

from phiv_data.storage.dataset import ConversationDataset, read_manifest
from phiv_data.stores.address import Address
from phiv_data.stores.base import Store
from phiv_data.stores.opening import open_store
from phiv_schemas import ShardError, UsageError


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return write_dataset(
        tmp_path / "local", {"train": samples("train", 40), "val": samples("val", 3)}, max_shard_bytes=900
    )


@pytest.fixture
def remote(local: Path, bucket: str) -> Store:
    store = open_store(Address.parse(f"{bucket}/set"))
    put_folder(store, local)
    return store


def put_folder(store: Store, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.put(path.relative_to(folder).as_posix(), path), files))


def shard_files(cache: Path) -> list[Path]:
    return sorted((cache / "datasets").rglob("*.arrow"))


def test_an_epoch_equals_the_local_one(local: Path, remote: Store) -> None:
    ours, theirs = ConversationDataset(str(remote.address), "train"), ConversationDataset(local, "train")
    assert len(theirs._shards) > 5
    order = random.Random(0).sample(range(40), 40)
    assert [ours[row] for row in order] == [theirs[row] for row in order]
    assert [ours.conversation(row) for row in order] == [theirs.conversation(row) for row in order]
    assert [ours.sizes_of(row) for row in order] == [theirs.sizes_of(row) for row in order]
    assert read_manifest(Path(str(remote.address))) == read_manifest(local)


def test_opening_reads_the_manifest_only(remote: Store, tmp_path: Path) -> None:
    dataset = ConversationDataset(Path(str(remote.address)), "val")
    assert len(dataset) == 3
    assert repr(dataset) == f"ConversationDataset('{remote.address}', 'val', rows=3)"
    assert shard_files(tmp_path / "cache") == []


def test_the_next_shards_are_on_their_way(remote: Store, tmp_path: Path) -> None:
    import threading

    dataset = ConversationDataset(str(remote.address), "train")
    dataset[0]
    for thread in threading.enumerate():
        if thread.name == "phiv-prefetch":
            thread.join()
    assert [path.name[5:10] for path in shard_files(tmp_path / "cache")] == ["00000", "00001", "00002"]


def test_a_cache_smaller_than_the_split_stays_within_its_limit(
    local: Path, remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ConversationDataset(local, "train")
    monkeypatch.setenv("PHIV_CACHE_SIZE", str(3 * max(shard.size_bytes for shard in theirs._shards)))
    ours = ConversationDataset(str(remote.address), "train")
    for row in random.Random(1).sample(range(40), 40):
        assert ours[row] == theirs[row]
        assert len(shard_files(tmp_path / "cache")) <= 3
        assert len(ours._open) <= 4  # those that were removed are let go at the next fetch


def test_a_pickle_opens_again_without_the_store(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ConversationDataset(str(remote.address), "val")
    row = dataset[1]
    data = pickle.dumps(dataset)
    monkeypatch.setattr(remote, "read_range", None)
    assert pickle.loads(data)[1] == row


def test_without_a_manifest_it_is_not_finished(remote: Store) -> None:
    remote.delete("manifest.json")
    with pytest.raises(
        ShardError, match=r"s3://.*/set: has no manifest.json: not a converted dataset, or not finished\."
    ):
        ConversationDataset(str(remote.address), "train")


def test_a_changed_shard_is_found_on_arrival(local: Path, remote: Store) -> None:
    shard = read_manifest(local).splits[0].shards[1]
    data = bytearray((local / shard.path).read_bytes())
    data[len(data) // 2] ^= 1
    remote.put(shard.path, bytes(data))
    dataset = ConversationDataset(str(remote.address), "train")
    with pytest.raises(ShardError, match=rf"^s3://.*/set/{shard.path}: is not the file that its manifest names"):
        list(dataset)


def test_a_shard_that_the_disk_has_changed_is_fetched_again(local: Path, remote: Store, tmp_path: Path) -> None:
    list(ConversationDataset(str(remote.address), "val"))
    (file,) = [path for path in shard_files(tmp_path / "cache") if "val" in path.parts]
    whole = file.read_bytes()
    os.truncate(file, len(whole) - 8)
    assert list(ConversationDataset(str(remote.address), "val")) == list(ConversationDataset(local, "val"))
    assert file.read_bytes() == whole


def test_another_dataset_at_the_address_is_not_mixed_with_the_first(remote: Store, bucket: str, tmp_path: Path) -> None:
    dataset = ConversationDataset(str(remote.address), "train")
    first = dataset[0]
    other = write_dataset(tmp_path / "other", {"train": samples("train", 40, start=7)}, max_shard_bytes=900)
    put_folder(remote, other)
    assert dataset[0] == first
    with pytest.raises(ShardError, match="another dataset"):
        list(dataset)
    assert list(ConversationDataset(str(remote.address), "train")) == list(ConversationDataset(other, "train"))


def test_an_unknown_split_names_the_address(remote: Store) -> None:
    with pytest.raises(UsageError, match=rf"{remote.address}: no split 'test' \(found: train, val\)"):
        ConversationDataset(str(remote.address), "test")
