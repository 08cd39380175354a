"""The flags of `phiv-eval`, `phiv-inspect`, `phiv-predict` and `phiv-merge`, as tyro shows them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

Metric = Literal["auto", "accuracy", "accuracy_official", "anls", "anls_official"]


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Generate answers to the questions of a split and score them: accuracy or ANLS, in the variant of Microsoft's
    recipe or the official one.

    Prints the scores on stdout and writes everything to a JSON file, and for a classification a confusion matrix as an
    image beside it. Start with torchrun to share the rows among several GPUs; the result is the same.
    """

    data_dir: Path
    """Folder of a converted dataset (made by phiv-convert), or its address in an object store: s3://bucket/folder."""
    model_name_or_path: str | None = None
    """Folder of a run, checkpoint, adapter folder (it names its base), hub id, or `tiny`, `tiny:7`."""
    adapter: Path | None = None
    """Adapter folder to put on the model; alone, the base is the one it names."""
    split: str = "val"
    """Split to evaluate."""
    metric: tuple[Metric, ...] = ("auto",)
    """One or more. auto: anls where questions list several accepted answers, else accuracy."""
    turns: Literal["last", "first", "all"] = "last"
    """Which turns of a conversation the model answers, with the true answers of earlier turns in the prompt."""
    limit: int | None = None
    """Evaluate this many rows only, spread evenly over the split; the same ones every time."""
    family: str | None = None
    """Model family; by default read from the checkpoint."""
    num_crops: int | None = None
    """Crops per image (Phi-3.5-vision), as --image_option num_crops=N; by default what it was trained with."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, by default what it was trained with. May be given several times."""
    batch_size: int = 8
    """Questions answered at once and per process."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    num_workers: int | None = None
    """Processes that read and encode images. By default 4 with a GPU, else none."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights. auto: bfloat16 on a GPU, else float32."""
    use_flash_attention: bool = False
    """flash-attention 2 in place of PyTorch's sdpa; needs bfloat16."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU if there is one."""
    output: Path | None = None
    """The JSON file. By default eval_SPLIT.json in the model's folder, or here for a model without a folder."""


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """Show a row of a converted dataset as the model gets it: ids, which are supervised, images, length.

    Supervised text is green on a terminal and marked with > everywhere. No weights are loaded.
    """

    data_dir: Positional[Path]
    """Folder of a converted dataset (made by phiv-convert), or its address in an object store: s3://bucket/folder."""
    row: Positional[str]
    """Number of the row in its split (from 0; -1 is the last), or a record id such as val-0000000300."""
    split: str | None = None
    """By default the one the record id begins with, else train."""
    model_name_or_path: str | None = None
    """Checkpoint or adapter folder, or hub id: its tokenizer and preprocessor files. By default the family's own."""
    family: str | None = None
    """tiny, phi3_vision, or another installed one. By default read from the checkpoint, else phi3_vision."""
    num_crops: int | None = None
    """Crops per image (Phi-3.5-vision), as --image_option num_crops=N; by default the checkpoint's."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, by default the checkpoint's. May be given several times."""
    save_images: Path | None = None
    """Folder for the images: as stored, and as the model gets them, before they are cut into tiles."""
    format: Literal["text", "json"] = "text"
    """How to print on stdout. json holds every id."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Ask a model: about images and clips, or all questions of a split of a converted dataset, labelled or not.

    An answer per image on stdout, or with --output as lines of JSON. A dataset's answers go to --output; the same
    command continues after a stop. Start with torchrun to share the rows among several GPUs.
    """

    model: str
    """Folder of a run, its final/, a checkpoint, an adapter folder (its base is found), hub id, or `tiny`."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")] = ()
    """Images, clips, folders of them, or patterns such as 'photos/*.jpg'."""
    question: str | None = None
    """What to ask about each."""
    together: bool = False
    """One question about all images at once, in the order given."""
    num_frames: int = 8
    """Frames of a clip."""
    data_dir: Path | None = None
    """Folder of a converted dataset (made by phiv-convert), in place of images."""
    split: str = "test"
    """Its split."""
    turns: Literal["last", "first", "all"] = "last"
    """Which turns of a conversation the model answers, with the answers of earlier turns in the prompt."""
    limit: int | None = None
    """Answer this many rows only, spread evenly over the split; the same ones every time."""
    output: Path | None = None
    """File for the answers, one JSON object a line."""
    adapter: Path | None = None
    """Adapter folder to put on the model."""
    family: str | None = None
    """Model family; by default read from the checkpoint."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, by default what it was trained with. May be given several times."""
    batch_size: int = 8
    """Questions answered at once and per process."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights. auto: bfloat16 on a GPU, else float32."""
    use_flash_attention: bool = False
    """flash-attention 2 in place of PyTorch's sdpa; needs bfloat16."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU if there is one."""


@dataclasses.dataclass(frozen=True)
class MergeOptions:
    """Merge the adapter of a run (--use_lora, --use_qlora) into its base: a plain checkpoint that servers and
    transformers load by themselves.

    Proves that it is the same model: prints how far the logits of the merged model are from those of base and adapter,
    in float32, and whether greedy answers are equal. A model that differs is not written.
    """

    run: Positional[Path]
    """Folder of a run, its final/, a checkpoint, or an adapter that PEFT wrote."""
    out: Path
    """New folder of the checkpoint; it appears when it is complete."""
    base: str | None = None
    """Folder or hub id of the model to merge into. By default the one the adapter names."""
    onto: Literal["original", "4bit"] | None = None
    """For an adapter trained in 4 bit (--use_qlora): the base's original weights, or those that it saw, rounded to
    4 bit and back."""
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the weights that are written."""
    family: str | None = None
    """Model family; by default read from the checkpoint."""
