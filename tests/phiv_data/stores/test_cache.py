"""The cache: whole files only, within its limit, whoever else uses it."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.stores.address import Address
from phiv_data.stores.arrow import ArrowStore
from phiv_data.stores.base import Block
from phiv_data.stores.cache import Cache, folder_name, parse_size, spell_size
from phiv_data.stores.folder_copy import local_copy
from phiv_data.stores.opening import open_store
from phiv_schemas import EnvironmentProblem, ShardError, SourceError, UsageError


class CountingStore(ArrowStore):
    """A store of local files that counts what is read of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Address("file", str(folder).strip("/")))
        self.reads: list[str] = []

    def read_range(self, name: str, start: int, size_bytes: int) -> Block:
        self.reads.append(name)
        return super().read_range(name, start, size_bytes)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    store = CountingStore(tmp_path / "objects")
    for number in range(6):
        store.put(f"f{number}", bytes([number]) * 1000)
    return store


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path in (cache.root / "datasets").rglob("f*") if path.is_file())


def fetch(cache: Cache, store: ArrowStore, *numbers: int, folder: str = "one") -> None:
    for number in numbers:
        cache.fetch(store, f"f{number}", cache.root / "datasets" / folder / f"f{number}")


def test_a_file_is_fetched_once(store: CountingStore, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    fetch(cache, store, 1, 1, 1)
    assert store.reads == ["f1"]
    assert (cache.root / "datasets/one/f1").read_bytes() == b"\1" * 1000


def test_the_files_used_least_recently_make_room(store: CountingStore, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit_bytes=3000)
    fetch(cache, store, 0, 1, 2, 0, 3)
    assert names(cache) == ["f0", "f2", "f3"]
    fetch(cache, store, 1)
    assert names(cache) == ["f0", "f1", "f3"]


def test_pinned_folders_stay_whole(store: CountingStore, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit_bytes=3000)
    with cache.pinned(cache.root / "datasets/kept"):
        fetch(cache, store, 0, 1, folder="kept")
        fetch(cache, store, 2, 3, 4)
        assert names(cache) == ["f0", "f1", "f4"]
        with (
            cache.pinned(cache.root / "datasets/one"),
            pytest.raises(EnvironmentProblem, match=r"^PHIV_CACHE_SIZE: .*in use"),
        ):
            fetch(cache, store, 5, folder="two")
    fetch(cache, store, 5)
    assert names(cache) == ["f1", "f4", "f5"]


def test_a_file_that_does_not_fit_is_one_line(store: CountingStore, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        fetch(Cache(tmp_path / "cache", limit_bytes=999), store, 0)
    assert str(caught.value) == "PHIV_CACHE_SIZE: 999 bytes are too few (needed at once: 1000 bytes). Raise it"


def test_other_bytes_than_the_manifest_names_never_arrive(store: CountingStore, tmp_path: Path) -> None:
    cache, path = Cache(tmp_path / "cache"), tmp_path / "cache/datasets/one/f0"
    with pytest.raises(ShardError, match="f0: is not the file that its manifest names"):
        cache.fetch(store, "f0", path, sha256="0" * 64)
    assert not path.exists()
    assert list(path.parent.iterdir()) == []
    cache.fetch(store, "f0", path, sha256=hashlib.sha256(bytes(1000)).hexdigest())
    assert path.read_bytes() == bytes(1000)


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(store: CountingStore, tmp_path: Path) -> None:
    store.put("big", b"a" * 20 * 2**20)

    class Replaced(CountingStore):
        def read_range(self, name: str, start: int, size_bytes: int) -> Block:
            block = super().read_range(name, start, size_bytes)
            if len(self.reads) == 1:
                store.put("big", b"b" * 20 * 2**20)
            return block

    Cache(tmp_path / "cache").fetch(Replaced(tmp_path / "objects"), "big", tmp_path / "cache/datasets/one/big")
    assert (tmp_path / "cache/datasets/one/big").read_bytes() == b"b" * 20 * 2**20


def _fetch_all(root: Path, objects: Path, barrier: threading.Barrier) -> None:
    barrier.wait()
    fetch(Cache(root, limit_bytes=4000), ArrowStore(Address("file", str(objects).strip("/"))), *range(6), *range(6))


def test_processes_share_a_cache_that_is_too_small(store: CountingStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    args = (tmp_path / "cache", tmp_path / "objects", barrier)
    workers = [context.Process(target=_fetch_all, args=args) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    cache = Cache(tmp_path / "cache", limit_bytes=4000)
    assert 1 <= len(names(cache)) <= 4 + 2  # each process may have been at one file more
    for name in names(cache):
        assert (cache.root / "datasets/one" / name).read_bytes() == bytes([int(name[1:])]) * 1000


@given(st.integers(0, 2**50))
def test_sizes_survive_their_spelling(size: int) -> None:
    assert parse_size(str(size)) == size or size == 0
    assert abs(parse_size(spell_size(size).replace("bytes", "B")) - size) <= size / 20


@pytest.mark.parametrize("text", ["ten", "10 XB", "-1", "1e9"])
def test_a_size_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="PHIV_CACHE_SIZE: is no size"):
        parse_size(text)


def test_every_address_has_its_own_folder() -> None:
    places = ["s3://b/a-b", "s3://b/a/b", "s3://b-a/b", "gs://b/a/b"]
    assert len({folder_name(Address.parse(place)) for place in places}) == 4


def test_a_copy_of_a_folder_follows_the_objects(bucket: str) -> None:
    store = open_store(Address.parse(f"{bucket}/raw"))
    for name in ("a/one", "two", "c/three"):
        store.put(name, name.encode())
    with local_copy(f"{bucket}/raw") as folder:
        before = {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*e")}
        assert {name: data for name, (data, _) in before.items()} == {"a/one": b"a/one", "c/three": b"c/three"}
    store.put("a/one", b"A/ONE")  # of the same size
    store.delete("c/three")
    with local_copy(f"{bucket}/raw", verify=True) as folder:
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert files == {"a/one": b"A/ONE", "two": b"two"}
        assert (folder / "a/one").stat().st_mtime_ns != before["a/one"][1]
        assert not (folder / "c").exists()


def test_one_object_is_copied_as_a_file(bucket: str) -> None:
    open_store(Address.parse(bucket)).put("raw/rows.csv", b"a,b\n")
    with local_copy(f"{bucket}/raw/rows.csv") as file:
        assert file.name == "rows.csv"
        assert file.read_bytes() == b"a,b\n"


def test_names_that_cannot_be_files_are_refused(bucket: str) -> None:
    store = open_store(Address.parse(f"{bucket}/raw"))
    store.put("a", b"1")
    store.put("a/b", b"1")
    with pytest.raises(SourceError, match="'a' is an object and a folder of others"), local_copy(f"{bucket}/raw"):
        pass
    with pytest.raises(SourceError, match=r"s3://.*/none: no such folder or object"), local_copy(f"{bucket}/none"):
        pass


def test_an_unchanged_folder_costs_one_listing(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(Address.parse(f"{bucket}/raw"))
    store.put("one", b"1")
    with local_copy(f"{bucket}/raw"):
        pass
    monkeypatch.setattr(store, "read_range", None)
    with local_copy(f"{bucket}/raw") as folder:
        assert (folder / "one").read_bytes() == b"1"
