"""Statistics of the distinct images of each split, sizes and formats, from the keys of the rows' images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.core.row_stats import histograms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_KEYS = "image"
"""The keys of images by path: value is width, height (4 bytes each, little-endian; 0: not decoded), then format."""
_VALUE = [("width", "<u4"), ("height", "<u4"), ("format", "S8")]
_BINS = 33  # bit lengths of 32 bits


def image_stats(index: KeyIndex) -> dict[str, dict[str, Any]]:
    """Split to field of `SplitStats` to value. An image in several splits counts in each."""
    import numpy as np

    splits = sorted(set(index.splits()))
    images = np.zeros(len(splits), np.int64)
    widths, heights = np.zeros((2, len(splits), _BINS), np.int64)
    formats: dict[str, Counter[str]] = {split: Counter() for split in splits}
    for of, values in _distinct_images(index, splits):
        images += np.bincount(of, minlength=len(splits))
        of, values = of[values["width"] > 0], values[values["width"] > 0]
        widths += _bit_lengths(of, values["width"], len(splits))
        heights += _bit_lengths(of, values["height"], len(splits))
        for (number, name), count in Counter(zip(of.tolist(), values["format"].tolist(), strict=True)).items():
            formats[splits[number]][name.decode()] += count
    wide = histograms({split: dict(enumerate(bins)) for split, bins in zip(splits, widths, strict=True)})
    high = histograms({split: dict(enumerate(bins)) for split, bins in zip(splits, heights, strict=True)})
    return {
        split: {
            "images": count,
            "image_width": wide[split],
            "image_height": high[split],
            "image_format": dict(sorted(formats[split].items())),
        }
        for split, count in zip(splits, images.tolist(), strict=True)
    }


def _distinct_images(index: KeyIndex, splits: list[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """The distinct images of every split, in parts: the number of the split among `splits`, and the values."""
    import numpy as np

    number = {split: n for n, split in enumerate(splits)}
    split_of_place = np.array([number[split] for split in index.splits()], np.int64)
    for entries in index.sorted_entries(IMAGE_KEYS):
        of = split_of_place[entries["place"]]
        new = (entries["hi"][1:] != entries["hi"][:-1]) | (entries["lo"][1:] != entries["lo"][:-1])
        image = np.cumsum(np.concatenate(([0], new)))
        first = np.unique(image * len(splits) + of, return_index=True)[1]
        yield of[first], np.ascontiguousarray(entries["value"][first]).view(_VALUE)


def _bit_lengths(of: NDArray[np.int64], sizes: NDArray[np.uint32], num_splits: int) -> NDArray[np.int64]:
    """How many sizes of each split have each bit length."""
    import numpy as np

    bins = np.frexp(sizes.astype(float))[1]
    return np.bincount(of * _BINS + bins, minlength=num_splits * _BINS).reshape(num_splits, _BINS)
