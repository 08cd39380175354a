"""How well images that were stored again are distinguished from others (PV241), and what a search costs.

    python benchmarks/near_duplicates.py FOLDER... --images 1000000

Every image below the folders is stored again in each of `WAYS`. A line a way: how many copies have at most `MAX_BITS`
other bits, how many grey pixels that correlate by `MIN_CORRELATION`, and how many both, which is what is found. Then
every two images of different origin are compared; frames of a clip (`v.0.jpg`, `v.1.jpg`) are of one. Plain images,
which are not compared, do not count. In the end, a search in random perceptual hashes, a hundredth of them found
again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from phiv_data.media.images import decode_whole, open_image
from phiv_data.media.reject import RejectInput
from phiv_data.validation.core.finding import ImageFacts, RowContext
from phiv_data.validation.core.key_index import KeyBlock, KeyIndex, pack
from phiv_data.validation.imaging import perceptual_hash as looks
from phiv_data.validation.rules.near_duplicates import KEYS, find_near_duplicates
from phiv_schemas import Conversation, Turn

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif"}
"""Files with others are passed by."""
BLOCK = 10_000
BITS = np.array([1 << bit for bit in range(8)], np.uint8)


def stored(kind: str, **options: int) -> Callable[[Image.Image], bytes]:
    """A way to store an image."""

    def encode(image: Image.Image) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    return encode


def scaled(factor: float) -> Callable[[Image.Image], bytes]:
    """An image of another size, as PNG."""
    png = stored("PNG", compress_level=1)
    return lambda image: png(image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor)))))


def brightened(factor: float) -> Callable[[Image.Image], bytes]:
    """A brighter or darker image, as PNG."""
    png = stored("PNG", compress_level=1)
    return lambda image: png(ImageEnhance.Brightness(image).enhance(factor))


WAYS = {
    "PNG": stored("PNG", compress_level=1),
    **{f"JPEG {quality}": stored("JPEG", quality=quality) for quality in (30, 50, 75, 90)},
    **{f"WebP {quality}": stored("WEBP", quality=quality) for quality in (30, 80)},
    **{f"size x {factor}": scaled(factor) for factor in (0.5, 0.75, 1.5)},
    **{f"brightness x {factor}": brightened(factor) for factor in (0.9, 1.1)},
}


def main() -> None:
    """Print rates over real images, then seconds and memory of a search in synthetic hashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    options = parser.parse_args()
    images = [image for folder in options.folders for image in read(folder)]
    seen = [(origin, phash) for origin, _, detail, phash in images if detail >= looks.MIN_DETAIL_SIMILAR]
    sys.stdout.write(f"{len(images)} images, {len(images) - len(seen)} plain\n")
    if seen:
        print_copies([(data, phash) for _, data, detail, phash in images if detail >= looks.MIN_DETAIL_SIMILAR])
        print_others(*zip(*seen, strict=True))
    print_search(options.images)


def read(folder: Path) -> Iterator[tuple[str, bytes, int, bytes]]:
    """Origin, bytes, strength and perceptual hash of every different image."""
    known = set()
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        data = path.read_bytes()
        try:
            detail, phash = perceptual_hash(data)
        except RejectInput:
            continue
        if (digest := hashlib.sha256(data).digest()) not in known:
            known.add(digest)
            yield re.sub(r"(\.\d+)?\.\w+$", "", path.name), data, detail, phash


def perceptual_hash(data: bytes) -> tuple[int, bytes]:
    """Strength and perceptual hash, as in a validation."""
    return looks.perceptual_hash(decode_whole(data))


def print_copies(images: list[tuple[bytes, bytes]]) -> None:
    """How many of the copies are found, by way."""
    for name, encode in WAYS.items():
        copies = [perceptual_hash(encode(open_image(data).convert("RGB")))[1] for data, _ in images]
        close, similar = compared([phash for _, phash in images], copies, paired=True)
        sys.stdout.write(
            f"{name:16}  bits {close.mean():6.2%}  pixels {similar.mean():6.2%}  found {(close & similar).mean():6.2%}"
            f"  of {len(copies)}\n"
        )


def print_others(origins: tuple[str, ...], seen: tuple[bytes, ...]) -> None:
    """How many pairs of different images are taken for one."""
    close, similar = compared(list(seen), list(seen))
    names = np.array(origins)
    upper = np.triu(np.ones_like(close), 1)
    for what, pairs in (
        ("different origin", upper & (names[:, None] != names)),
        ("one origin", upper & (names[:, None] == names)),
    ):
        found = close & similar & pairs
        sys.stdout.write(
            f"pairs of {what}: {pairs.sum():,}, bits {(close & pairs).sum():,}, pixels {(similar & pairs).sum():,},"
            f" found {found.sum():,}\n"
        )
        if what == "different origin":
            sys.stdout.writelines(f"  {origins[i]} {origins[j]}\n" for i, j in np.argwhere(found)[:20])


def compared(
    these: list[bytes], those: list[bytes], *, paired: bool = False
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which have close bits, and which like pixels: of each with its own, or with all."""
    if paired:
        pairs = [compared([one], [other]) for one, other in zip(these, those, strict=True)]
        close, similar = (np.concatenate(some)[:, 0] for some in zip(*pairs, strict=True))
        return close, similar
    a, b = (np.frombuffer(b"".join(some), np.uint8).reshape(len(some), -1) for some in (these, those))
    bits, others = (np.unpackbits(one[:, : looks.DHASH_BYTES], axis=1).astype(np.float32) for one in (a, b))
    differ = bits @ (1 - others).T + (1 - bits) @ others.T
    return differ <= looks.MAX_BITS, looks.are_similar(a[:, looks.DHASH_BYTES :], b[:, looks.DHASH_BYTES :])


# A search ----------------------------------------------------------------------------------------------------------


def print_search(count: int) -> None:
    """Time and memory of a search among random hashes, and among hashes that are all near."""
    for name, kind in (("random", random_hashes), ("all near", near_hashes)):
        with tempfile.TemporaryDirectory() as folder:
            index = KeyIndex(lambda folder=folder: Path(folder))
            for block in kind(count):
                index.add(block)
            start = time.process_time()
            found = sum(1 for _ in find_near_duplicates(index))
            taken = time.process_time() - start
            most = peak(lambda index=index: sum(1 for _ in find_near_duplicates(index)))
        sys.stdout.write(f"{count:,} images, {name}: {found:,} found, {taken:.1f} s, {most / count:.0f} bytes each\n")


def peak(call: Callable[[], object]) -> int:
    """The most bytes that a call holds at a time."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def random_hashes(count: int) -> Iterator[list[KeyBlock]]:
    """Of two splits, in blocks. Every hundredth of val is one of train with a bit and a pixel changed."""
    random = np.random.default_rng(0)
    again = np.empty((0, looks.PHASH_BYTES), np.uint8)
    for split in ("train", "val"):
        for first in range(0, count // 2, BLOCK):
            some = random.integers(0, 256, (min(BLOCK, count // 2 - first), looks.PHASH_BYTES), np.uint8)
            if split == "train":
                again = np.concatenate([again, some[::50]])
            else:
                some[::50] = again[first // 50 :][: len(some[::50])]
                some[::50] ^= np.eye(1, looks.PHASH_BYTES, 3, np.uint8) + np.eye(1, looks.PHASH_BYTES, 70, np.uint8)
            yield keys_of(some, split, first)


def near_hashes(count: int) -> Iterator[list[KeyBlock]]:
    """As of a scene without motion: all have one hash but for a bit or two."""
    random = np.random.default_rng(0)
    one = random.integers(0, 256, looks.PHASH_BYTES, np.uint8)
    for split in ("train", "val"):
        for first in range(0, count // 2, BLOCK):
            some = np.repeat(one[None], min(BLOCK, count // 2 - first), axis=0)
            for _ in range(2):
                some[np.arange(len(some)), random.integers(0, 8, len(some))] ^= random.choice(BITS, len(some))
            yield keys_of(some, split, first)


def keys_of(some: NDArray[np.uint8], split: str, first: int) -> list[KeyBlock]:
    """What a worker returns for rows with these hashes."""
    turn = Turn(images=("a.jpg",), user="", assistant="a")
    record = Conversation(id="a", source="synthetic", conversations=(turn,))
    rows = [
        RowContext(f"{split}.jsonl", number, split, record, (facts(phash.tobytes(), f"{split}{number}"),))
        for number, phash in enumerate(some, first + 1)
    ]
    return [KeyBlock(name, f"{split}.jsonl", split, pack(rule.keys, rows)) for name, rule in KEYS.items()]


def facts(phash: bytes, name: str) -> ImageFacts:
    """Of an image that is not plain."""
    return ImageFacts((640, 480), "JPEG", hashlib.sha256(name.encode()).digest(), detail=100, phash=phash)


if __name__ == "__main__":
    main()
