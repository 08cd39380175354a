"""Rows to packs: which rows share a micro-batch, within budgets, with little waste, a million rows in about a second.

    pack_of = pack(costs, limits)             # rows laid end to end: every cost of a pack adds up to at most its limit
    pack_of = batch(lengths, max_rows=4)      # rows padded to the longest: count * longest within max_positions

Rows come in shuffled order and are packed within windows of about 128 packs, so a pack's rows are neighbours of the
shuffle, not the longest of the whole set. In a window, large rows go to the fullest pack that takes them (best fit,
longest first), small ones to the emptiest, which levels the packs and mixes lengths. All windows take their t-th row
at once: the loop runs over one window's rows, numpy over windows and packs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
PACKS_PER_WINDOW = 128
# Rows below this share of every budget are packed in glued runs, which bounds the rows of a window by 128 * 64.
GRAIN = 1 / 64
# Below this share a row levels packs rather than looking for its best fit.
SMALL = 1 / 8
BATCHES_PER_WINDOW = 64


def pack(costs: Ints, limits: Ints) -> Ints:
    """The pack number, 0..packs-1, of each of n rows. `costs` [n, d], `limits` [d], no cost above its limit."""
    if not len(costs):
        return np.zeros(0, np.int64)
    shares = (costs / limits).max(axis=1)
    item_of, first = _glue(shares)
    items = _sum_by(item_of, costs, len(first))
    pack_of = _pack_windows(items, limits)[item_of]
    return _again(pack_of, costs, limits)


def batch(
    lengths: Ints,
    *,
    max_rows: int,
    max_positions: int | None = None,
    image_tokens: Ints | None = None,
    max_image_tokens: int | None = None,
) -> Ints:
    """The batch number of each row for padded batches, rows of like length together within windows of the order."""
    n = len(lengths)
    window = np.arange(n) // (max_rows * BATCHES_PER_WINDOW)
    order = np.lexsort((-lengths, window))
    room = np.full(n, max_rows) if max_positions is None else np.minimum(max_rows, max_positions // lengths[order])
    ends = np.minimum(np.arange(n) + room, (window[order] + 1) * max_rows * BATCHES_PER_WINDOW)
    if max_image_tokens is not None and image_tokens is not None:
        seen = np.concatenate([[0], np.cumsum(image_tokens[order])])
        ends = np.minimum(ends, np.searchsorted(seen, seen[:-1] + max_image_tokens, side="right") - 1)
    starts = np.zeros(n, np.int64)
    stops, at = np.minimum(ends, n).tolist(), 0
    while at < n:  # one turn per batch; the longest row comes first and alone decides how many fit
        starts[at] = 1
        at = stops[at]
    number = np.empty(n, np.int64)
    number[order] = np.cumsum(starts) - 1
    return number


def _glue(shares: NDArray[np.float64]) -> tuple[Ints, Ints]:
    """(item of each row, first row of each item): small rows joined in order to runs of about GRAIN."""
    small = shares < GRAIN
    run = np.floor(np.cumsum(shares[small]) / GRAIN).astype(np.int64)
    begins = np.ones(len(shares), bool)
    begins[small] = np.diff(run, prepend=-1) != 0
    item_of = np.cumsum(begins) - 1
    item_of[small] = item_of[small][begins[small]][np.cumsum(begins[small]) - 1]
    return item_of, np.flatnonzero(begins)


def _pack_windows(items: Ints, limits: Ints) -> Ints:
    """The pack number of each item, windows packed side by side; numbers have gaps."""
    expected = max(1, int(np.ceil((items.sum(axis=0) / limits).max())))
    windows = max(1, round(expected / PACKS_PER_WINDOW))
    width = -(-len(items) // windows)
    windows = -(-len(items) // width)
    padded = np.zeros((windows * width, len(limits)), np.int64)  # no cost: they fit in any pack
    padded[: len(items)] = items
    grid = padded.reshape(windows, width, -1)
    shares = (grid / limits).max(axis=2)
    order = np.argsort(-shares, axis=1, kind="stable")
    grid, shares = np.take_along_axis(grid, order[:, :, None], axis=1), np.take_along_axis(shares, order, axis=1)
    chosen = _Windows.empty(grid, limits).place(grid, int((shares.max(axis=0) > SMALL).sum()))
    pack_of = np.empty_like(order)
    np.put_along_axis(pack_of, order, chosen, axis=1)
    stride = int(chosen.max()) + 1
    return (pack_of + np.arange(windows)[:, None] * stride).reshape(-1)[: len(items)]


@dataclass(slots=True)
class _Windows:
    """The packs under construction: `room[d]` [windows, packs] is what is left of budget d."""

    room: list[NDArray[np.int32]]
    limits: list[int]
    needed: Ints  # [windows, 1], packs that the total asks for

    @classmethod
    def empty(cls, grid: Ints, limits: Ints) -> _Windows:
        needed = np.ceil((grid.sum(axis=1) / limits).max(axis=1)).astype(np.int64)[:, None]
        shape = len(grid), int(needed.max()) + 4
        return cls([np.full(shape, limit, np.int32) for limit in limits], limits.tolist(), needed)

    def place(self, grid: Ints, large: int) -> Ints:
        """Place all items, column by column; the first `large` columns by best fit. The pack of each, per window."""
        chosen = np.empty(grid.shape[:2], np.int64)
        columns = np.ascontiguousarray(grid.transpose(1, 2, 0), dtype=np.int32)  # [width, d, windows]
        levels: NDArray[np.int32] | None = None
        for t, column in enumerate(columns):
            if t >= large and levels is None:
                levels = self._levels()
            chosen[:, t], grown = self._place_column(column, levels)
            levels = self._levels() if grown and levels is not None else levels
        return chosen

    def _place_column(self, column: NDArray[np.int32], levels: NDArray[np.int32] | None) -> tuple[Ints, bool]:
        rows, grown = np.arange(column.shape[1]), False
        while True:
            pick = self._best_fit(column) if levels is None else self._emptiest(column, levels)
            if all((room[rows, pick] >= cost).all() for room, cost in zip(self.room, column, strict=True)):
                break
            self._grow()
            grown = True
            levels = None if levels is None else self._levels()
        for room, cost in zip(self.room, column, strict=True):
            room[rows, pick] -= cost
        return pick, grown

    def _fits(self, column: NDArray[np.int32]) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = self.room[0] >= column[0][:, None]
        for room, cost in zip(self.room[1:], column[1:], strict=True):
            fits &= room >= cost[:, None]
        return fits

    def _best_fit(self, column: NDArray[np.int32]) -> Ints:
        fullest: Ints = np.where(self._fits(column), self.room[0], np.iinfo(np.int32).max).argmin(axis=1)
        return fullest

    def _emptiest(self, column: NDArray[np.int32], levels: NDArray[np.int32]) -> Ints:
        # `levels` is 1 on packs the total asks for: others are opened only when none of those takes the item.
        emptiest: Ints = (self._fits(column) * (self.room[0] * levels + 1)).argmax(axis=1)
        return emptiest

    def _levels(self) -> NDArray[np.int32]:
        opened = (self.room[0] < self.limits[0]).sum(axis=1, keepdims=True)
        wanted: NDArray[np.int32] = np.arange(self.room[0].shape[1]) < np.maximum(opened, self.needed)
        return wanted.astype(np.int32)

    def _grow(self) -> None:
        extra = (len(self.room[0]), max(4, self.room[0].shape[1] // 8))
        self.room = [
            np.concatenate([room, np.full(extra, limit, np.int32)], axis=1)
            for room, limit in zip(self.room, self.limits, strict=True)
        ]


def _again(pack_of: Ints, costs: Ints, limits: Ints) -> Ints:
    """Pack once more what lies in packs less than half full: the odd ones left over in each window."""
    pack_of = _renumber(pack_of)
    count = int(pack_of.max()) + 1
    sparse = (_sum_by(pack_of, costs, count) / limits).max(axis=1) < 0.5
    if sparse.sum() < 2:
        return pack_of
    rows = np.flatnonzero(sparse[pack_of])
    better = _pack_windows(costs[rows], limits)
    if len(np.unique(better)) < sparse.sum():
        pack_of[rows] = count + better
    return _renumber(pack_of)


def _renumber(pack_of: Ints) -> Ints:
    return np.unique(pack_of, return_inverse=True)[1]


def _sum_by(group_of: Ints, values: Ints, groups: int) -> Ints:
    sums = [np.bincount(group_of, weights=column, minlength=groups) for column in values.T]
    return np.stack(sums, axis=1).astype(np.int64)
