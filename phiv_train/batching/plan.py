"""`Plan`: which rows make up every micro-batch and every optimizer step of an epoch, before anything is loaded.

    spec = PlanSpec(packs_per_step=16, max_tokens=8192, seed=42)
    plan = make_plan(lengths, image_tokens, spec, epoch=0)          # numpy only; a million rows in about a second
    plan.num_steps, plan.summary().fill
    plan.rows(plan.packs_of(step=3, rank=1, world_size=2)[0])       # row numbers of a micro-batch

A pack is one micro-batch: row numbers within the budgets. A step takes exactly `packs_per_step` consecutive packs,
whoever runs them: `world_size * accumulation` must equal it, and then 1 x 4, 2 x 2 and 4 x 1 see the same steps.
A plan is a pure function of (lengths, spec, epoch): a run that resumes makes it again and goes on at its step.

Every row is in an epoch exactly once. Where the last step lacks packs, its packs are split; where it lacks rows,
its missing packs hold a *filler*: the shortest row, coded as `~row`, to be encoded without labels: it weighs nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from phiv_schemas.errors import UsageError
from phiv_train.batching import bin_packing as packing
from phiv_train.batching.bin_packing import Ints

Layout = Literal["packed", "padded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    """What a plan obeys; with the lengths and the epoch it determines it.

    `layout`: `packed` lays rows end to end (sum of lengths <= max_tokens), `padded` pads them to the longest
    (count * longest <= max_tokens). `max_rows`: rows of a pack (padded: the per-device batch size).
    `max_image_tokens`: image positions of a pack. `boundary`: no pack mixes rows of at most and of more than so many
    tokens (LongRoPE's 4096, for back ends that pick one factor per batch). `canary`: in epoch 0 the packs with most
    positions and with most image tokens come in the first step, so that too little memory shows at once.
    """

    packs_per_step: int
    layout: Layout = "packed"
    max_tokens: int | None = None
    max_rows: int | None = None
    max_image_tokens: int | None = None
    boundary: int | None = None
    seed: int = 0
    shuffle: bool = True
    canary: bool = True

    def __post_init__(self) -> None:
        limits = (self.packs_per_step, self.max_tokens, self.max_rows, self.max_image_tokens, self.boundary)
        if any(limit is not None and limit < 1 for limit in limits) or self.seed < 0:
            raise UsageError("plan", f"sizes must be at least 1 and the seed at least 0 (found {self})")
        if self.layout == "packed" and self.max_tokens is None:
            raise UsageError("plan", "packing needs max_tokens, the length of a pack")


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The plan in numbers. `fill`: tokens / (real packs * max_tokens), None without one. `padding`: padded share of
    all positions. `worst_*`: the largest pack by positions and by image tokens. `split_packs` and `filler_packs`:
    packs made to complete the last step."""

    epoch: int
    rows: int
    packs: int
    steps: int
    packs_per_step: int
    tokens: int
    positions: int
    image_tokens: int
    fill: float | None
    padding: float
    rows_per_step: float
    worst_positions: int
    worst_image_tokens: int
    longest_row: int
    split_packs: int
    filler_packs: int


@dataclass(frozen=True, eq=False)
class Plan:
    """An epoch. `order` is a permutation of the planned rows; pack p holds `order[offsets[p]:offsets[p + 1]]`.

    An empty span is a filler pack. `tokens`, `longest`, `image_tokens` are per pack, int64 [packs].
    """

    spec: PlanSpec
    epoch: int
    order: Ints
    offsets: Ints
    tokens: Ints
    longest: Ints
    image_tokens: Ints
    filler: int = 0
    split_packs: int = 0

    @property
    def num_packs(self) -> int:
        """Micro-batches of the epoch over all ranks."""
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the epoch."""
        return self.num_packs // self.spec.packs_per_step

    def rows(self, pack: int) -> list[int]:
        """The rows of a pack, never empty; `[~row]` in a filler pack: `row`, to be encoded without labels."""
        return self.order[self.offsets[pack] : self.offsets[pack + 1]].tolist() or [~self.filler]

    def packs_of(self, step: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """The packs that `rank` runs in a step, one per accumulation, in order.

        The packs of a step lie from heavy to light (image tokens, then positions) and are dealt out like cards, in
        turning direction: ranks run like packs at the same time, and their sums differ by less than one pack.
        """
        rounds = accumulation(self.spec, world_size)
        first = step * self.spec.packs_per_step
        seats = (rank if a % 2 == 0 else world_size - 1 - rank for a in range(rounds))
        return [first + a * world_size + seat for a, seat in enumerate(seats)]

    def step_rows(self, step: int) -> list[int]:
        """All rows of a step, fillers left out: the same for any number of ranks."""
        p = self.spec.packs_per_step
        rows: list[int] = self.order[self.offsets[step * p] : self.offsets[(step + 1) * p]].tolist()
        return rows

    @property
    def positions(self) -> Ints:
        """Positions the model computes per pack, padding included; int64 [packs]."""
        return self.tokens if self.spec.layout == "packed" else self.longest * np.diff(self.offsets)

    def summary(self) -> PlanSummary:
        """The numbers `--dry_run` prints."""
        real = int((np.diff(self.offsets) > 0).sum())
        tokens, positions = int(self.tokens.sum()), int(self.positions.sum())
        limit = self.spec.max_tokens
        return PlanSummary(
            epoch=self.epoch,
            rows=len(self.order),
            packs=self.num_packs,
            steps=self.num_steps,
            packs_per_step=self.spec.packs_per_step,
            tokens=tokens,
            positions=positions,
            image_tokens=int(self.image_tokens.sum()),
            fill=tokens / (real * limit) if limit else None,
            padding=1 - tokens / positions,
            rows_per_step=len(self.order) / self.num_steps,
            worst_positions=int(self.positions.max()),
            worst_image_tokens=int(self.image_tokens.max()),
            longest_row=int(self.longest.max()),
            split_packs=self.split_packs,
            filler_packs=self.num_packs - real,
        )

    def to_json(self) -> str:
        """The whole plan as canonical JSON: equal plans, equal text."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        rest = {"epoch": self.epoch, "filler": self.filler, "split_packs": self.split_packs}
        return json.dumps({"spec": asdict(self.spec), **rest, **arrays}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        plain = json.loads(text)
        arrays = {name: np.array(plain[name], np.int64) for name in _ARRAYS}
        return cls(**plain | {"spec": PlanSpec(**plain["spec"])} | arrays)

    @property
    def sha256(self) -> str:
        """Hex digest of spec, epoch and the rows of every pack: kept in a checkpoint, compared at resume."""
        head = json.dumps([asdict(self.spec), self.epoch, self.filler], sort_keys=True).encode()
        return hashlib.sha256(
            head + self.order.astype("<i8").tobytes() + self.offsets.astype("<i8").tobytes()
        ).hexdigest()


_ARRAYS = ("order", "offsets", "tokens", "longest", "image_tokens")


def make_plan(
    lengths: ArrayLike, image_tokens: ArrayLike, spec: PlanSpec, *, epoch: int = 0, rows: ArrayLike | None = None
) -> Plan:
    """The plan of one epoch.

    `lengths`, `image_tokens`: positions of every row of the split and how many of them images take, int [n].
    `rows`: the row numbers to plan (default: all). UsageError when there is none or one exceeds a budget.
    """
    lengths, images = np.asarray(lengths, np.int64), np.asarray(image_tokens, np.int64)
    chosen = np.arange(len(lengths)) if rows is None else np.asarray(rows, np.int64)
    _check(lengths[chosen], images[chosen], chosen, spec)
    draw = np.random.Philox(np.random.SeedSequence([spec.seed, epoch]))
    shuffled = _shuffled(chosen, draw, spec)
    pack_of = _assign(lengths[shuffled], images[shuffled], spec)
    pack_of = _shuffled(np.arange(pack_of.max() + 1), draw, spec)[pack_of]
    pack_of, split_packs = _complete(pack_of, lengths[shuffled], spec.packs_per_step)
    return _arranged(_laid_out(pack_of, split_packs, shuffled, lengths, images, spec, epoch))


def accumulation(spec: PlanSpec, world_size: int) -> int:
    """Micro-batches of a rank per step. UsageError unless `world_size` divides `packs_per_step`."""
    if world_size < 1 or spec.packs_per_step % world_size:
        what = f"{spec.packs_per_step} micro-batches per step do not divide among {world_size} processes"
        raise UsageError("plan", what, "Use a batch size that is a multiple of the number of processes")
    return spec.packs_per_step // world_size


def _check(lengths: Ints, images: Ints, rows: Ints, spec: PlanSpec) -> None:
    if not len(rows):
        raise UsageError("plan", "there are no rows to train on")
    if (lengths < 1).any():
        raise UsageError("plan", f"row {rows[lengths.argmin()]} has no tokens")
    for name, found, limit in (
        ("max_tokens", lengths, spec.max_tokens),
        ("max_image_tokens", images, spec.max_image_tokens),
    ):
        if limit is not None and (worst := int(found.max())) > limit:
            what = f"row {rows[found.argmax()]} has {worst}, over {name} {limit}"
            raise UsageError("plan", what, f"Raise {name}, or leave out rows that are too long")


def _shuffled(values: Ints, draw: np.random.Philox, spec: PlanSpec) -> Ints:
    """`values` ordered by fresh 64-bit keys of the generator (numpy keeps raw streams stable over versions)."""
    return values[np.argsort(draw.random_raw(len(values)), kind="stable")] if spec.shuffle else values


def _assign(lengths: Ints, images: Ints, spec: PlanSpec) -> Ints:
    """The pack number of every row, 0..packs-1; rows on both sides of the boundary are packed apart."""
    if spec.boundary is None:
        return _assign_together(lengths, images, spec)
    number, used = np.empty(len(lengths), np.int64), 0
    for side in (lengths <= spec.boundary, lengths > spec.boundary):
        if side.any():
            number[side] = used + _assign_together(lengths[side], images[side], spec)
            used = int(number[side].max()) + 1
    return number


def _assign_together(lengths: Ints, images: Ints, spec: PlanSpec) -> Ints:
    if spec.layout == "padded":
        return packing.batch(
            lengths,
            max_rows=spec.max_rows or len(lengths),
            max_positions=spec.max_tokens,
            image_tokens=images,
            max_image_tokens=spec.max_image_tokens,
        )
    costs = ((lengths, spec.max_tokens), (images, spec.max_image_tokens), (np.ones_like(lengths), spec.max_rows))
    bound = [(cost, limit) for cost, limit in costs if limit is not None]
    return packing.pack(np.stack([cost for cost, _ in bound], axis=1), np.array([limit for _, limit in bound]))


def _complete(pack_of: Ints, lengths: Ints, packs_per_step: int) -> tuple[Ints, int]:
    """Split packs of an incomplete last step, the longest first, until it has all its packs or no two rows share one.

    A part of a pack is within every budget the pack is in.
    """
    short = -(int(pack_of.max()) + 1) % packs_per_step
    if not short:
        return pack_of, 0
    first = (int(pack_of.max()) + 1) // packs_per_step * packs_per_step
    rows = np.flatnonzero(pack_of >= first)
    parts = [rows[pack_of[rows] == pack] for pack in range(first, first + packs_per_step - short)]
    for _ in range(short):
        longest = max(range(len(parts)), key=lambda i: (len(parts[i]) > 1, lengths[parts[i]].sum()))
        if len(parts[longest]) == 1:
            break
        parts += [parts[longest][1::2]]
        parts[longest] = parts[longest][0::2]
    pack_of = pack_of.copy()
    for number, part in enumerate(parts, start=first):
        pack_of[part] = number
    return pack_of, len(parts) - (packs_per_step - short)


def _laid_out(
    pack_of: Ints, split_packs: int, rows: Ints, lengths: Ints, images: Ints, spec: PlanSpec, epoch: int
) -> Plan:
    """The plan of rows in numbered packs, in the order of the numbers, empty packs at the end to make whole steps."""
    packs = -(-(int(pack_of.max()) + 1) // spec.packs_per_step) * spec.packs_per_step
    order = rows[np.argsort(pack_of, kind="stable")]
    counts = np.bincount(pack_of, minlength=packs)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    longest = np.maximum.reduceat(np.append(lengths[order], 0), offsets[:-1]) * (counts > 0)
    totals = (np.diff(np.append(0, np.cumsum(cost[order]))[offsets]) for cost in (lengths, images))
    filler = int(order[lengths[order].argmin()])  # the cheapest
    tokens, image_tokens = totals
    return Plan(spec, epoch, order, offsets, tokens, longest, image_tokens, filler, split_packs)


def _arranged(plan: Plan) -> Plan:
    """The same packs, the canaries in the first step, those of each step from heavy to light."""
    packs = _pack_order(plan)
    counts = np.diff(plan.offsets)[packs]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    where = np.repeat(plan.offsets[:-1][packs] - offsets[:-1], counts) + np.arange(len(plan.order))
    moved = {name: getattr(plan, name)[packs] for name in ("tokens", "longest", "image_tokens")}
    return replace(plan, order=plan.order[where], offsets=offsets, **moved)


def _pack_order(plan: Plan) -> Ints:
    """Where each place of the epoch takes its pack from."""
    order = np.arange(plan.num_packs)
    if plan.spec.canary and plan.epoch == 0:
        worst = [int(plan.positions.argmax()), int(plan.image_tokens.argmax())]
        for place, pack in enumerate(dict.fromkeys(worst)):
            at = int(np.flatnonzero(order == pack)[0])
            order[[place, at]] = order[[at, place]]
    step = np.arange(plan.num_packs) // plan.spec.packs_per_step
    return order[np.lexsort((-plan.positions[order], -plan.image_tokens[order], step))]
