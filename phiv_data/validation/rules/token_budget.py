"""PV250, PV251: the length of rows in tokens, exactly as a model family encodes them. On demand only.

    budget = TokenBudget("phi3_vision", max_tokens=8192, tokenizer="checkpoint/")
    report = validate("out", row_rules=[budget])
    report.counts().get("PV250"), report.stats.total("tokens_per_row")  # (18, {'2048-4095': 2952, '8192-16383': 18})

A length comes from the images' sizes and the text, through the family's own `measure`: no image is decoded for it,
and phi3_vision needs no torch. Families are found by the entry point group `phiv.families`; this package imports none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import quote_path
from phiv_data.utils.extras import install_hint
from phiv_data.utils.image_options import collect_image_options, parse_image_options
from phiv_data.utils.plugins import FAMILIES, load_plugins
from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.core.row_stats import Bins, histograms
from phiv_schemas import Conversation, EnvironmentProblem, Issue, RecordError, UsageError

_MEMO_ROWS = 8192

Size = tuple[int, int]
_NEEDED = frozenset({"name", "default_model", "image_options", "load_processor", "measure"})


class Measured(Protocol):
    """What a family measures of a row."""

    @property
    def tokens(self) -> int: ...

    @property
    def image_tokens(self) -> int: ...


Length = Measured | Finding | None
"""A row's length; why it has none; None where sizes of its images are not known, which has been reported."""


@dataclass(frozen=True)
class TokenBudget:
    """A row rule: rows over `max_tokens` (None: rows are only measured) of the model family `family`.

    `tokenizer` is a checkpoint folder or hub id, by default the family's published one; `num_crops` how many crops an
    image may take, by default the checkpoint's own; `image_options`: others of the family's, by name. `images_root` is
    where headers are read without `deep`.
    """

    family: str
    max_tokens: int | None = None
    tokenizer: str | None = None
    num_crops: int | None = None
    images_root: Path | None = None
    image_options: tuple[tuple[str, str], ...] = ()

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
        elif length is not None and self.max_tokens is not None and length.tokens > self.max_tokens:
            images = len(row.conversation.image_paths)
            of_images = f" ({images} image{'' if images == 1 else 's'}: {length.image_tokens})" if images else ""
            what = f"{length.tokens} tokens{of_images}, over the budget of {self.max_tokens}"
            yield Finding("PV250", None, what, "Use fewer images or shorter text, or raise the budget")

    def measure(self, row: RowContext) -> Length:
        """The row's length; of a row without an answer, that of its prompt."""
        sizes = _sizes(row, self.images_root)
        return self._load_measurer().measure(row.conversation, sizes) if isinstance(sizes, tuple) else sizes

    def aggregator(self) -> TokenCounts:
        """The aggregator of the lengths of all rows."""
        self._load_measurer()  # what is missing is reported at once, and by the main process
        return TokenCounts(self)

    def _load_measurer(self) -> _Measurer:
        options = collect_image_options([f"{key}={value}" for key, value in self.image_options], self.num_crops)
        return _measurer(self.family, self.tokenizer, tuple(sorted(options.items())))


@dataclass(slots=True)
class TokenCounts:
    """`tokens_per_row` of each split, and how many rows of each file could not be measured."""

    budget: TokenBudget
    bins: dict[str, Bins] = field(default_factory=dict)
    unmeasured: Counter[str] = field(default_factory=Counter)

    def observe(self, row: RowContext) -> None:
        """Count its length; that it cannot be encoded is reported by the rule."""
        length = self.budget.measure(row)  # remembered since the rule was called
        if length is None:
            self.unmeasured[row.file] += 1
        elif not isinstance(length, Finding):
            self.bins.setdefault(row.split, Counter())[length.tokens.bit_length()] += 1

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
            size = facts.size or facts.declared_size
            if size is None and not facts.found and root is not None:
                size = image_size(root / path, where=path)[:2]
        except RejectInput as reject:
            places = [(t, n) for t, turn in enumerate(row.conversation.turns) for n in range(len(turn.images))]
            place = "$.conversations[{}].images[{}]".format(*places[i])
            return Finding("PV251", place, f"no size of image {quote_path(path)}: {reject.reason}")
        if size is None:
            return None
        sizes.append(size)
    return tuple(sizes)


# The family -------------------------------------------------------------------------------------------------------


class _Family(Protocol):
    """What is needed of a family, which is one of `phiv_train.families.base.Family`."""

    name: str
    default_model: str
    image_options: type[BaseModel]

    def load_processor(self, path: str, *, image_options: Mapping[str, Any] | None = None) -> Any: ...

    def measure(
        self, conversation: Conversation, sizes: Sequence[Size], processor: Any, *, generation: bool = False
    ) -> Measured: ...


@dataclass(slots=True)
class _Measurer:
    """A family with its processor. Rows that differ in id and file names only are measured once."""

    family: _Family
    processor: Any
    memo: dict[Hashable, Length] = field(default_factory=dict)

    def measure(self, conversation: Conversation, sizes: tuple[Size, ...]) -> Length:
        turns = tuple([(t.user, t.assistant, t.answers, len(t.images), t.image_offsets) for t in conversation.turns])
        key = conversation.source, conversation.system, turns, sizes
        if key in self.memo:
            return self.memo[key]
        asked = next((t for t, turn in enumerate(conversation.turns) if turn.assistant is None), None)
        if asked is not None:  # up to its question; the record may be one of `fast_parse`, hence no model_copy
            conversation = Conversation.model_construct(
                id=conversation.id,
                source=conversation.source,
                system=conversation.system,
                conversations=conversation.conversations[: asked + 1],
            )
        sizes = sizes[: len(conversation.image_paths)]
        if len(self.memo) >= _MEMO_ROWS:
            self.memo.clear()
        length: Length
        try:
            length = self.family.measure(conversation, sizes, self.processor, generation=asked is not None)
        except RecordError as error:
            length = Finding("PV251", None, f"{self.family.name} cannot encode it: {error.what}")
        self.memo[key] = length
        return length


@cache
def _measurer(name: str, tokenizer: str | None, image_options: tuple[tuple[str, str], ...]) -> _Measurer:
    """UsageError for a family nobody registers or a tokenizer that is none, EnvironmentProblem for missing packages and
    for a family that lacks members."""
    found, where = load_plugins(FAMILIES, name), f"--family {name}"
    hint = install_hint("train")
    if why := found.broken.get(name):
        raise EnvironmentProblem(where, f"does not load ({why.partition(': ')[2]})", hint)
    if (plugin := found.loaded.get(name)) is None:
        there = ", ".join(sorted(load_plugins(FAMILIES).loaded)) or "none"
        raise UsageError("--family", f"no family {name!r}", f"Installed: {there}")
    if missing := sorted(_NEEDED.difference(dir(plugin))):
        raise EnvironmentProblem(
            where, f"is not a Family (missing: {', '.join(missing)})", "Install a version of it made for this phiv"
        )
    family: _Family = plugin
    values = parse_image_options(family.name, family.image_options, dict(image_options))
    try:
        return _Measurer(family, family.load_processor(tokenizer or family.default_model, image_options=values))
    except ImportError as error:
        raise EnvironmentProblem(where, f"{error.name or error} is not installed", hint) from error
