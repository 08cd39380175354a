"""Folders of your own: images or clips, one folder for each class, or with lists of labels.

    phiv-convert folder --source photos --out_dir out                       photos/cat/1.jpg, photos/train/cat/1.jpg
    phiv-convert folder --source clips --num_frames 4 --out_dir out         clips/jump/a.mp4: evenly spaced frames
    phiv-convert folder --source clips --labels train.csv val.csv --out_dir out
    phiv-convert folder --source imagefolder --out_dir out                  with metadata.csv: as phiv-convert table

Before, an image in the folder of its class:

    photos/train/cat/1.jpg

After, a record:

    {"id": "train-0000000000", "source": "photos", "conversations": [{"images": ["train/cat/1.jpg"],
      "user": "Classify the image into one of the following classes: cat, dog.", "assistant": "cat"}]}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phiv_converters.base import refuse_exports
from phiv_converters.clips import JPEG_QUALITY, clip_images, sampling_of
from phiv_converters.folder.layout import FolderListing, Media, count_names, list_folders, list_labelled, list_media
from phiv_converters.folder.options import FolderOptions
from phiv_converters.table.columns import CLASSES
from phiv_converters.table.convert import open_table
from phiv_converters.table.files import is_metadata
from phiv_converters.table.options import TableOptions
from phiv_converters.val_split import SplitLimits, class_limits, val_warning
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.media.images import count_images, image_size
from phiv_data.media.video import library_versions
from phiv_data.sources.folders import walk
from phiv_data.sources.image_index import load_image, read_image
from phiv_data.storage.sample import Draft
from phiv_schemas import Turn
from phiv_schemas.errors import SourceError, UsageError


def open_folder(flags: FolderOptions, work_dir: Path) -> Converter:
    """Find the files and their classes; of a folder with metadata, its rows."""
    if not flags.source.is_dir():
        raise SourceError("--source", f"no such folder {str(flags.source)!r}", "Check the path")
    refuse_exports(flags.source)
    if not flags.labels and any(is_metadata(file.name) for _, files in walk(flags.source) for file in files):
        frames: dict[str, Any] = {name: getattr(flags, name) for name in ("num_frames", "fps", "check_video")}
        table = TableOptions(flags.source, question=flags.question, name=flags.name, **frames, **flags.shares.flags())
        rows = open_table(table, work_dir)
        unlisted = sorted({*list_media(flags.source)[0]} - set(rows.named_files()))
        warning = (count_names("files that the metadata do not name are left alone", unlisted),) if unlisted else ()
        return replace(rows, warnings=(*rows.warnings, *warning))
    listing = list_labelled(flags.source, flags.labels) if flags.labels else list_folders(flags.source)
    present = sorted({media.label for media in listing.media})
    for name in flags.classes:
        if name not in present:
            close = get_close_matches(name, present, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The source has: {', '.join(present)}"
            raise UsageError("--classes", f"no class {name!r}", hint)
    name = flags.name or re.sub(r"[^\w.-]+", "_", flags.source.absolute().name).strip("_.-") or "folder"
    return Folder(flags, listing, tuple(sorted(set(flags.classes)) or present), name)


@dataclass(frozen=True)
class Folder(Converter):
    """Listed files: turns an image, or the frames of a clip, into a question about its class."""

    flags: FolderOptions
    listing: FolderListing
    classes: tuple[str, ...]
    name: str

    def describe(self) -> str:
        """How classes and splits were found, and how many there are."""
        return f"{len(self.classes)} classes of images or clips ({self.listing.why})"

    def options(self) -> dict[str, Any]:
        """Everything that affects the output."""
        sampling = sampling_of(self.flags.num_frames, self.flags.fps)
        own = {"question": self.flags.question, "check_video": self.flags.check_video} | self.flags.split_options()
        own |= {"num_frames": sampling.num_frames, "fps": sampling.fps}
        return own | {"classes": list(self.classes), "name": self.name, "jpeg_quality": JPEG_QUALITY}

    def versions(self) -> dict[str, str]:
        """Pillow, which checks images and writes frames; where there are clips also the decoder's."""
        has_clips = any(media.is_clip for media in self.listing.media)
        return {"pillow": version("pillow")} | (library_versions("pyav") if has_clips else {})

    def inputs(self) -> Inputs:
        """The files of the chosen classes, in the order of their names."""
        media = [one for one in self.listing.media if one.label in self.classes]
        shares, limits = self.flags.shares, dict[str, SplitLimits]()
        shares.check_source({one.split for one in media})
        if shares.splits_made() and not any(one.split == "val" for one in media):
            trains = ((one.label, shares.position(one.name)) for one in media if one.split in ("", "train"))
            limits = class_limits(trains, shares)
        items, made = [], []
        for one in media:
            split = one.split or "train"
            if split == "train":
                split = limits.get(one.label, SplitLimits()).split_of(shares.position(one.name))
                made.append(split)
            items.append(Item(split, one.name, (one.label.encode("utf-8", "surrogatepass"), one.path), one))
        warnings = self.listing.warnings
        if limits:
            warnings += (val_warning(made, "files"),)
        return Inputs(items, absent=self.listing.absent, warnings=warnings)

    def drafts_depend_on(self) -> object:
        """The flags, and the classes that every question lists; files are payloads."""
        return self.flags, self.classes

    def draft(self, item: Item) -> Draft:
        """One file as one turn."""
        media: Media = item.payload
        name = media.name.removeprefix(f"{item.split}/")
        path, is_clip = f"{item.split}/{name}", media.is_clip
        if not is_clip and name.lower().endswith(".gif"):  # a moving GIF is a clip
            data = read_image(media.path, media.name)
            is_clip = image_size(data, where=media.name).format == "GIF" and count_images(data, "GIF") > 1
        if is_clip:
            check, sampling = self.flags.check_video, sampling_of(self.flags.num_frames, self.flags.fps)
            images = clip_images(media.path, path, media.name, sampling, JPEG_QUALITY, check=check)
        else:
            images = (load_image(media.path, path, source=media.name),)
        question = self.flags.question or CLASSES.replace("image", "video" if is_clip else "image", 1)
        question = question.replace("{classes}", ", ".join(self.classes))
        turn = Turn(images=tuple(image.meta.path for image in images), user=question, assistant=media.label)
        return Draft((turn,), images)
