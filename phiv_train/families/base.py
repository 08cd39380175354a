"""The interface between the trainer and a model: a `Family` turns conversations into tensors.

    family = get_family("phi3_vision")
    model, processor = family.load("microsoft/Phi-3.5-vision-instruct", image_options={"num_crops": 4})
    sample = family.encode(conversation, images, processor)      # numpy, in a worker; labels on answers only
    batch = family.collate([sample, other], processor)           # torch tensors: the model's arguments
    hidden = family.hidden_states(model(**training_inputs(family, batch)))

The trainer plans with `measure` (exact, from stored sizes and text, no image opened), encodes in workers, collates,
steps, and picks what to train with `components`. A third party adds a model by an entry point in the group
`phiv.families` whose object has all members of `Family`; `phiv_train.testing` checks what they promise, and
`tests/smolvlm_plugin` is a complete example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from phiv_data.utils.plugins import FAMILIES, BrokenPlugin, load_plugin
from phiv_schemas import Conversation
from phiv_schemas.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel
    from torch import Tensor

__all__ = [
    "IGNORE",
    "Component",
    "Encoded",
    "Family",
    "Layout",
    "Measured",
    "Preview",
    "Processor",
    "family_names",
    "get_family",
]

IGNORE = -100
Layout = Literal["packed", "right", "left"]
Quantization = Literal["4bit"]
ImageOptions = Mapping[str, Any]
"""Values of a family's image options by name."""
Size = tuple[int, int]
"""(width, height) of a decoded image in pixels, EXIF orientation applied."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample, ready to collate. `len()` is its number of tokens L.

    `input_ids` int64 [L]. `labels` int64 [L]: the id itself inside an answer (its end tokens included), -100
    everywhere else; not shifted. Token 0 is never labelled, so packed neighbours are not predicted from each other.
    `media`: the family's own arrays; collate joins them on axis 0 over the samples of a batch.
    `image_spans` int64 [N, 2]: first token and end (exclusive) of each image, its separators included, in order.
    """

    id: str
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    media: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    image_spans: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a sample takes, without its images: `tokens` in all, those that are `supervised`, those inside images.

    `vision_cost`: what its images cost the vision tower, in the family's own unit; `--max_image_tokens` bounds the sum
    over a micro-batch. Where the two are proportional it is `image_tokens` itself.
    """

    tokens: int
    supervised: int
    image_tokens: int
    vision_cost: int


@dataclass(frozen=True, slots=True)
class Component:
    """A named group of a model's modules (vision, projector, language, ...), in fully-qualified names of `model`.

    `parameters`: parameter names, or prefixes of them that end in a dot. Every parameter is in one component.
    `linear`: names of the linear modules an adapter may wrap.
    `unused`: parameters (or dotted prefixes) of this component that no forward pass uses: saved, never trained.
    """

    parameters: tuple[str, ...]
    linear: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """An image as the model gets it: resized and padded, before normalisation. `tiles`: (columns, rows), if any."""

    image: Image
    tiles: tuple[int, int] | None = None


class Processor(Protocol):
    """What turns text and images into arrays; one frozen object that can be pickled, saved beside the weights."""

    @property
    def spec_hash(self) -> str:
        """Hex digest of everything that changes the arrays: equal hash, equal encoding."""
        ...

    @property
    def image_options(self) -> ImageOptions:
        """The image options in use, all of them, by name: `{"num_crops": 4}`."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that padding has. Never used to find padding: masks come from lengths."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer; `generate(eos_token_id=list(stop_ids))`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The answer's text: `ids` up to the first stop id."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids as `phiv-inspect` prints it: control tokens by name."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id alone, a leading space kept, control tokens by name."""
        ...

    def save(self, folder: Path) -> None:
        """Write tokenizer and preprocessor files into `folder`, under the names servers expect.

        One of them is `preprocessor_config.json` or `processor_config.json`; `load_processor` reads them back.
        """
        ...


class Family(Protocol):
    """A model family. Functions are pure but `load`, `save` and `run_vision_on_text`; `measure` and `encode` run in
    workers. `Any` stands for the family's own model and processor: a transformers `PreTrainedModel` that can generate,
    and a `Processor`."""

    @property
    def name(self) -> str:
        """The entry point's name."""
        ...

    @property
    def default_model(self) -> str:
        """The checkpoint when none is named: the published hub id, or a name for one that is built when loaded."""
        ...

    @property
    def model_types(self) -> tuple[str, ...]:
        """Values of `model_type` in config.json that mean this family."""
        ...

    @property
    def image_options(self) -> type[BaseModel]:
        """A pydantic model of the options that decide how images become tiles; unset (None) is the checkpoint's own."""
        ...

    @property
    def forward_options(self) -> Mapping[str, Any]:
        """Keyword arguments with which `model` computes hidden states and no logits, or only a few."""
        ...

    def load(
        self,
        path: str,
        *,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
        quantization: Quantization | None = None,
        image_options: ImageOptions | None = None,
    ) -> tuple[Any, Any]:
        """`(model, processor)` from a folder, a hub id or `default_model`, in eval mode."""
        ...

    def load_processor(self, path: str, *, image_options: ImageOptions | None = None) -> Any:
        """The processor alone: no weights are fetched or read, and torch is not imported where that is possible."""
        ...

    def skeleton(self, path: str) -> Any:
        """The model on the meta device: names and shapes from config.json, no weights."""
        ...

    def save(self, model: Any, processor: Any, folder: Path) -> None:
        """Write a checkpoint that `load` and the model's servers open."""
        ...

    def components(self, model: Any) -> Mapping[str, Component]:
        """The model's components by name; their parameters cover the model without overlap.

        `vision` and `projector` are among them: they get a gradient from images alone, and are frozen where there is
        no image.
        """
        ...

    def measure(
        self, conversation: Conversation, sizes: Sequence[Size], processor: Any, *, generation: bool = False
    ) -> Measured:
        """Exactly what `encode` with the same arguments gives, from image sizes alone, in one pass over the text."""
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

        `packed`: one row of all samples, which must not see each other, `input_ids` and `labels` int64 [1, sum of L].
        `right`, `left`: [B, longest L], padded on that side, with `attention_mask` from the lengths.
        `position_ids` have whatever shape the model reads; media are empty, or absent, if there is no image.
        """
        ...

    def hidden_states(self, outputs: Any) -> Tensor:
        """[B, L, hidden] after the final norm, from the outputs of a forward pass with `forward_options`."""
        ...

    def generation_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a batch collated `left`, what `model.generate` takes."""
        ...

    def run_vision_on_text(self, model: Any, enabled: bool) -> bool:
        """Whether a batch without images runs a blank one whose features count zero times; returns the old setting.

        With it every trained parameter gets a gradient from every batch, and all processes of DDP, ZeRO and FSDP do
        the same work. Off in a loaded model.
        """
        ...

    def preview(self, encoded: Encoded, processor: Any) -> Sequence[Preview]:
        """Each image of the sample as the model gets it; empty where the family cannot show it."""
        ...


def family_names() -> list[str]:
    """The installed families, sorted. Imports none of them."""
    return sorted({point.name for point in entry_points(group=FAMILIES)})


def get_family(name: str) -> Family:
    """The family called `name`. Only its own plugin is imported, so a broken one never disturbs another.

    UsageError for a name nobody registers or two packages claim; EnvironmentProblem when its import fails or members
    are missing.
    """
    points = {point.value: point for point in entry_points(group=FAMILIES, name=name)}
    if not points:
        raise UsageError("--family", f"no family {name!r}", f"Installed: {', '.join(family_names())}")
    if len(points) > 1:
        raise UsageError("--family", f"{name!r} is claimed twice ({', '.join(points)})", "Uninstall one")
    point = next(iter(points.values()))
    try:
        family: Family = load_plugin(point)
    except BrokenPlugin as broken:
        why = f"cannot be imported from {point.value} ({broken})"
        raise EnvironmentProblem(f"family {name!r}", why, "Install what it needs") from broken
    members = {member for member in vars(Family) if not member.startswith("_")}
    if missing := sorted(members.difference(dir(family))):
        what = f"{point.value} is not a Family (missing: {', '.join(missing)})"
        raise EnvironmentProblem(f"family {name!r}", what, "Install a version of it made for this phiv")
    return family


def training_inputs(family: Family, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a training forward pass: the batch, and what makes it give hidden states alone.

    Without a cache, always: with one, transformers' models build a plain causal mask, and packed samples see each
    other (SmolVLM's loss is off in the fourth digit then).
    """
    return {**batch, "use_cache": False, **family.forward_options}
