"""`Plan`: which rows make up every micro-batch and every optimizer step of an epoch, before anything is loaded.

    spec = PlanSpec(packs_per_step=16, max_tokens=8192, seed=42)
    plan = make_plan(lengths, image_tokens, spec, epoch=0)              # numpy only; a million rows in about a second
    plan.num_steps, plan.summary().fill
    plan.rows(plan.packs_for_rank(step=3, rank=1, world_size=2)[0])     # the rows of one micro-batch

A pack is one micro-batch: rows within the budgets, packed into one sequence or padded to the longest. A step takes
exactly `packs_per_step` consecutive packs, whichever processes run them: `world_size * accumulation` must equal it, and
then 1 x 4, 2 x 2 and 4 x 1 see the same steps. A plan is a pure function of (lengths, spec, epoch): a resumed run makes
it again and continues at its step.

Every row is in an epoch exactly once. Where the last step lacks packs, its packs are split; where it lacks rows, each
missing pack holds a padding example: the shortest row with weight 0, encoded without labels, so that it adds nothing
to the loss.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from phiv_schemas.errors import UsageError
from phiv_train.batching.bin_packing import Ints, batch_padded, pack_rows

PackLayout = Literal["packed", "padded"]


@dataclass(frozen=True, slots=True, order=True)
class PlannedRow:
    """A row of a micro-batch: its number in the split, and 0 as `weight` for a padding example."""

    index: int
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    """What a plan obeys; with the lengths and the epoch it determines the plan.

    `layout`: `packed` lays rows end to end (sum of lengths <= max_tokens), `padded` pads them to the longest
    (count * longest <= max_tokens). `max_rows`: rows of a pack (padded: the per-device batch size).
    `max_image_tokens`: image tokens of a pack. `largest_first`: the largest batch first (out-of-memory check): in epoch
    0 the packs with most tokens and with most image tokens run in the first step.
    """

    packs_per_step: int
    layout: PackLayout = "packed"
    max_tokens: int | None = None
    max_rows: int | None = None
    max_image_tokens: int | None = None
    seed: int = 0
    shuffle: bool = True
    largest_first: bool = True

    def __post_init__(self) -> None:
        limits = (self.packs_per_step, self.max_tokens, self.max_rows, self.max_image_tokens)
        if any(limit is not None and limit < 1 for limit in limits) or self.seed < 0:
            raise UsageError("plan", f"sizes must be at least 1 and the seed at least 0 (found {self})")
        if self.layout == "packed" and self.max_tokens is None:
            raise UsageError("plan", "packing needs max_tokens, the length of a pack")


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The plan in numbers.

    `tokens` are those of rows, `padded_tokens` those the model computes. `fill`: tokens / (packs with rows *
    max_tokens), None without a limit. `padding`: padded share of all computed tokens. `max_pack_*`: of the largest pack
    by tokens and by image tokens. `split_packs` and `padding_packs`: packs made to complete the last step.
    """

    epoch: int
    rows: int
    packs: int
    steps: int
    packs_per_step: int
    tokens: int
    padded_tokens: int
    image_tokens: int
    fill: float | None
    padding: float
    rows_per_step: float
    max_pack_tokens: int
    max_pack_image_tokens: int
    longest_row: int
    split_packs: int
    padding_packs: int


@dataclass(frozen=True, eq=False)
class Plan:
    """An epoch. `order` is a permutation of the planned rows; pack p holds `order[offsets[p]:offsets[p + 1]]`.

    Where that is empty, pack p holds the row `padding_row` as a padding example. `tokens`, `longest` (row) and
    `image_tokens` are per pack, int64 [packs].
    """

    spec: PlanSpec
    epoch: int
    order: Ints
    offsets: Ints
    tokens: Ints
    longest: Ints
    image_tokens: Ints
    padding_row: int = 0
    split_packs: int = 0

    @property
    def num_packs(self) -> int:
        """Micro-batches of the epoch over all ranks."""
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the epoch."""
        return self.num_packs // self.spec.packs_per_step

    def rows(self, pack: int) -> list[PlannedRow]:
        """The rows of a pack, never empty: one padding example where the plan has no row for it."""
        indices = self.order[self.offsets[pack] : self.offsets[pack + 1]].tolist()
        return [PlannedRow(index) for index in indices] or [PlannedRow(self.padding_row, weight=0)]

    def packs_for_rank(self, step: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """The packs that `rank` runs in a step, one per accumulation, in order.

        The packs of a step are sorted from large to small (image tokens, then tokens) and dealt to the ranks in
        alternating direction: ranks run packs of about one size at the same time, and their sums differ by less than
        one pack.
        """
        rounds = accumulation(self.spec, world_size)
        first = step * self.spec.packs_per_step
        seats = (rank if a % 2 == 0 else world_size - 1 - rank for a in range(rounds))
        return [first + a * world_size + seat for a, seat in enumerate(seats)]

    @property
    def padded_tokens(self) -> Ints:
        """Tokens the model computes per pack, padding included; int64 [packs]."""
        return self.tokens if self.spec.layout == "packed" else self.longest * np.diff(self.offsets)

    def summary(self) -> PlanSummary:
        """The numbers `--dry_run` prints."""
        with_rows = int((np.diff(self.offsets) > 0).sum())
        tokens, padded_tokens = int(self.tokens.sum()), int(self.padded_tokens.sum())
        limit = self.spec.max_tokens
        return PlanSummary(
            epoch=self.epoch,
            rows=len(self.order),
            packs=self.num_packs,
            steps=self.num_steps,
            packs_per_step=self.spec.packs_per_step,
            tokens=tokens,
            padded_tokens=padded_tokens,
            image_tokens=int(self.image_tokens.sum()),
            fill=tokens / (with_rows * limit) if limit else None,
            padding=1 - tokens / padded_tokens,
            rows_per_step=len(self.order) / self.num_steps,
            max_pack_tokens=int(self.padded_tokens.max()),
            max_pack_image_tokens=int(self.image_tokens.max()),
            longest_row=int(self.longest.max()),
            split_packs=self.split_packs,
            padding_packs=self.num_packs - with_rows,
        )

    @property
    def sha256(self) -> str:
        """Hex digest of spec, epoch and the rows of every pack: kept in a checkpoint, compared at resume."""
        head = json.dumps([asdict(self.spec), self.epoch, self.padding_row], sort_keys=True).encode()
        return hashlib.sha256(
            head + self.order.astype("<i8").tobytes() + self.offsets.astype("<i8").tobytes()
        ).hexdigest()


def make_plan(
    lengths: ArrayLike, image_tokens: ArrayLike, spec: PlanSpec, *, epoch: int = 0, rows: ArrayLike | None = None
) -> Plan:
    """The plan of one epoch.

    `lengths`, `image_tokens`: tokens of every row of the split and how many of them images take, int [n].
    `rows`: the row numbers to plan (default: all). UsageError when there is none or one exceeds a budget.
    """
    lengths, images = np.asarray(lengths, np.int64), np.asarray(image_tokens, np.int64)
    rows = np.arange(len(lengths)) if rows is None else np.asarray(rows, np.int64)
    if not len(rows):
        raise UsageError("plan", "there are no rows to train on")
    if (lengths[rows] < 1).any():
        raise UsageError("plan", f"row {rows[lengths[rows].argmin()]} has no tokens")
    for name, costs, limit in (
        ("max_tokens", lengths[rows], spec.max_tokens),
        ("max_image_tokens", images[rows], spec.max_image_tokens),
    ):
        if limit is not None and (largest := int(costs.max())) > limit:
            what = f"row {rows[costs.argmax()]} has {largest}, over {name} {limit}"
            raise UsageError("plan", what, f"Raise {name}, or leave out rows that are too long")
    generator = np.random.Philox(np.random.SeedSequence([spec.seed, epoch]))
    rows = _shuffle(rows, generator, spec)
    lengths, images = lengths[rows], images[rows]
    pack_of = _assign_packs(lengths, images, spec)
    pack_of = _shuffle(np.arange(pack_of.max() + 1), generator, spec)[pack_of]
    pack_of, split_packs = _complete_last_step(pack_of, lengths, spec.packs_per_step)

    packs = -(-(int(pack_of.max()) + 1) // spec.packs_per_step) * spec.packs_per_step  # empty ones complete the step
    counts, tokens, image_tokens = (
        np.bincount(pack_of, cost, packs).astype(np.int64) for cost in (np.ones_like(rows), lengths, images)
    )
    longest = np.zeros(packs, np.int64)
    np.maximum.at(longest, pack_of, lengths)
    by_pack = np.argsort(pack_of, kind="stable")
    padding_row = int(rows[by_pack[lengths[by_pack].argmin()]])  # the cheapest

    sizes = tokens if spec.layout == "packed" else longest * counts
    place = _order_packs(sizes, image_tokens, spec, largest_first=spec.largest_first and epoch == 0)
    place_of = np.argsort(place)
    order = rows[np.argsort(place_of[pack_of], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(counts[place])])
    return Plan(
        spec, epoch, order, offsets, tokens[place], longest[place], image_tokens[place], padding_row, split_packs
    )


def accumulation(spec: PlanSpec, world_size: int) -> int:
    """Micro-batches of a rank per step. UsageError unless `world_size` divides `packs_per_step`."""
    if world_size < 1 or spec.packs_per_step % world_size:
        what = f"{spec.packs_per_step} micro-batches per step do not divide among {world_size} processes"
        raise UsageError("plan", what, "Use a batch size that is a multiple of the number of processes")
    return spec.packs_per_step // world_size


def _shuffle(values: Ints, generator: np.random.Philox, spec: PlanSpec) -> Ints:
    """`values` ordered by fresh 64-bit keys of the generator (numpy keeps raw streams stable over versions)."""
    return values[np.argsort(generator.random_raw(len(values)), kind="stable")] if spec.shuffle else values


def _assign_packs(lengths: Ints, images: Ints, spec: PlanSpec) -> Ints:
    """The pack number of every row, 0..packs-1."""
    if spec.layout == "padded":
        return batch_padded(
            lengths,
            max_rows=spec.max_rows or len(lengths),
            max_tokens=spec.max_tokens,
            image_tokens=images,
            max_image_tokens=spec.max_image_tokens,
        )
    budgets = ((lengths, spec.max_tokens), (images, spec.max_image_tokens), (np.ones_like(lengths), spec.max_rows))
    limited = [(cost, limit) for cost, limit in budgets if limit is not None]
    return pack_rows(np.stack([cost for cost, _ in limited], axis=1), np.array([limit for _, limit in limited]))


def _complete_last_step(pack_of: Ints, lengths: Ints, packs_per_step: int) -> tuple[Ints, int]:
    """Split packs of an incomplete last step, the longest first, until it has all its packs or no two rows share one.

    A part of a pack is within every budget the pack is in. Returns the pack numbers and how many packs were added.
    """
    missing = -(int(pack_of.max()) + 1) % packs_per_step
    if not missing:
        return pack_of, 0
    first = (int(pack_of.max()) + 1) // packs_per_step * packs_per_step
    rows = np.flatnonzero(pack_of >= first)
    packs = [rows[pack_of[rows] == pack] for pack in range(first, first + packs_per_step - missing)]
    for _ in range(missing):
        longest = max(range(len(packs)), key=lambda i: (len(packs[i]) > 1, lengths[packs[i]].sum()))
        if len(packs[longest]) == 1:
            break
        packs += [packs[longest][1::2]]
        packs[longest] = packs[longest][0::2]
    pack_of = pack_of.copy()
    for number, members in enumerate(packs, start=first):
        pack_of[members] = number
    return pack_of, len(packs) - (packs_per_step - missing)


def _order_packs(sizes: Ints, image_tokens: Ints, spec: PlanSpec, *, largest_first: bool) -> Ints:
    """The pack that runs at each place of the epoch: those of a step from large to small, see `packs_for_rank`."""
    order = np.arange(len(sizes))
    if largest_first:
        for place, pack in enumerate(dict.fromkeys([int(sizes.argmax()), int(image_tokens.argmax())])):
            at = int(np.flatnonzero(order == pack)[0])
            order[[place, at]] = order[[at, place]]
    step = np.arange(len(sizes)) // spec.packs_per_step
    return order[np.lexsort((-sizes[order], -image_tokens[order], step))]
