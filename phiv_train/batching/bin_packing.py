"""Windowed bin packing: longest-processing-time first (LPT), or best-fit decreasing (BFD) where LPT would overflow.

    pack_of = pack_rows(costs, limits)             # rows laid end to end: every cost of a pack adds up to <= its limit
    pack_of = batch_padded(lengths, max_rows=4)    # rows padded to the longest: count * longest <= max_tokens

It decides which rows share a micro-batch, within several budgets, with little waste: a million rows in about a second.

Rows come in shuffled order and are packed within windows of 128 packs or more, so a pack's rows are neighbours of the
shuffle, not the longest of the whole set. In a window, longest first, every row goes to the emptiest pack (LPT): packs
come out about equally full, each with long and short rows. Where long rows are too many for that (as with lengths
uniform up to the limit), those go to the fullest pack that takes them (BFD). All windows place their t-th row at once:
the loop runs over one window's rows, numpy over windows and packs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# Larger windows waste less (half a pack each) and cost more: rows * packs is the work, rows of a window the loop.
MIN_PACKS_PER_WINDOW, MAX_PACKS_PER_WINDOW = 128, 1024
MAX_WORK, MAX_LOOP = 2**28, 2**13
# Rows below this share of every budget are packed in joined runs, which bounds the rows of a window by 128 * 64.
GRAIN = 1 / 64
# Below this share a row levels packs rather than looking for its best fit.
SMALL = 1 / 8
BATCHES_PER_WINDOW = 64


def pack_rows(costs: Ints, limits: Ints) -> Ints:
    """The pack number, 0..packs-1, of each of n rows. `costs` [n, d], `limits` [d], no cost above its limit."""
    if not len(costs):
        return np.zeros(0, np.int64)
    assert (costs <= limits).all()
    limits = np.minimum(limits, 2**31 - 2)  # what is left of them is kept in int32
    shares = (costs / limits).max(axis=1)
    # The item of each row: rows below GRAIN of the budgets are joined in order to runs of about GRAIN.
    small = shares < GRAIN
    run = np.floor(np.cumsum(shares[small]) / GRAIN).astype(np.int64)
    begins = np.ones(len(shares), bool)
    begins[small] = np.diff(run, prepend=-1) != 0
    item_of: Ints = np.cumsum(begins) - 1
    item_of[small] = item_of[small][begins[small]][np.cumsum(begins[small]) - 1]
    items = np.stack([np.bincount(item_of, weights=column) for column in costs.T], axis=1).astype(np.int64)
    pack_of = _pack_windows(items, limits)[item_of]
    used = np.bincount(pack_of) > 0
    return (np.cumsum(used) - 1)[pack_of]


def batch_padded(
    lengths: Ints,
    *,
    max_rows: int,
    max_tokens: int | None = None,
    image_tokens: Ints | None = None,
    max_image_tokens: int | None = None,
) -> Ints:
    """The batch number of each row for padded batches, rows of similar length together within windows of the order."""
    n = len(lengths)
    window = np.arange(n) // (max_rows * BATCHES_PER_WINDOW)
    order = np.lexsort((-lengths, window))
    space = np.full(n, max_rows) if max_tokens is None else np.minimum(max_rows, max_tokens // lengths[order])
    ends = np.minimum(np.arange(n) + space, (window[order] + 1) * max_rows * BATCHES_PER_WINDOW)
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


def _pack_windows(items: Ints, limits: Ints) -> Ints:
    """The pack number of each item, windows packed side by side; numbers have gaps."""
    expected = max(1, int(np.ceil((items.sum(axis=0) / limits).max())))
    affordable = min(MAX_WORK // len(items), MAX_LOOP * expected // len(items), MAX_PACKS_PER_WINDOW)
    windows = max(1, round(expected / max(affordable, MIN_PACKS_PER_WINDOW)))
    width = -(-len(items) // windows)
    windows = -(-len(items) // width)
    padded = np.zeros((windows * width, len(limits)), np.int64)  # no cost: they fit in any pack
    padded[: len(items)] = items
    grid = padded.reshape(windows, width, -1)
    shares = (grid / limits).max(axis=2)
    order = np.argsort(-shares, axis=1, kind="stable")
    grid, shares = np.take_along_axis(grid, order[:, :, None], axis=1), np.take_along_axis(shares, order, axis=1)
    needed = np.ceil((grid.sum(axis=1) / limits).max(axis=1)).astype(np.int64)[:, None]
    space = [np.full((windows, int(needed.max()) + 4), limit, np.int32) for limit in limits]  # all packs are empty
    chosen = _Windows(space, limits.tolist(), needed, space[0]).place(grid, _count_best_fit_columns(shares))
    pack_of = np.empty_like(order)
    np.put_along_axis(pack_of, order, chosen, axis=1)
    stride = int(chosen.max()) + 1
    return (pack_of + np.arange(windows)[:, None] * stride).reshape(-1)[: len(items)]


def _count_best_fit_columns(shares: NDArray[np.float64]) -> int:
    """How many columns (the t-th longest of every window) to place by best fit: none, or all large ones.

    A row of share s finds level packs filled by the longer rows, a fraction c of all: it fits where c + s <= 1.
    """
    longest = shares.mean(axis=0)
    large = int((shares.max(axis=0) > SMALL).sum())
    filled = np.cumsum(longest) / longest.sum()
    return large if (filled + longest)[:large].max(initial=0.0) > 1 else 0


@dataclass(slots=True)
class _Windows:
    """The packs under construction: `space[d]` [windows, packs] is what is left of budget d.

    `level` is `space[0]` of the packs to be levelled, those the total asks for, and 0 at all others.
    """

    space: list[NDArray[np.int32]]
    limits: list[int]
    needed: Ints  # [windows, 1], packs that the total asks for
    level: NDArray[np.int32]

    def place(self, grid: Ints, best_fit: int) -> Ints:
        """Place all items column by column, the first `best_fit` ones by best fit. The pack of each in its window."""
        chosen = np.empty(grid.shape[:2], np.int64)
        columns = np.ascontiguousarray(grid.transpose(1, 2, 0), dtype=np.int32)  # [width, d, windows]
        for t, column in enumerate(columns):
            if t == best_fit:
                opened = (self.space[0] < self.limits[0]).sum(axis=1, keepdims=True)
                wanted = np.arange(self.space[0].shape[1]) < np.maximum(opened, self.needed)
                self.level = self.space[0] * wanted.astype(np.int32)
            if t < best_fit:
                pick = np.where(self._fits(column), self.space[0], np.iinfo(np.int32).max).argmin(axis=1)
            else:
                pick = self.level.argmax(axis=1)
            chosen[:, t] = self._take(column, pick)
        return chosen

    def _take(self, column: NDArray[np.int32], pick: Ints) -> Ints:
        """Put the items into the packs of `pick`; those that do not fit there into another, if need be a new one."""
        windows = np.arange(len(pick))
        while True:
            fit = [space[windows, pick] >= cost for space, cost in zip(self.space, column, strict=True)]
            if not len(stuck := np.flatnonzero(~np.logical_and.reduce(fit))):
                break
            fits = self._fits(column[:, stuck], stuck)
            if fits.any(axis=1).all():
                pick[stuck] = (fits * (self.level[stuck] + 1)).argmax(axis=1)
            else:
                extra = (len(self.level), max(4, self.level.shape[1] // 8))
                levelling = self.level is not self.space[0]
                self.space = [
                    np.concatenate([space, np.full(extra, limit, np.int32)], axis=1)
                    for space, limit in zip(self.space, self.limits, strict=True)
                ]
                level = np.concatenate([self.level, np.zeros(extra, np.int32)], axis=1) if levelling else self.space[0]
                self.level = level
        for space, cost in zip(self.space, column, strict=True):
            space[windows, pick] -= cost
        if self.level is not self.space[0]:
            self.level[windows, pick] = np.maximum(self.level[windows, pick] - column[0], 0)
        return pick

    def _fits(self, column: NDArray[np.int32], windows: Ints | slice = slice(None)) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = self.space[0][windows] >= column[0][:, None]
        for space, cost in zip(self.space[1:], column[1:], strict=True):
            fits &= space[windows] >= cost[:, None]
        return fits
