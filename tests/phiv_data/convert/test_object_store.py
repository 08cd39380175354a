"""Conversions from and to a real S3 server: the same bytes as local ones, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from object_store import Fault, FaultyProxy, S3Server
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert import object_store
from phiv_data.convert.engine import convert
from phiv_data.convert.object_store import convert_anywhere
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.stores import retry
from phiv_data.stores.address import Address
from phiv_data.stores.opening import open_store
from phiv_schemas import EnvironmentProblem, ShardError, UsageError

BIN = Path(sys.executable).parent
NAMES = {"train": [f"t{n:02d}" for n in range(12)], "val": ["v0", "v1_bad", "v2_unlabeled"], "test": []}
OTHER = {"train": [f"t{n:02d}" for n in range(3, 14)], "val": ["v0", "v9"], "test": []}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy_source(tmp_path_factory.mktemp("toy"), NAMES)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy_source(tmp_path_factory.mktemp("other"), OTHER)


@pytest.fixture
def out(bucket: str) -> str:
    return f"{bucket}/sets/toy"


def to_store(source: Path, out: str, **how: bool) -> bool:
    """Convert; whether there was nothing to do."""
    return convert_anywhere(ToyOptions(source), Path(out), num_workers=0, **how)[0].found_finished


def objects(out: str) -> dict[str, str]:
    store = open_store(Address.parse(out))
    return {entry.name: hashlib.sha256(store.read(entry.name) or b"").hexdigest() for entry in store.list()}


def files(folder: Path) -> dict[str, str]:
    """What a local conversion holds, without what stays on its machine."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in paths.items() if not n.startswith(".phiv/")}


def upload(folder: Path, address: str) -> None:
    store = open_store(Address.parse(address))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.put(path.relative_to(folder).as_posix(), path), paths))


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("local") / "out"
    convert(ToyOptions(source), folder, num_workers=0)
    return files(folder)


@pytest.fixture(scope="module")
def other_local(other: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("local") / "out"
    convert(ToyOptions(other), folder, num_workers=0)
    return files(folder)


def test_every_object_is_that_of_a_local_conversion(source: Path, out: str, local: dict[str, str]) -> None:
    assert not to_store(source, out)
    assert objects(out) == local
    assert len(ConversationDataset(out, "train")) == 12
    assert to_store(source, out)
    assert objects(out) == local


def test_a_finished_output_is_known_on_another_machine(
    source: Path, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_store(source, out)
    monkeypatch.setenv("PHIV_CACHE", str(tmp_path / "another cache"))
    assert to_store(source, out)
    assert not list((tmp_path / "another cache").rglob("*.png"))


def test_another_output_is_replaced_only_when_asked_to(
    source: Path, other: Path, out: str, other_local: dict[str, str]
) -> None:
    to_store(source, out)
    before = objects(out)
    with pytest.raises(UsageError, match=rf"^{out}: holds a finished toy conversion that differs in .*--overwrite"):
        to_store(other, out)
    assert objects(out) == before
    to_store(other, out, overwrite=True)
    assert objects(out) == other_local


def test_objects_of_others_are_left_alone(source: Path, other: Path, out: str, bucket: str) -> None:
    open_store(Address.parse(bucket)).put("sets/toy/notes.txt", b"mine")
    with pytest.raises(
        UsageError, match=r"^--out_dir: 's3://.*' is not empty and holds no phiv output \(found 'notes.txt'\)"
    ):
        to_store(source, out, overwrite=True)
    open_store(Address.parse(out)).delete("notes.txt")
    to_store(source, out)
    open_store(Address.parse(out)).put("notes.txt", b"mine")
    to_store(other, out, overwrite=True)
    assert open_store(Address.parse(out)).read("notes.txt") == b"mine"


def test_a_bucket_that_cannot_be_written_to_is_found_before_the_work(
    source: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "convert", None)
    with pytest.raises(EnvironmentProblem, match=r"^s3://nobody-has-it/out/.*: cannot be written \(NO_SUCH_BUCKET"):
        to_store(source, "s3://nobody-has-it/out")


def test_a_source_in_a_store_gives_the_bytes_of_the_local_one(
    source: Path, other: Path, bucket: str, out: str, local: dict[str, str], other_local: dict[str, str]
) -> None:
    upload(source, f"{bucket}/raw")
    to_store(Path(f"{bucket}/raw"), out)
    assert objects(out) == local
    assert to_store(Path(f"{bucket}/raw"), out)
    for entry in open_store(Address.parse(f"{bucket}/raw")).list():
        open_store(Address.parse(f"{bucket}/raw")).delete(entry.name)
    upload(other, f"{bucket}/raw")
    with pytest.raises(UsageError, match="differs in"):
        to_store(Path(f"{bucket}/raw"), out)
    to_store(Path(f"{bucket}/raw"), out, update=True)
    assert objects(out) == other_local


def test_a_changed_object_of_the_same_size_is_noticed(bucket: str, source: Path, tmp_path: Path) -> None:
    upload(source, f"{bucket}/raw")
    options = ToyOptions(Path(f"{bucket}/raw"))
    convert_anywhere(options, tmp_path / "out", num_workers=0)
    store = open_store(Address.parse(f"{bucket}/raw"))
    assert convert_anywhere(options, tmp_path / "out", num_workers=0, verify=False)[0].found_finished
    one, two = store.read("train/t00.png"), store.read("train/t01.png")
    assert one is not None
    assert two is not None
    assert len(one) == len(two)
    time.sleep(1.1)  # times of objects are in seconds
    store.put("train/t00.png", two)
    with pytest.raises(UsageError, match="the files of its source"):
        convert_anywhere(options, tmp_path / "out", num_workers=0)


def test_a_reader_sees_no_dataset_until_all_of_it_is_there(
    source: Path, other: Path, out: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every request of a conversion that replaces another: a manifest is there only with all its files."""
    to_store(source, out)
    lock, seen = threading.Lock(), list[bool]()
    client = boto3.client("s3")  # pyarrow's threads are all busy with the requests that wait here

    def look(command: str, path: str) -> Fault | None:
        if command in ("PUT", "DELETE"):
            with lock:
                there = objects_by(client, out)
                seen.append("manifest.json" in there)
                if "manifest.json" in there:
                    names = {
                        line.split("  ")[1]: line.split("  ")[0]
                        for line in there["images.sha256"].decode().splitlines()
                    }
                    assert {n: hashlib.sha256(there[n]).hexdigest() for n in names} == names
        return None

    with FaultyProxy(s3_server.url, look) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        open_store.cache_clear()
        to_store(other, out, overwrite=True)
    assert seen.count(False) > len(OTHER["train"])
    assert seen[0]
    assert "manifest.json" in objects_by(client, out)


def objects_by(client: Any, out: str) -> dict[str, bytes]:
    bucket, _, prefix = out.removeprefix("s3://").partition("/")
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])]
    return {key[len(prefix) + 1 :]: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_a_damaged_manifest_at_the_address_is_one_line(source: Path, out: str) -> None:
    open_store(Address.parse(out)).put("manifest.json", b"{}")
    for _ in range(2):
        with pytest.raises(ShardError, match=rf"^{out}/manifest.json: .*\. Remove it, then run"):
            to_store(source, out, overwrite=True)


@pytest.mark.parametrize("fault", ["slow down", "cut", "hang up", "after"])
def test_faults_now_and_then_leave_no_trace(
    source: Path, out: str, local: dict[str, str], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    rng, lock = random.Random(fault), threading.Lock()

    def sometimes(command: str, path: str) -> Fault | None:
        with lock:
            return fault if rng.random() < 0.2 else None

    monkeypatch.setattr(retry, "WAITS_S", (0.0,) * 6)
    with FaultyProxy(s3_server.url, sometimes) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        open_store.cache_clear()
        to_store(source, out)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
        open_store.cache_clear()
    assert objects(out) == local


def test_a_store_that_goes_away_is_one_line_and_the_same_command_resumes(
    source: Path, out: str, local: dict[str, str], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, puts = threading.Lock(), [0]

    def away(command: str, path: str) -> Fault | None:
        with lock:
            puts[0] += command == "PUT"
            return "hang up" if puts[0] > 8 else None

    monkeypatch.setattr(retry, "WAITS_S", (0.0,))
    with FaultyProxy(s3_server.url, away) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        open_store.cache_clear()
        with pytest.raises(EnvironmentProblem, match=rf"^{out}/.*: cannot be written \(NETWORK_CONNECTION"):
            to_store(source, out)
        proxy.fault = lambda command, path: None
        with pytest.raises(ShardError, match="not finished"):
            ConversationDataset(out, "train")
        proxy.requests.clear()
        assert to_store(source, out)
        sent = {path for command, path in proxy.requests if command == "PUT"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    open_store.cache_clear()
    assert objects(out) == local
    assert len(local) - 8 <= len(sent) < len(local)  # the first eight puts were one mark, the claim and six files


def test_a_publish_that_was_stopped_is_not_mixed_with_another(
    source: Path, other: Path, out: str, other_local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(object_store._Work, "_check_all_there", _stop)
        with pytest.raises(KeyboardInterrupt):
            to_store(source, out)
    monkeypatch.setenv("PHIV_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(UsageError, match=rf"^{out}: another conversion is being published there, or was stopped"):
        to_store(other, out)
    to_store(other, out, overwrite=True)
    assert {name: sha for name, sha in objects(out).items() if name in other_local} == other_local


def test_an_output_that_came_there_meanwhile_is_not_replaced_unasked(
    source: Path, other: Path, out: str, local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(object_store._Work, "publish", _stop)
        with pytest.raises(KeyboardInterrupt):
            to_store(source, out)
        patched.undo()
        patched.setenv("PHIV_CACHE", str(tmp_path / "another machine"))
        to_store(other, out)
    before = objects(out)
    with pytest.raises(UsageError, match=rf"^{out}: holds another finished output, which was published meanwhile\."):
        to_store(source, out)
    assert objects(out) == before
    to_store(source, out, overwrite=True)
    assert objects(out) == local


def _stop(*args: object, **how: object) -> None:
    raise KeyboardInterrupt


def folder_source(folder: Path) -> Path:
    """Images in folders of classes, for the command line."""
    from PIL import Image

    for number in range(24):
        path = folder / ("train", "val")[number % 4 == 3] / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (8, 6), random.Random(number).randbytes(144)).save(path)
    return folder


def command(source: object, out: object) -> list[str]:
    return [str(BIN / "phiv-convert"), "folder", "--source", str(source), "--out_dir", str(out), "--num_workers", "0"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*arguments], capture_output=True, text=True, timeout=300)


def test_the_commands_take_addresses(bucket: str, tmp_path: Path) -> None:
    source = folder_source(tmp_path / "raw")
    upload(source, f"{bucket}/raw")
    assert run(*command(source, tmp_path / "out")).returncode == 0
    done = run(*command(f"{bucket}/raw", f"{bucket}/out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{bucket}/out: converted (")
    assert objects(f"{bucket}/out") == files(tmp_path / "out")

    checked = run(str(BIN / "phiv-validate"), f"{bucket}/out")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == run(str(BIN / "phiv-validate"), str(tmp_path / "out")).stdout.replace(
        str(tmp_path / "out"), f"{bucket}/out"
    )
    for name, place in (("ours", f"{bucket}/out"), ("theirs", str(tmp_path / "out"))):
        assert run(str(BIN / "phiv-export"), "llava", place, str(tmp_path / name)).returncode == 0
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")

    store = open_store(Address.parse(f"{bucket}/out"))
    image = next(entry.name for entry in store.list() if entry.name.startswith("images/"))
    store.put(image, b"damaged")
    checked = run(str(BIN / "phiv-validate"), f"{bucket}/out")
    assert checked.returncode == 1
    assert f"{bucket}/out" in checked.stdout
    assert "cache" not in checked.stdout


def kill_at(seconds: float, arguments: list[str]) -> int:
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def kill_until_done(bucket: str, tmp_path: Path, trials: int) -> None:
    source = folder_source(tmp_path / "raw")
    upload(source, f"{bucket}/raw")
    convert_local = run(*command(source, tmp_path / "out"))
    assert convert_local.returncode == 0, convert_local.stderr
    wanted, rng, killed = files(tmp_path / "out"), random.Random(trials), 0
    start = time.monotonic()
    assert run(*command(f"{bucket}/raw", f"{bucket}/straight")).returncode == 0
    takes_s = time.monotonic() - start
    for trial in range(trials):
        out = f"{bucket}/out{trial}"
        for _ in range(2):
            killed += kill_at(rng.uniform(0.3, 1.0) * takes_s, command(f"{bucket}/raw", out)) == -signal.SIGKILL
            there = objects(out)
            if "manifest.json" in there:
                assert {name: there.get(name) for name in wanted} == wanted
        done = run(*command(f"{bucket}/raw", out))
        assert (done.returncode, done.stderr) == (0, "")
        assert objects(out) == wanted
    assert killed


def test_killed_at_any_moment_the_same_command_finishes(bucket: str, tmp_path: Path) -> None:
    kill_until_done(bucket, tmp_path, 2)


@pytest.mark.soak
def test_killed_at_many_moments_the_same_command_finishes(bucket: str, tmp_path: Path) -> None:
    kill_until_done(bucket, tmp_path, 30)


def test_a_server_that_is_killed_is_one_line_with_exit_3(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path / "raw")
    with S3Server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        make_bucket(server)
        with FaultyProxy(server.url, lambda command, path: server.kill() if "/images/" in path else None) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
            done = run(*command(source, "s3://bucket/out"))
        assert done.returncode == 3
        assert re.fullmatch(
            r"phiv-convert: s3://bucket/out/\S+: cannot be written \(.*\)\. Check the network .*\n", done.stderr
        )
        server.start()  # empty again: everything is sent once more
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        make_bucket(server)
        assert run(*command(source, "s3://bucket/out")).returncode == 0
        open_store.cache_clear()
        assert run(*command(source, tmp_path / "out")).returncode == 0
        assert objects("s3://bucket/out") == files(tmp_path / "out")
    open_store.cache_clear()


def make_bucket(server: S3Server) -> None:
    from pyarrow import fs

    fs.S3FileSystem(endpoint_override=server.url, allow_bucket_creation=True).create_dir("bucket")
