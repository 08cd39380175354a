"""The protocol, the same for a real S3 server and for local files; addresses; what is tried again and what is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_store import Fault, FaultyProxy, S3Server

from phiv_data.stores import arrow, retry
from phiv_data.stores.address import Address, find_address, require_local, resolve_place, spell_place
from phiv_data.stores.base import BLOCK_BYTES, Store
from phiv_data.stores.hub import HubStore
from phiv_data.stores.opening import open_store
from phiv_data.stores.threads import request_pool
from phiv_schemas import EnvironmentProblem, UsageError


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path}/objects"
    return open_store(Address.parse(f"{place}/some/folder"))


@pytest.fixture
def proxied(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Store, FaultyProxy]]:
    """A store whose requests pass a proxy that has faults, and waits for nothing between tries."""
    monkeypatch.setattr(retry, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(arrow, "_ATTEMPTS_OF_SDK", 1)

    def make(fault: Callable[[str, str], Fault | None]) -> tuple[Store, FaultyProxy]:
        proxy = FaultyProxy(s3_server.url, fault).__enter__()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        return arrow.ArrowStore(Address.parse(f"{bucket}/folder")), proxy

    return make


def first(num: int, fault: Fault, method: str) -> Callable[[str, str], Fault | None]:
    """The first `num` requests of a method fail."""
    left, lock = [num], threading.Lock()

    def decide(command: str, path: str) -> Fault | None:
        with lock:
            if command != method or not left[0]:
                return None
            left[0] -= 1
            return fault

    return decide


def test_what_was_put_is_read_and_listed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 100_000)
    store.put("b/two", b"2" * 1000)
    store.put("a", b"")
    store.put("b/large", tmp_path / "large")
    assert [(entry.name, entry.size_bytes) for entry in store.list()] == [
        ("a", 0),
        ("b/large", 25_600_000),
        ("b/two", 1000),
    ]
    assert store.read("a") == b""
    assert store.read("b/large") == (tmp_path / "large").read_bytes()
    assert store.read_range("b/large", 300, 5).data == bytes([44, 45, 46, 47, 48])
    assert len(store.read_range("b/large", 25_599_990, BLOCK_BYTES).data) == 10
    found = store.stat("b/two")
    assert found is not None
    assert found.size_bytes == 1000
    assert store.read_range("b/two", 0, 1).of == found


def test_an_object_that_is_replaced_has_another_etag(store: Store) -> None:
    store.put("one", b"abc")
    before = store.stat("one")
    store.put("one", b"abd")
    assert store.stat("one") != before
    assert store.read("one") == b"abd"


def test_what_is_not_there_is_none(store: Store) -> None:
    assert store.read("none") is None
    assert store.stat("none") is None
    assert list(store.list()) == []
    store.delete("none")
    with pytest.raises(FileNotFoundError):
        store.read_range("none", 0, 1)


def test_a_removed_object_is_gone(store: Store) -> None:
    store.put("x/one", b"1")
    store.put("x/two", b"2")
    store.delete("x/one")
    assert [entry.name for entry in store.list()] == ["x/two"]


def test_of_many_that_put_if_absent_one_succeeds(store: Store) -> None:
    done: list[tuple[bool, bytes]] = []

    def put(data: bytes) -> None:
        done.append((store.put_if_absent("claim", data), data))

    threads = [threading.Thread(target=put, args=(bytes([n]),)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [data for was_put, data in done if was_put] == [store.read("claim")]


def test_without_boto3_a_conditional_put_is_refused_in_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "_has_boto3", lambda: False)
    store = arrow.ArrowStore(Address.parse(f"{bucket}/x"))
    with pytest.raises(
        EnvironmentProblem, match=r"s3://bucket.*/x: conditional puts are not possible here\. Run: .*\[s3\]"
    ):
        store.put_if_absent("claim", b"1")
    assert store.stat("claim") is None


@pytest.mark.parametrize("fault", ["slow down", "cut", "hang up"])
def test_an_answer_that_fails_is_asked_for_again(proxied, fault: Fault) -> None:  # type: ignore[no-untyped-def]
    store, proxy = proxied(lambda command, path: None)
    store.put("one", b"0123456789" * 1000)
    proxy.fault = first(2, fault, "GET")
    assert store.read("one") == b"0123456789" * 1000
    assert [command for command, _ in proxy.requests].count("GET") == 3


@pytest.mark.parametrize("fault", ["slow down", "hang up", "after"])
def test_a_put_that_fails_is_sent_again(proxied, fault: Fault) -> None:  # type: ignore[no-untyped-def]
    store, _ = proxied(first(2, fault, "PUT"))
    store.put("one", b"0123456789" * 1000)
    assert store.read("one") == b"0123456789" * 1000


def test_a_large_object_is_there_as_a_whole_or_not_at_all(proxied, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "large").write_bytes(b"\1" * 30_000_000)
    num = [0]

    def third_part(command: str, path: str) -> Fault | None:
        num[0] += "partNumber=3" in path
        return "hang up" if "partNumber=3" in path else None

    store, proxy = proxied(third_part)
    with pytest.raises(
        EnvironmentProblem, match=r"folder/large: cannot be written \(NETWORK_CONNECTION during UploadPart"
    ):
        store.put("large", tmp_path / "large")
    assert num[0] >= 3
    assert store.stat("large") is None
    proxy.fault = lambda command, path: None
    store.put("large", tmp_path / "large")
    assert store.read("large") == b"\1" * 30_000_000


def test_a_store_that_throttles_for_good_is_one_line(proxied) -> None:  # type: ignore[no-untyped-def]
    store, _ = proxied(lambda command, path: "slow down")
    with pytest.raises(EnvironmentProblem) as caught:
        store.put("one", b"1")
    assert "folder/one: cannot be written (" in str(caught.value)
    assert str(caught.value).endswith(". The store asks for fewer requests: run the same command again later")
    assert caught.value.exit_code == 3


def test_a_server_that_is_away_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "WAITS_S", (0.0,))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(
        EnvironmentProblem, match=r"s3://.*: cannot be listed \(NETWORK_CONNECTION .*\. Check the network"
    ):
        list(arrow.ArrowStore(Address.parse(f"{bucket}/x")).list())


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:
    store = open_store(Address.parse("s3://nobody-has-it/x"))
    with pytest.raises(
        EnvironmentProblem, match=r"s3://nobody-has-it/x/one: cannot be written \(NO_SUCH_BUCKET .*Check"
    ):
        store.put("one", b"1")


def test_a_refusal_is_not_tried_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied (Request ID: X)")

    with pytest.raises(EnvironmentProblem) as caught:
        retry.retried(Address.parse(bucket), "cannot be written", refuse)
    assert len(calls) == 1
    assert "(ACCESS_DENIED during PutObject: Access Denied). Check the credentials" in str(caught.value)


def test_the_hub_is_read_through_its_file_system_and_never_written(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").write_bytes(b"0123456789")
    store = HubStore(Address("hf", str(tmp_path).strip("/")), _Rooted(fsspec.filesystem("file")))
    assert [(entry.name, entry.size_bytes) for entry in store.list()] == [("a/one", 10)]
    assert store.read("a/one") == b"0123456789"
    assert store.read_range("a/one", 8, 5).data == b"89"
    assert store.read("none") is None
    with pytest.raises(UsageError, match=r"hf://.*: is read only here .*phiv-export hub"):
        store.put("x", b"1")


class _Rooted:
    """A local file system with the hub's paths, which begin without a slash."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda path, **how: getattr(self.inner, name)(f"/{path}", **how)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("gcs://bucket/x", "is no address"),
        ("https://host/x", "is no address"),
        ("s3://", "is no address"),
        ("s3://bucket//x", "empty part"),
        ("s3://bucket/../x", "'..'"),
        ("s3://key:secret@bucket/x", "holds credentials"),
        ("s3://bucket/x?endpoint_override=y", "holds options"),
    ],
)
def test_other_addresses_are_refused_in_one_line(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_address(text)
    assert what in str(caught.value)
    assert "secret" not in str(caught.value)


names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0@?\n\r"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@given(st.sampled_from(["s3", "gs", "hf"]), st.lists(names, min_size=1, max_size=4))
def test_an_address_survives_text_and_path(scheme: str, parts: list[str]) -> None:
    address = Address(scheme, "/".join(parts))
    assert find_address(str(address)) == find_address(Path(str(address))) == address
    assert spell_place(Path(str(address))) == str(address)


def test_local_paths_are_no_addresses(tmp_path: Path) -> None:
    assert resolve_place(tmp_path) == tmp_path
    assert resolve_place(Path("s3/bucket")) == Path("s3/bucket")
    assert resolve_place(f"file://{tmp_path}") == tmp_path
    assert resolve_place(Path(f"file://{tmp_path}")) == tmp_path


@pytest.mark.parametrize("place", ["s3://bucket/out", "file:///tmp/out"])
def test_outputs_of_other_commands_stay_on_this_machine(place: str, tmp_path: Path) -> None:
    require_local("OUT", tmp_path)
    with pytest.raises(UsageError) as caught:
        require_local("OUT", Path(place))
    assert str(caught.value) == (
        f"OUT: {place!r} is an address, and only phiv-convert writes to object stores. Pass a local path"
    )


def test_a_stop_drops_the_requests_that_have_not_begun() -> None:
    begun: list[int] = []

    def request(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    def stop() -> None:
        with request_pool() as pool:
            pool.map(request, range(1000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert 0 < len(begun) < 1000
