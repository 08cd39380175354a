"""S3, Google Cloud Storage and local files through `pyarrow.fs`, which every installation of phiv has.

Credentials come as the stores' own tools take them: environment, profiles, the machine's role. For a server other than
Amazon's, `AWS_ENDPOINT_URL_S3` (or `AWS_ENDPOINT_URL`) names it, as for the AWS tools.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.stores.address import Address
from phiv_data.stores.base import BLOCK_BYTES, Block, Entry, ObjectStat
from phiv_data.stores.retry import CutAnswer, explain, retried
from phiv_data.utils.atomic import TMP_PREFIX, atomic_write, environment_problems
from phiv_data.utils.extras import install_hint
from phiv_schemas.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from pyarrow import fs

_ATTEMPTS_OF_SDK = 3
"""Of one request, within one of our own tries: parts of a large upload are sent again one by one."""


class ArrowStore:
    """The objects below an `s3://`, `gs://` or `file://` address."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.has_conditional_put = address.scheme == "file" or (address.scheme == "s3" and _has_boto3())
        self._fs = _file_system(address)

    def list(self) -> Iterator[Entry]:
        """Every object below the address, by name."""
        from pyarrow import fs

        root = self.address.full_path
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        infos = retried(self.address, "cannot be listed", lambda: self._fs.get_file_info(selector))
        files = [info for info in infos if info.type == fs.FileType.File]
        for info in sorted(files, key=lambda info: str(info.path)):
            yield Entry(info.path[len(root) + 1 :], info.size, info.mtime_ns or 0)

    def stat(self, name: str) -> ObjectStat | None:
        """The object called `name`, or None. One request."""
        try:
            return self.read_range(name, 0, 0).of
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes | None:
        """A whole object, or None where there is none. For small ones: it is held in memory."""
        try:
            return self.read_range(name, 0, sys.maxsize).data
        except FileNotFoundError:
            return None

    def read_range(self, name: str, start: int, size_bytes: int) -> Block:
        """`size_bytes` of an object from byte `start` on, fewer at its end. FileNotFoundError where there is none."""

        def ask() -> Block:
            with self._fs.open_input_file(self._path(name)) as file:
                of = ObjectStat(file.size(), self._etag(name, file))
                wanted = min(size_bytes, max(of.size_bytes - start, 0))
                file.seek(start)
                data: bytes = file.read(wanted) if wanted else b""
            if len(data) != wanted:
                raise CutAnswer(f"{len(data)} of {wanted} bytes came, cut short")
            return Block(data, of)

        return retried(self.address / name, "cannot be read", ask)

    def _etag(self, name: str, file: Any) -> str:
        if self.address.scheme == "file":
            found = Path(self._path(name)).stat()
            return f"{found.st_mtime_ns}-{found.st_ino}"
        etags = [value for key, value in (file.metadata() or {}).items() if key.lower() == "etag"]
        return etags[0].decode().strip('"') if etags else ""

    def put(self, name: str, data: bytes | Path) -> None:
        """Store an object, from bytes or a local file, in place of an older one."""
        if self.address.scheme == "file":
            with atomic_write(Path(self._path(name))) as out:
                for block in _blocks(data):
                    out.write(block)
            return
        size = len(data) if isinstance(data, bytes) else data.stat().st_size

        def send() -> None:
            stream = self._fs.open_output_stream(self._path(name))
            # In one write: of several, those before an error would be completed to an object by closing.
            stream.write(_whole(data, size))
            stream.close()
            if size > BLOCK_BYTES // 4 and ((sent := self.stat(name)) is None or sent.size_bytes != size):
                raise CutAnswer("what was stored is cut short")

        retried(self.address / name, "cannot be written", send)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store a small object where there is none of the name; False where there is one.

        On S3 by `If-None-Match`, which needs boto3. EnvironmentProblem where the store cannot promise it.
        """
        if self.address.scheme == "file":
            return _link_if_absent(Path(self._path(name)), data)
        if not self.has_conditional_put:
            what = "conditional puts are not possible here"
            hint = install_hint("s3") if self.address.scheme == "s3" else "Use an s3:// or file:// address"
            raise EnvironmentProblem(str(self.address), what, hint)
        return _put_object_if_absent(self.address / name, data)

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        try:
            retried(self.address / name, "cannot be removed", lambda: self._fs.delete_file(self._path(name)))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self.address.full_path}/{name}"


def _file_system(address: Address) -> fs.FileSystem:
    from pyarrow import fs

    if address.scheme == "file":
        return fs.LocalFileSystem()
    if address.scheme == "gs":
        from datetime import timedelta

        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=30))
    options: dict[str, Any] = {"connect_timeout": 10.0, "request_timeout": 60.0}  # the SDK's 3 s are too few for parts
    if endpoint := _endpoint():
        options["endpoint_override"] = endpoint
    elif not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        bucket = address.path.partition("/")[0]
        options["region"] = retried(address, "cannot be found", lambda: fs.resolve_s3_region(bucket))
    retry = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS_OF_SDK)
    try:
        # Delayed: an object that fits into one part is sent by one request, so that it is whole or not there.
        return fs.S3FileSystem(retry_strategy=retry, allow_delayed_open=True, **options)
    except (OSError, ValueError) as error:
        raise explain(address, "cannot be opened", error) from error


def _endpoint() -> str:
    """The S3 server that the environment names, or "". UsageError where it is no URL."""
    name = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), "")
    endpoint = os.environ.get(name, "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise UsageError(name, f"is no URL (found {endpoint!r})", "Begin it with http:// or https://")
    return endpoint


def _has_boto3() -> bool:
    return find_spec("boto3") is not None


def _put_object_if_absent(address: Address, data: bytes) -> bool:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = address.path.partition("/")

    def send() -> bool:
        try:
            boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                return False
            raise OSError(str(error)) from error
        except BotoCoreError as error:
            raise OSError(f"NETWORK_CONNECTION: {error}") from error
        return True

    return retried(address, "cannot be written", send)


def _link_if_absent(path: Path, data: bytes) -> bool:
    """A hard link fails where its name is taken, whoever else tries."""
    ours = path.with_name(f"{TMP_PREFIX}{secrets.token_hex(8)}")
    with atomic_write(ours) as out:
        out.write(data)
    try:
        path.hardlink_to(ours)
    except FileExistsError:
        return False
    finally:
        ours.unlink()
    return True


def _whole(data: bytes | Path, size_bytes: int) -> Any:
    """All of a local file as one buffer; a large one is mapped, and read as it is sent."""
    import pyarrow as pa

    if isinstance(data, bytes):
        return data
    with environment_problems(data):
        if size_bytes <= BLOCK_BYTES:
            return data.read_bytes()
        with pa.memory_map(str(data)) as mapped:
            return mapped.read_buffer()


def _blocks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with environment_problems(data), data.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
