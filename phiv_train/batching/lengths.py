"""The exact length of every row, before an image is opened; and what becomes of rows that are too long.

    lengths = measure(ConversationDataset("ucf101", "train"), family, processor)
    lengths.tokens.max(), lengths.image_tokens.sum(), lengths.supervised.sum()
    fitted = fit(dataset, lengths, family, processor, max_length=8192, on_too_long="trim_images")
    plan = make_plan(fitted.lengths.tokens, fitted.lengths.image_tokens, spec, rows=fitted.rows)

Lengths come from stored image sizes and the text, through `family.length`, which equals the length of what `encode`
gives, digit for digit. Rows that differ in id and file names only are measured once. Nothing is left out silently:
rows that teach nothing or are too long are an error, or counted and named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phiv_data.storage.dataset import MANIFEST, ConversationDataset
from phiv_data.utils.atomic import atomic_write, sha256_file
from phiv_schemas import Conversation
from phiv_schemas.errors import RecordError
from phiv_train.batching.bin_packing import Ints
from phiv_train.families.base import Family, Size

OnTooLong = Literal["error", "skip", "trim_images"]
OnBad = Literal["error", "skip"]
_CACHE_VERSION = 1  # raise it when the meaning of a stored number changes
_MEMO_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Lengths:
    """Per row of a split, int64 [rows]. `bad`: rows that cannot be trained on, with the reason; all zeros here.

    `tokens`: positions of the row. `image_tokens`: those that images take. `supervised`: those that are learnt.
    `images`: images of the row.
    """

    tokens: Ints
    image_tokens: Ints
    supervised: Ints
    images: Ints
    bad: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What is left to train on. `rows`: the numbers to plan, ascending. `lengths` counts trimmed rows as trimmed.

    `kept_images`: for every trimmed row which of its images stay. `skipped`: numbers of the rows left out, by reason.
    """

    rows: Ints
    lengths: Lengths
    kept_images: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    skipped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        """`2970 rows; 12 with fewer images; left out: 18 too long`."""
        trimmed = f"; {len(self.kept_images)} with fewer images" if self.kept_images else ""
        out = ", ".join(f"{len(rows)} {reason}" for reason, rows in self.skipped.items())
        return f"{len(self.rows)} rows{trimmed}" + (f"; left out: {out}" if out else "")


def measure(
    dataset: ConversationDataset,
    family: Family,
    processor: Any,
    *,
    num_rows: int | None = None,
    on_bad: OnBad = "error",
    cache_dir: Path | None = None,
    each: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Lengths:
    """The lengths of the first `num_rows` rows (default: all). RecordError for rows with nothing to learn.

    `on_bad="skip"` puts them into `Lengths.bad` instead. `cache_dir` keeps the result for the next run, under a name
    made of the manifest's hash and the processor's. `each` may wrap the row numbers in a progress bar.
    """
    count = len(dataset) if num_rows is None else min(num_rows, len(dataset))
    cached = None if cache_dir is None else cache_dir / _cache_name(dataset, family, processor, count)
    if cached and (found := _read(cached)) is not None:
        return found
    lengths = _measure(dataset, family, processor, each(range(count)), count)
    if lengths.bad and on_bad == "error":
        raise _nothing_to_learn(dataset, lengths)
    if cached and not lengths.bad:
        _write(cached, lengths)
    return lengths


def fit(
    dataset: ConversationDataset,
    lengths: Lengths,
    family: Family,
    processor: Any,
    *,
    max_length: int,
    max_image_tokens: int | None = None,
    on_too_long: OnTooLong = "error",
) -> Fitted:
    """The rows within `max_length` positions, and within `max_image_tokens` of images.

    Too long rows: `error` raises RecordError, naming the first. `skip` leaves them out. `trim_images` keeps as many of
    a row's images as fit, at least one, spread evenly over the row (image `i * n // k` for i in 0..k-1, as frames
    are taken from a clip); the text stays. RecordError where a row is too long even so.
    """
    limits = _Limits(max_length, max_image_tokens)
    long = np.flatnonzero(limits.exceeded(lengths.tokens, lengths.image_tokens))
    left_out = {reason: tuple(r for r, why in lengths.bad.items() if why == reason) for reason in lengths.bad.values()}
    if len(long) and on_too_long == "error":
        raise _too_long(dataset, lengths, long, limits)
    if len(long) and on_too_long == "skip":
        left_out["too long"] = tuple(long.tolist())
    kept: dict[int, tuple[int, ...]] = {}
    if len(long) and on_too_long == "trim_images":
        lengths, kept = _trimmed(dataset, lengths, long.tolist(), family, processor, limits)
    rows = np.delete(np.arange(len(lengths)), [row for rows in left_out.values() for row in rows])
    return Fitted(rows, lengths, kept_images=kept, skipped=left_out)


def keep_images(conversation: Conversation, kept: Sequence[int]) -> Conversation:
    """The conversation with only those of its images (numbers into `image_paths`, ascending); texts unchanged."""
    wanted, first, turns = set(kept), 0, []
    for turn in conversation.turns:
        here = [i for i in range(len(turn.images)) if first + i in wanted]
        offsets = None if turn.image_offsets is None else tuple(turn.image_offsets[i] for i in here)
        images = tuple(turn.images[i] for i in here)
        turns.append(turn.model_copy(update={"images": images, "image_offsets": offsets}))
        first += len(turn.images)
    return conversation.model_copy(update={"conversations": tuple(turns)})


def count_tokens(conversation: Conversation, sizes: Sequence[Size], family: Family, processor: Any) -> tuple[int, int]:
    """(positions, those that are learnt): turn by turn, an answer is what comes after the prompt that asks for it."""
    whole, supervised, used = 0, 0, 0
    for number, turn in enumerate(conversation.turns, start=1):
        used += len(turn.images)
        upto = conversation.model_copy(update={"conversations": conversation.turns[:number]})
        prompt, whole = (family.length(upto, sizes[:used], processor, generation=asked) for asked in (True, False))
        supervised += whole - prompt
    return whole, supervised


@dataclass(frozen=True, slots=True)
class _Limits:
    tokens: int
    image_tokens: int | None

    def exceeded(self, tokens: Ints, image_tokens: Ints) -> NDArray[np.bool_]:
        over: NDArray[np.bool_] = tokens > self.tokens
        return over if self.image_tokens is None else over | (image_tokens > self.image_tokens)


def _measure(dataset: ConversationDataset, family: Family, processor: Any, rows: Iterable[int], count: int) -> Lengths:
    images = _images(dataset, count)
    per_image = family.num_image_tokens(images.widths, images.heights, processor)
    image_tokens = np.diff(np.append(0, np.cumsum(per_image))[images.offsets])
    memo: dict[Hashable, tuple[int, int]] = {}
    tokens, supervised, bad = np.zeros(count, np.int64), np.zeros(count, np.int64), {}
    for row in rows:
        try:
            tokens[row], supervised[row] = _measure_row(
                dataset.conversation(row), images.of(row), family, processor, memo
            )
        except _NothingToLearn as reason:
            bad[row] = str(reason)
            image_tokens[row] = 0
    return Lengths(tokens, image_tokens, supervised, np.diff(images.offsets), bad)


class _NothingToLearn(Exception):
    """Why a row cannot be trained on, in words that are the same for all rows of its kind."""


def _measure_row(
    conversation: Conversation,
    sizes: tuple[Size, ...],
    family: Family,
    processor: Any,
    memo: dict[Hashable, tuple[int, int]],
) -> tuple[int, int]:
    """(tokens, supervised). Rows that differ in id and file names alone share one look-up: clips of one class."""
    key = _shape(conversation), sizes
    if (found := memo.get(key)) is None:
        if len(memo) >= _MEMO_ROWS:
            memo.clear()
        found = memo[key] = _measure_new(conversation, sizes, family, processor)
    return found


def _measure_new(
    conversation: Conversation, sizes: tuple[Size, ...], family: Family, processor: Any
) -> tuple[int, int]:
    if not conversation.is_labeled:
        raise _NothingToLearn("without an answer")
    try:
        tokens, supervised = count_tokens(conversation, sizes, family, processor)
    except RecordError as error:
        raise _NothingToLearn(f"that cannot be encoded ({error.what})") from error
    if supervised < 1:
        raise _NothingToLearn("whose answers have no tokens")
    return tokens, supervised


def _shape(conversation: Conversation) -> Hashable:
    turns = tuple((t.user, t.assistant, t.answers, len(t.images), t.image_offsets) for t in conversation.turns)
    return conversation.source, conversation.system, turns


@dataclass(frozen=True, slots=True)
class _Images:
    """`ImageSizes` of the first rows; `of(row)` as plain tuples."""

    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    offsets: Ints

    def of(self, row: int) -> tuple[Size, ...]:
        span = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return tuple(zip(self.widths[span].tolist(), self.heights[span].tolist(), strict=True))


def _images(dataset: ConversationDataset, count: int) -> _Images:
    sizes = dataset.sizes()
    end = int(sizes.offsets[count])
    return _Images(sizes.widths[:end], sizes.heights[:end], sizes.offsets[: count + 1])


def _trimmed(
    dataset: ConversationDataset, lengths: Lengths, rows: list[int], family: Family, processor: Any, limits: _Limits
) -> tuple[Lengths, dict[int, tuple[int, ...]]]:
    """The lengths with `rows` cut to fit, and the images each of them keeps."""
    tokens, image_tokens, images = lengths.tokens.copy(), lengths.image_tokens.copy(), lengths.images.copy()
    kept: dict[int, tuple[int, ...]] = {}
    for row in rows:
        if (cut := _trim(dataset, row, family, processor, limits)) is None:
            raise _too_long(dataset, lengths, np.array([row]), limits, " even with one" if images[row] else "")
        kept[row], tokens[row], image_tokens[row] = cut
        images[row] = len(kept[row])
    return replace(lengths, tokens=tokens, image_tokens=image_tokens, images=images), kept


def _trim(
    dataset: ConversationDataset, row: int, family: Family, processor: Any, limits: _Limits
) -> tuple[tuple[int, ...], int, int] | None:
    """(images kept, tokens, image tokens) of a row cut to fit; None where one image is too many."""
    conversation, sizes = dataset.conversation(row), _images(dataset, row + 1).of(row)
    widths, heights = np.array(sizes, np.int64).reshape(-1, 2).T
    per_image = family.num_image_tokens(widths, heights, processor)
    for count in range(len(sizes) - 1, 0, -1):
        kept = tuple(i * len(sizes) // count for i in range(count))
        tokens = family.length(keep_images(conversation, kept), [sizes[i] for i in kept], processor)
        image_tokens = int(per_image[list(kept)].sum())
        if not limits.exceeded(np.array(tokens), np.array(image_tokens)):
            return kept, tokens, image_tokens
    return None


def _too_long(
    dataset: ConversationDataset, lengths: Lengths, rows: Ints, limits: _Limits, even: str = ""
) -> RecordError:
    row = int(rows[0])
    tokens, image_tokens, images = (int(a[row]) for a in (lengths.tokens, lengths.image_tokens, lengths.images))
    others = {1: "", 2: "; 1 more row is too long"}.get(len(rows), f"; {len(rows) - 1} more rows are too long")
    taken = f"{images} image{'' if images == 1 else 's'} take {image_tokens}{others}"
    what = f"is {tokens} tokens, over max_length {limits.tokens}"
    hint = "Use fewer frames or raise max_length"
    if tokens <= limits.tokens:
        what = f"has {image_tokens} image tokens, over max_image_tokens {limits.image_tokens}"
        hint = "Use fewer frames or raise max_image_tokens"
    return RecordError("phiv-train", f"{dataset.conversation(row).id!r} {what}{even} ({taken})", hint)


def _nothing_to_learn(dataset: ConversationDataset, lengths: Lengths) -> RecordError:
    by_reason: dict[str, list[int]] = {}
    for row, reason in lengths.bad.items():
        by_reason.setdefault(reason, []).append(row)
    named = [
        f"{len(rows)} {reason}, first {dataset.conversation(rows[0]).id!r}"
        for reason, rows in list(by_reason.items())[:3]
    ]
    what = f"{len(lengths.bad)} of {len(lengths)} rows of {dataset.split!r} cannot be trained on: {'; '.join(named)}"
    return RecordError(str(dataset.path), what, "Convert without unlabeled rows, or pass --on_bad skip")


def _cache_name(dataset: ConversationDataset, family: Family, processor: Any, count: int) -> str:
    identity = [_CACHE_VERSION, sha256_file(dataset.path / MANIFEST), dataset.split, count, family.name]
    digest = hashlib.sha256(repr([*identity, processor.spec_hash]).encode()).hexdigest()
    return f"lengths-{digest[:16]}.npy"


def _read(path: Path) -> Lengths | None:
    """The stored lengths, or None where there are none or the file is damaged: it is made again then."""
    try:
        return Lengths(*np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError):
        return None


def _write(path: Path, lengths: Lengths) -> None:
    table = np.stack([lengths.tokens, lengths.image_tokens, lengths.supervised, lengths.images])
    with atomic_write(path) as file:
        np.save(file, table, allow_pickle=False)
