"""Options of the converters for annotation files. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_folder, check_name_flag


@dataclass(frozen=True)
class AnnotationOptions(SplitFlags):
    """What the options of the annotation formats have in common."""

    opener = "phiv_converters.annotations.convert:open_annotations"

    format: ClassVar[str]

    source: Path
    """An annotation file, or a folder with some; a split that a file's name says is its split."""
    images: Path | None = None
    """Folder of the images, which are found in it by their names. By default that of the annotation file."""
    question: str | None = None
    """The question, where the annotations have none; {classes} becomes the list of all answers."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where there is no val: about this share of train becomes it, whole images by a hash."""
    name: str | None = None
    """Name of the dataset: what its files are called, and the source of its rows. By default the format's."""

    def __post_init__(self) -> None:
        self.check_fractions()
        check_name_flag("--name", self.name)
        check_folder("--images", self.images)


@dataclass(frozen=True)
class CocoOptions(AnnotationOptions):
    """COCO captions (captions_train2017.json) to conversations: a row an image, all its captions accepted."""

    format: ClassVar[str] = "coco"


@dataclass(frozen=True)
class VqaOptions(AnnotationOptions):
    """VQA v2 questions and annotations (v2_OpenEnded_..._questions.json, ..._annotations.json) to conversations."""

    format: ClassVar[str] = "vqa"


@dataclass(frozen=True)
class LabelStudioOptions(AnnotationOptions):
    """Label Studio exports (JSON, JSON_MIN) of choices and texts about images to conversations."""

    format: ClassVar[str] = "label_studio"

    control: str | None = None
    """Name of the control (`colour` of <Choices name="colour">) whose answers are learned. Needed where people answered
    in several."""
