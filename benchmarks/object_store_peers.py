"""For object_store.py, in an environment of their own: the same epoch by mosaicml-streaming and litdata.

python benchmarks/object_store_peers.py IMAGES WORK          # the server is that of the environment
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import boto3

SHARD_BYTES = 256 * 2**20


def main(images: Path, work: Path) -> None:
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL_S3"]
    files = sorted(images.rglob("*.jpg"))
    for name, write, read in (("mosaicml-streaming", write_mds, read_mds), ("litdata", write_lit, read_lit)):
        write(files, work / name)
        upload(work / name, name)
        for epoch in ("first", "second"):
            start = time.perf_counter()
            count = read(f"s3://bench/{name}", work / f"{name}-cache")
            took_s = time.perf_counter() - start
            assert count == len(files), (count, len(files))
            sys.stdout.write(f"{f'{name}, {epoch}':32} {took_s:7.2f} s  {count / took_s:8.0f} rows/s\n")
            sys.stdout.flush()


def upload(folder: Path, prefix: str) -> None:
    client = boto3.client("s3")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), "bench", f"{prefix}/{path.relative_to(folder).as_posix()}")


def write_mds(files: list[Path], out: Path) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "label": "str"}
    with MDSWriter(out=str(out), columns=columns, size_limit=SHARD_BYTES) as writer:
        for path in files:
            writer.write({"image": path.read_bytes(), "label": path.parent.name})


def read_mds(remote: str, cache: Path) -> int:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(remote=remote, local=str(cache), shuffle=False, batch_size=1)
    return sum(bool(row["image"]) for row in dataset)


def read_row(path: str) -> dict[str, object]:
    return {"image": Path(path).read_bytes(), "label": Path(path).parent.name}


def write_lit(files: list[Path], out: Path) -> None:
    import litdata

    litdata.optimize(read_row, [str(path) for path in files], str(out), chunk_bytes=SHARD_BYTES, num_workers=1)


def read_lit(remote: str, cache: Path) -> int:
    import litdata
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # it has no setting for it
    dataset = litdata.StreamingDataset(remote, cache_dir=str(cache), shuffle=False)
    return sum(bool(row["image"]) for row in dataset)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
