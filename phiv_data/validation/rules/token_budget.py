"""PV250, PV251: rows in tokens, exactly as a model family will make them; and their histogram. On demand only.

    budget = TokenBudget("phi3_vision", max_tokens=8192, tokenizer="checkpoint/")
    report = validate("out", row_rules=[budget])
    report.counts().get("PV250"), report.stats.total("tokens_per_row")  # (18, {'2048-4095': 2952, '8192-16383': 18})

A length comes from the images' sizes and the text, through the family's own `length`: no image is decoded for it,
and phi3_vision needs no torch. Families are found by the entry point group `phiv.families`; this package imports none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import shown_path
from phiv_data.utils.plugins import load_plugins
from phiv_data.validation.core.finding import Finding, ImageFacts, RowContext
from phiv_data.validation.core.row_stats import Bins, histograms
from phiv_schemas import Conversation, EnvironmentProblem, Issue, RecordError, UsageError

GROUP = "phiv.families"
_MEMO_ROWS = 8192

Size = tuple[int, int]
Length = int | Finding | None
"""Tokens of a row; what keeps them from being told; None where its images' sizes are not known, which was told."""


@dataclass(frozen=True)
class TokenBudget:
    """A row rule: rows over `max_tokens` (None: rows are only measured) of the model family `family`.

    `tokenizer` is a checkpoint folder or hub id, by default the family's published one; `num_crops` how many crops a
    image may take, by default the checkpoint's own. `images_root` is where headers are read without `deep`.
    """

    family: str
    max_tokens: int | None = None
    tokenizer: str | None = None
    num_crops: int | None = None
    images_root: Path | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError("max_tokens", f"must be at least 1 (found {self.max_tokens})")
        if self.num_crops is not None and self.num_crops < 1:
            raise UsageError("num_crops", f"must be at least 1 (found {self.num_crops})")

    def __call__(self, row: RowContext) -> Iterator[Finding]:
        """PV250 where the row is over the budget, PV251 where the family cannot encode it."""
        length = self.measure(row)
        if isinstance(length, Finding):
            yield length
        elif length is not None and self.max_tokens is not None and length > self.max_tokens:
            yield Finding(
                "PV250", None, self._over(row, length), "Use fewer images or shorter text, or raise the budget"
            )

    def measure(self, row: RowContext) -> Length:
        """The row's tokens; of a row that waits for an answer, those of its prompt."""
        sizes = _sizes(row, self.images_root)
        return self._loaded().length(row.conversation, sizes) if isinstance(sizes, tuple) else sizes

    def aggregator(self) -> TokenCounts:
        """What counts the lengths of all rows."""
        self._loaded()  # what is missing is said at once, and by the process that was asked
        return TokenCounts(self)

    def _loaded(self) -> _Measurer:
        return _measurer(self.family, self.tokenizer, self.num_crops)

    def _over(self, row: RowContext, length: int) -> str:
        sizes = _sizes(row, self.images_root)
        images = self._loaded().image_tokens(sizes) if isinstance(sizes, tuple) and sizes else None
        count = f"{len(row.conversation.image_paths)} image" + ("" if len(row.conversation.image_paths) == 1 else "s")
        of_images = "" if images is None else f" ({count}: {images})"
        return f"{length} tokens{of_images}, over the budget of {self.max_tokens}"


@dataclass(slots=True)
class TokenCounts:
    """`tokens_per_row` of each split, and how many rows of each file could not be measured."""

    budget: TokenBudget
    bins: dict[str, Bins] = field(default_factory=dict)
    unmeasured: Counter[str] = field(default_factory=Counter)

    def observe(self, row: RowContext) -> None:
        """Count its length; that it cannot be encoded was told."""
        length = self.budget.measure(row)  # remembered since the rule was asked
        if isinstance(length, int):
            self.bins.setdefault(row.split, Counter())[length.bit_length()] += 1
        elif length is None:
            self.unmeasured[row.file] += 1

    def merge(self, other: TokenCounts) -> TokenCounts:
        """The counts of both."""
        splits, none = self.bins.keys() | other.bins.keys(), Counter[int]()
        bins = {split: self.bins.get(split, none) + other.bins.get(split, none) for split in splits}
        return TokenCounts(self.budget, bins, self.unmeasured + other.unmeasured)

    def findings(self) -> Iterator[Issue]:
        """PV251 for each file with rows that were not measured."""
        for file, count in sorted(self.unmeasured.items()):
            rows = "1 row was" if count == 1 else f"{count} rows were"
            what = f"{rows} not measured in tokens: sizes of images are not known"
            yield Finding("PV251", None, what).at(file)

    def stats(self) -> dict[str, dict[str, dict[str, int]]]:
        """The histograms."""
        return {split: {"tokens_per_row": bins} for split, bins in histograms(self.bins).items()}


# Sizes ------------------------------------------------------------------------------------------------------------


def _sizes(row: RowContext, root: Path | None) -> tuple[Size, ...] | Finding | None:
    """(width, height) of each image of a row, upright; as `Length` where one is not known."""
    paths, sizes = row.conversation.image_paths, []
    if len(row.images) != len(paths):
        return None
    for i, (path, facts) in enumerate(zip(paths, row.images, strict=True)):
        try:
            size = facts.size or facts.declared_size or _header_size(path, facts, root)
        except RejectInput as reject:
            return Finding(
                "PV251", _place(row.conversation, i), f"no size of image {shown_path(path)}: {reject.reason}"
            )
        if size is None:
            return None
        sizes.append(size)
    return tuple(sizes)


def _header_size(path: str, facts: ImageFacts, root: Path | None) -> Size | None:
    if facts.found or root is None:
        return None
    from phiv_data.media.images import image_size

    return image_size(root / path, where=path)[:2]


def _place(conversation: Conversation, image: int) -> str:
    places = [(t, i) for t, turn in enumerate(conversation.turns) for i in range(len(turn.images))]
    return "$.conversations[{}].images[{}]".format(*places[image])


# The family -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Measurer:
    """A family with its processor. Rows that differ in id and file names only are measured once."""

    family: Any
    processor: Any
    memo: dict[Hashable, Length] = field(default_factory=dict)

    def length(self, conversation: Conversation, sizes: tuple[Size, ...]) -> Length:
        key = _shape(conversation), sizes
        if key not in self.memo:
            if len(self.memo) >= _MEMO_ROWS:
                self.memo.clear()
            self.memo[key] = self._measure(conversation, sizes)
        return self.memo[key]

    def image_tokens(self, sizes: tuple[Size, ...]) -> int:
        widths, heights = zip(*sizes, strict=True)
        return int(self.family.num_image_tokens(widths, heights, self.processor).sum())

    def _measure(self, conversation: Conversation, sizes: tuple[Size, ...]) -> Length:
        asked = next((t for t, turn in enumerate(conversation.turns) if turn.assistant is None), None)
        if asked is not None:
            conversation = _upto(conversation, asked)
        sizes = sizes[: len(conversation.image_paths)]
        try:
            return int(self.family.length(conversation, sizes, self.processor, generation=asked is not None))
        except RecordError as error:
            return Finding("PV251", None, f"{self.family.name} cannot encode it: {error.what}")


def _shape(conversation: Conversation) -> Hashable:
    turns = tuple([(t.user, t.assistant, t.answers, len(t.images), t.image_offsets) for t in conversation.turns])
    return conversation.source, conversation.system, turns


def _upto(conversation: Conversation, turn: int) -> Conversation:
    """The dialogue as it stands when `turn` is asked. The record may be one of `fast`, hence no model_copy."""
    return Conversation.model_construct(
        id=conversation.id,
        source=conversation.source,
        system=conversation.system,
        conversations=conversation.conversations[: turn + 1],
    )


@cache
def _measurer(name: str, tokenizer: str | None, num_crops: int | None) -> _Measurer:
    """UsageError for a family nobody registers or a tokenizer that is none, EnvironmentProblem for missing packages."""
    found, where = load_plugins(GROUP, name), f"--family {name}"
    hint = 'Run: pip install "phiv[train]"'
    if why := found.broken.get(name):
        raise EnvironmentProblem(where, f"does not load ({why.partition(': ')[2]})", hint)
    if (family := found.loaded.get(name)) is None:
        there = ", ".join(sorted(load_plugins(GROUP).loaded)) or "none"
        raise UsageError("--family", f"no family {name!r}", f"Installed: {there}")
    if not hasattr(family, "load_processor"):
        raise UsageError(where, "has no load_processor, so rows cannot be measured without its weights")
    try:
        checkpoint = tokenizer or getattr(family, "checkpoint", name)
        return _Measurer(family, family.load_processor(checkpoint, num_crops=num_crops))
    except ImportError as error:
        raise EnvironmentProblem(where, f"{error.name or error} is not installed", hint) from error
