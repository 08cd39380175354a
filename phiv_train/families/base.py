"""The seam between the trainer and a model: a `Family` turns conversations into tensors.

    family = get_family("phi3_vision")
    model, processor = family.load("microsoft/Phi-3.5-vision-instruct", dtype="bfloat16", num_crops=4)
    sample = family.encode(conversation, images, processor)      # numpy, in a worker; labels on answers only
    batch = family.collate([sample, other], processor)           # torch tensors: the model's arguments
    loss = model(**batch).loss

The trainer plans with `length` (exact, from stored sizes and text, no image opened), encodes in workers,
collates, steps, and picks what to train with `parts`. A third party adds a model by an entry point in the
group `phiv.families` whose object satisfies `Family` (its law: `tests/phiv_train/families/test_contract.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiv_schemas import Conversation
from phiv_schemas.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GROUP = "phiv.families"
IGNORE = -100
Layout = Literal["packed", "right", "left"]
Size = tuple[int, int]
"""(width, height) of a decoded image in pixels, EXIF orientation applied."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample, ready to collate. `len()` is its number of positions L.

    `input_ids` int64 [L]: every image slot holds the family's image token id.
    `labels` int64 [L]: the id itself inside an answer span (its end tokens included), -100 everywhere else;
    not shifted. Position 0 is never labelled, so packed neighbours do not teach each other.
    `media`: the family's own arrays; collate joins them on axis 0 over the samples of a batch.
    """

    id: str
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    media: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Part:
    """A named part of a model (vision, projector, language, ...), in fully-qualified names of `model`.

    `parameters`: parameter names, or prefixes of them that end in a dot. Every parameter is in one part.
    `linear`: names of the linear modules an adapter may wrap.
    `idle`: parameters (or dotted prefixes) of this part that no forward uses: saved, never trained.
    """

    parameters: tuple[str, ...]
    linear: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


class Processor(Protocol):
    """What turns text and images into arrays; one frozen object, saved beside the weights."""

    @property
    def spec_hash(self) -> str:
        """Hex digest of everything that changes the arrays: equal hash, equal encoding."""
        ...

    @property
    def pad_id(self) -> int:
        """The id padded positions hold. Never used to find them: masks come from lengths."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer; `generate(eos_token_id=list(stop_ids))`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The answer's text: `ids` up to the first stop id."""
        ...

    def save(self, folder: Path) -> None:
        """Write tokenizer and preprocessor files into `folder`, under the names servers expect."""
        ...


@runtime_checkable
class Family(Protocol):
    """A model family. Every function is pure but `load` and `save`; `encode` and `length` run in workers."""

    @property
    def name(self) -> str:
        """The entry point's name."""
        ...

    def load(
        self,
        path: str,
        *,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
        quantization: Literal["4bit"] | None = None,
        num_crops: int | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """`(model, processor)` from a folder or hub id. None keeps the checkpoint's own `num_crops`."""
        ...

    def save(self, model: Any, processor: Any, folder: Path) -> None:
        """Write a checkpoint that `load` and the model's servers open."""
        ...

    def parts(self, model: Any) -> Mapping[str, Part]:
        """The model's parts by name; their parameters cover the model without overlap."""
        ...

    def num_image_tokens(self, width: ArrayLike, height: ArrayLike, processor: Any) -> NDArray[np.int64]:
        """Positions an image takes, from its size in pixels alone; broadcasts over arrays."""
        ...

    def length(
        self, conversation: Conversation, sizes: Sequence[Size], processor: Any, *, generation: bool = False
    ) -> int:
        """Exactly `len(encode(conversation, images, processor, generation=generation))`, without images."""
        ...

    def encode(
        self, conversation: Conversation, images: Sequence[Image], processor: Any, *, generation: bool = False
    ) -> Encoded:
        """The sample. `images` in the order of `conversation.image_paths`, repeats included.

        With `generation` the text stops where the last turn's answer begins, exactly a prefix of the training
        text, and nothing is labelled. RecordError when images and text do not fit, or an answer is null.
        """
        ...

    def collate(self, samples: Sequence[Encoded], processor: Any, *, layout: Layout = "packed") -> dict[str, Tensor]:
        """The model's keyword arguments, all torch tensors, for one micro-batch.

        `packed`: one row [1, sum of L], `position_ids` restarting at 0 per sample, no `attention_mask`.
        `right`, `left`: [B, longest L], padded on that side, with `attention_mask` from the lengths.
        Always: `input_ids`, `labels`, `position_ids` int64 and the family's media, empty if there is none.
        """
        ...


def family_names() -> list[str]:
    """The installed families, sorted. Imports none of them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def get_family(name: str) -> Family:
    """The family called `name`. Only its own plugin is imported, so a broken one never disturbs another.

    UsageError for a name nobody registers or two packages claim; EnvironmentProblem when its import fails.
    """
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        raise UsageError("--family", f"no family {name!r}", f"Installed: {', '.join(family_names())}")
    if len(points) > 1:
        raise UsageError("--family", f"{name!r} is claimed twice ({', '.join(points)})", "Uninstall one")
    return _load(next(iter(points.values())))


def _load(point: EntryPoint) -> Family:
    try:
        family = point.load()
    except Exception as error:  # a plugin may fail in any way; the user needs one line
        why = f"cannot be imported from {point.value} ({type(error).__name__}: {error})"
        raise EnvironmentProblem(f"family {point.name!r}", why, "Install what it needs") from error
    if not isinstance(family, Family):
        missing = [f for f in ("load", "save", "parts", "encode", "collate") if not hasattr(family, f)]
        raise EnvironmentProblem(f"family {point.name!r}", f"{point.value} is no Family (lacks {missing})")
    return family
