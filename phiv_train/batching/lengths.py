"""The exact length of every row, before an image is opened; and what becomes of rows that are too long.

    lengths = measure(ConversationDataset("ucf101", "train"), family, processor)
    lengths.tokens.max(), lengths.image_tokens.sum(), lengths.supervised.sum()
    fitted = fit(dataset, lengths, family, processor, max_length=8192, on_too_long="trim_images")
    plan = make_plan(fitted.lengths.tokens, fitted.lengths.image_tokens, spec, rows=fitted.rows)

Lengths come from stored image sizes and the text, through `family.measure`, which gives exactly what `encode` would.
Rows that differ in id and file names only are measured once. Nothing is left out silently: rows without supervised
tokens and rows that are too long are an error, or counted and named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
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
from phiv_train.families.base import Family, Measured

OnTooLong = Literal["error", "skip", "trim_images", "trim_or_skip"]
OnBad = Literal["error", "skip"]
_CACHE_VERSION = 3  # raise it when the meaning of a stored number changes
_MEMO_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Lengths:
    """Per row of a split, int64 [rows]. `rows`: the numbers of those that were measured; all others are zeros here.

    `tokens`: of the row. `image_tokens`: those inside images. `supervised`: those of answers. `images`: images of the
    row. `vision_cost`: what they cost the vision tower, in the family's own unit. `bad`: rows that cannot be trained
    on, with the reason; their numbers are zeros too.
    """

    rows: Ints

    tokens: Ints
    image_tokens: Ints
    supervised: Ints
    images: Ints
    vision_cost: Ints
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
    """The lengths of `num_rows` rows, spread evenly (default: all). RecordError for rows with nothing to learn.

    `on_bad="skip"` puts them into `Lengths.bad` instead. `cache_dir` keeps the result for the next run, under a name
    made of the manifest's hash and the processor's. `each` may wrap the row numbers in a progress bar.
    """
    rows = spread_rows(len(dataset), num_rows)
    cached = None
    if cache_dir is not None:
        identity = [_CACHE_VERSION, sha256_file(dataset.path / MANIFEST), dataset.split, len(rows), family.name]
        digest = hashlib.sha256(repr([*identity, processor.spec_hash]).encode()).hexdigest()
        cached = cache_dir / f"lengths-{digest[:16]}.npy"
        with suppress(OSError, ValueError, TypeError, EOFError):  # none there, or a damaged one: it is made again
            return Lengths(rows, *np.load(cached, allow_pickle=False))
    lengths = _measure(dataset, family, processor, rows, each)
    if lengths.bad and on_bad == "error":
        by_reason: dict[str, list[int]] = {}
        for row, reason in lengths.bad.items():
            by_reason.setdefault(reason, []).append(row)
        shown = list(by_reason.items())[:3]
        named = [f"{len(rows)} {reason}, first {dataset.conversation(rows[0]).id!r}" for reason, rows in shown]
        what = f"{len(lengths.bad)} of {len(rows)} rows of {dataset.split!r} cannot be trained on: {'; '.join(named)}"
        raise RecordError(dataset.place, what, "Convert without unlabeled rows, or pass --on_bad skip")
    if cached and not lengths.bad:
        columns = (lengths.tokens, lengths.image_tokens, lengths.supervised, lengths.images, lengths.vision_cost)
        with atomic_write(cached) as file:
            np.save(file, np.stack(columns), allow_pickle=False)
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
    """The rows within `max_length` tokens, and whose `vision_cost` is within `max_image_tokens`.

    Too long rows: `error` raises RecordError, naming the first. `skip` leaves them out. `trim_images` keeps as many of
    a row's images as fit, at least one, spread evenly over the row (image `i * n // k` for i in 0..k-1, as frames
    are taken from a clip); the text stays. A row that is too long even so raises RecordError; `trim_or_skip` leaves it
    out.
    """
    limits = _Limits(max_length, max_image_tokens)
    long = np.flatnonzero(limits.are_exceeded(lengths.tokens, lengths.vision_cost))
    left_out = {reason: tuple(r for r, why in lengths.bad.items() if why == reason) for reason in lengths.bad.values()}
    if len(long) and on_too_long == "error":
        raise _too_long(dataset, lengths, long, limits, on_too_long)
    if len(long) and on_too_long == "skip":
        left_out["too long"] = tuple(long.tolist())
    kept: dict[int, tuple[int, ...]] = {}
    if len(long) and on_too_long in ("trim_images", "trim_or_skip"):
        lengths, kept = _trim_rows(dataset, lengths, long.tolist(), family, processor, limits)
        hopeless = np.array([row for row in long.tolist() if row not in kept])
        if len(hopeless) and on_too_long == "trim_images":
            raise _too_long(dataset, lengths, hopeless, limits, on_too_long)
        if len(hopeless):
            left_out["too long"] = tuple(hopeless.tolist())
    rows = np.setdiff1d(lengths.rows, [row for rows in left_out.values() for row in rows])
    return Fitted(rows, lengths, kept_images=kept, skipped=left_out)


def spread_rows(total: int, count: int | None) -> Ints:
    """`count` of `total` row numbers, ascending; all without a count. The same ones for the same numbers.

    One row of each of `count` equal stretches of the split, so that sorted rows (UCF-101's by class) give every class
    its share. Which one of a stretch is a fixed random choice: at a fixed step, rows that alternate between two
    answers would all have the same.

    >>> spread_rows(1000, 4).tolist()
    [25, 393, 510, 871]
    """
    if count is None or count >= total:
        return np.arange(total)
    ends = np.arange(count + 1) * total // count
    keys = np.random.Philox(np.random.SeedSequence(count)).random_raw(count) >> np.uint64(1)
    return ends[:-1] + keys.astype(np.int64) % np.diff(ends)


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


@dataclass(frozen=True, slots=True)
class _Limits:
    tokens: int
    vision_cost: int | None

    def are_exceeded(self, tokens: Ints, vision_cost: Ints) -> NDArray[np.bool_]:
        over: NDArray[np.bool_] = tokens > self.tokens
        return over if self.vision_cost is None else over | (vision_cost > self.vision_cost)


def _measure(
    dataset: ConversationDataset,
    family: Family,
    processor: Any,
    rows: Ints,
    each: Callable[[Iterable[int]], Iterable[int]],
) -> Lengths:
    """Rows that differ in id and file names alone share one measurement: clips of one class."""
    columns = np.zeros((5, len(dataset)), np.int64)
    memo: dict[Hashable, Measured | str] = {}
    bad: dict[int, str] = {}
    for row in each(rows.tolist()):
        conversation, sizes = dataset.conversation(row), dataset.sizes_of(row)
        # All of it that its length depends on: neither its id nor the names of its images.
        turns = tuple((t.user, t.assistant, t.answers, len(t.images), t.image_offsets) for t in conversation.turns)
        key = conversation.source, conversation.system, turns, sizes
        if (found := memo.get(key)) is None:
            if len(memo) >= _MEMO_ROWS:
                memo.clear()
            # Why a row cannot be trained on is put in words that are the same for all rows of its kind.
            found = "without an answer"
            if conversation.is_labeled:
                try:
                    measured = family.measure(conversation, sizes, processor)
                    found = measured if measured.supervised else "whose answers have no tokens"
                except RecordError as error:
                    found = f"that cannot be encoded ({error.what})"
            memo[key] = found
        columns[3, row] = len(sizes)
        if isinstance(found, str):
            bad[row] = found
        else:
            columns[[0, 1, 2, 4], row] = found.tokens, found.image_tokens, found.supervised, found.vision_cost
    tokens, image_tokens, supervised, images, vision_cost = columns
    return Lengths(rows, tokens, image_tokens, supervised, images, vision_cost, bad)


def _trim_rows(
    dataset: ConversationDataset, lengths: Lengths, rows: list[int], family: Family, processor: Any, limits: _Limits
) -> tuple[Lengths, dict[int, tuple[int, ...]]]:
    """The lengths with `rows` cut to fit, and the images each of them keeps; a row that cannot fit is as it was."""
    tokens, image_tokens, images = lengths.tokens.copy(), lengths.image_tokens.copy(), lengths.images.copy()
    vision_cost = lengths.vision_cost.copy()
    kept: dict[int, tuple[int, ...]] = {}
    for row in rows:
        conversation, sizes = dataset.conversation(row), dataset.sizes_of(row)
        for count in range(len(sizes) - 1, 0, -1):
            some = tuple(i * len(sizes) // count for i in range(count))
            measured = family.measure(keep_images(conversation, some), [sizes[i] for i in some], processor)
            if not limits.are_exceeded(np.array(measured.tokens), np.array(measured.vision_cost)):
                kept[row], images[row] = some, count
                tokens[row], image_tokens[row] = measured.tokens, measured.image_tokens
                vision_cost[row] = measured.vision_cost
                break
    cut_lengths = replace(lengths, tokens=tokens, image_tokens=image_tokens, images=images, vision_cost=vision_cost)
    return cut_lengths, kept


def _too_long(
    dataset: ConversationDataset, lengths: Lengths, rows: Ints, limits: _Limits, on_too_long: OnTooLong
) -> RecordError:
    """The error of the first of `rows`: what it takes, and the ways out that there are for it."""
    row = int(rows[0])
    tokens, image_tokens, images = (int(a[row]) for a in (lengths.tokens, lengths.image_tokens, lengths.images))
    setting, what = "max_length", f"is {tokens} tokens, over max_length {limits.tokens}"
    if tokens <= limits.tokens:
        setting = "max_image_tokens"
        what = f"has {lengths.vision_cost[row]} image tokens, over max_image_tokens {limits.vision_cost}"
    even = " even with one image" if on_too_long == "trim_images" and images > 1 else ""
    taken = f"{images} image{'' if images == 1 else 's'} take {image_tokens}" if images else "all of them text"
    others = {1: "", 2: "; 1 more row is too long"}.get(len(rows), f"; {len(rows) - 1} more rows are too long")
    shorter = "shorten its text"
    if 2 * image_tokens > tokens:
        shorter = "use fewer images" if images > 1 else "use a smaller image"
    out = "trim_or_skip" if on_too_long == "trim_images" else "skip"
    trim = " (trim_images drops some of their images)" if out == "skip" and images > 1 else ""
    hint = f"Raise --{setting}, {shorter}, or leave such rows out with --on_too_long {out}{trim}"
    return RecordError("phiv-train", f"{dataset.conversation(row).id!r} {what}{even} ({taken}{others})", hint)
