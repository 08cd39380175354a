"""An epoch over `s3://` against local files, copying a source, publishing; and two other libraries on the same server.

    python benchmarks/object_store.py [--rows 4000] [--peers PYTHON]

The server is moto's, a Python process on the same machine: what is compared is the way to it, not a network. PYTHON is
one of an environment with `mosaicml-streaming`, `litdata` and `boto3`; each library reads the same encoded images, in
order, in one process. Rows are of one JPEG image of about 45 KB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from object_store import S3Server

from phiv_converters.folder.options import FolderOptions
from phiv_data.convert.engine import convert
from phiv_data.convert.object_store import convert_anywhere
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.stores import folder_copy, threads
from phiv_data.stores.address import Address
from phiv_data.stores.opening import open_store


def make_images(folder: Path, count: int) -> None:
    """JPEG files of 640x480 in train/, a class for each ten."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 80, (480, 640, 3), np.uint8)
    for i in range(count):
        path = folder / f"train/class{i % 10}/{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(noise, i * 7, axis=1) + np.uint8(i % 170)
        Image.fromarray(np.kron(pixels[::4, ::4], np.ones((4, 4, 1), np.uint8))).save(path, quality=90)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_epoch(place: object) -> None:
    for sample in ConversationDataset(str(place), "train"):
        assert sample.images[0].data


def copy_source(address: str, cache: Path, num_threads: int) -> float:
    os.environ["PHIV_CACHE"] = str(cache)
    threads.NUM_THREADS = num_threads

    def copy() -> None:
        with folder_copy.local_copy(address):
            pass

    return seconds(copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--peers", default="")
    args = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        work = Path(folder)
        os.environ |= {"AWS_ENDPOINT_URL_S3": server.url, "PHIV_CACHE": str(work / "cache")}
        from pyarrow import fs

        fs.S3FileSystem(endpoint_override=server.url, allow_bucket_creation=True).create_dir("bench")
        make_images(work / "raw", args.rows)
        size_mb = sum(path.stat().st_size for path in (work / "raw").rglob("*.jpg")) / 1e6
        options = FolderOptions(source=work / "raw", val_fraction=0)
        took = {"convert locally": seconds(lambda: convert(options, work / "out", num_workers=0))}
        took["convert and publish"] = seconds(lambda: convert_anywhere(options, "s3://bench/out", num_workers=0))
        took["epoch, local"] = seconds(lambda: read_epoch(work / "out"))
        took["epoch, s3://, first"] = seconds(lambda: read_epoch("s3://bench/out"))
        took["epoch, s3://, second"] = seconds(lambda: read_epoch("s3://bench/out"))
        raw, store = (
            sorted((work / "raw").rglob("*.jpg"))[:1000],
            open_store(Address.parse("s3://bench/raw")),
        )
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda path: store.put(path.relative_to(work / "raw").as_posix(), path), raw))
        took[f"copy {len(raw)} files, one at a time"] = copy_source("s3://bench/raw", work / "one", 1)
        took[f"copy {len(raw)} files, 16 at a time"] = copy_source("s3://bench/raw", work / "many", 16)
        took["the same again, unchanged"] = copy_source("s3://bench/raw", work / "many", 16)
        for name, took_s in took.items():
            rows = f"{args.rows / took_s:8.0f} rows/s  {size_mb / took_s:6.0f} MB/s" if "files" not in name else ""
            sys.stdout.write(f"{name:32} {took_s:7.2f} s  {rows}\n")
        if args.peers:
            script = Path(__file__).with_name("object_store_peers.py")
            subprocess.run([args.peers, str(script), str(work / "raw"), str(work)], check=True)


if __name__ == "__main__":
    main()
