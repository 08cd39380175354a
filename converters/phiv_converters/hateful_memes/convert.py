"""Hateful Memes: an image with a caption on it becomes a question with the answer yes or no.

    phiv-convert hateful_memes --source hateful_memes/ --out_dir out           official folder: img/ and *.jsonl
    phiv-convert hateful_memes --source hm.zip --password ... --out_dir out    as downloaded
    phiv-convert hateful_memes --source the_cauldron/hateful_memes --out_dir out    the recipe's rows, as worded
    phiv-convert hateful_memes --demo --out_dir out                            makes a small harmless set, offline

Before, a line of `train.jsonl`:

    {"id": "01235", "img": "img/01235.png", "label": 0, "text": "push this button. push that button. can't decide ..."}

After, a record (and the image's file, copied byte for byte):

    {"id": "train-0000000000", "source": "hateful_memes", "conversations": [{"images": ["train/01235.png"],
      "user": "Is the humor in this meme in bad taste?\\nAnswer yes or no.", "assistant": "No."}]}

`--prompt recipe` words the question as The Cauldron does, which the Phi-3.5-vision recipe trains on; of its eleven
wordings a meme takes the one its id hashes to. The dataset is for research only; nothing of it comes with phiv.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from phiv_converters.base import HubFolder, Release, open_release
from phiv_converters.hateful_memes.layouts import MemeLayout, find_layout
from phiv_converters.hateful_memes.listing import list_memes
from phiv_converters.hateful_memes.options import PLAIN, SHARING, SPLITS, WORDINGS, HatefulMemesOptions
from phiv_converters.synthetic.documents import make_synthetic_hateful_memes
from phiv_data.convert.base import Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import checked_image, open_source
from phiv_data.sources.json_stream import text_of
from phiv_data.storage.sample import Draft
from phiv_schemas import Turn
from phiv_schemas.errors import UsageError
from phiv_schemas.sharing import Sharing

HUB = HubFolder("HuggingFaceM4/the_cauldron", "hateful_memes")


def open_hateful_memes(flags: HatefulMemesOptions, work_dir: Path) -> HatefulMemes:
    """Find, unpack, download or make the source, and recognise its layout."""
    hint = "Pass --source (the official folder or zip, or a hub dataset's folder), or --demo"
    demo = make_synthetic_hateful_memes(work_dir / "demo") if flags.demo else None
    root = demo or open_release(flags.source, work_dir, HUB, hint=hint, password=flags.password)
    images = tuple(open_source(path, work_dir, flag="--images", password=flags.password) for path in flags.images)
    mapping = {name: split for split in SPLITS for name in getattr(flags, split)}
    layout = find_layout(root, images, mapping, work_dir, str(flags.source or HUB.repo))
    if flags.with_text and layout.is_cauldron:
        raise UsageError("--with_text", "The Cauldron's rows have no caption", "Leave it out")
    return HatefulMemes(flags, layout, flags.identity())


@dataclass(frozen=True)
class HatefulMemes(Release):
    """An opened source: lists its memes and turns one into a draft."""

    name: ClassVar[str] = "hateful_memes"
    sharing: ClassVar[Sharing] = SHARING
    demo_content: ClassVar[str] = "memes"

    flags: HatefulMemesOptions
    layout: MemeLayout

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that some file was found for, and those made of train."""
        made = self.flags.shares.splits_made() if "train" in self.layout.splits else ()
        return tuple(split for split in SPLITS if split in {*made, *self.layout.splits})

    def options(self) -> dict[str, Any]:
        """Everything that affects the output; where the source has its own val, `val_fraction` does not."""
        own_val = {"val_fraction": None} if "val" in self.layout.splits else {}
        return self.fixed or self.flags.output_options() | own_val

    def inputs(self) -> Inputs:
        """Every meme once, and the repeated ones; rows that cannot be used are inputs too, and rejected."""
        return list_memes(self.layout, self.flags.shares)

    def drafts_depend_on(self) -> object:
        """The flags alone where rows are lines: their content names their images. Rows of tables may name others."""
        return self.flags if self.layout.is_official else super().drafts_depend_on()

    def draft_depends_on(self, item: Item) -> object:
        """The key; not where a line is."""
        return item.key if self.layout.is_official else super().draft_depends_on(item)

    def draft(self, item: Item) -> Draft:
        """A meme, the question and the answer; no answer where there is no label."""
        if isinstance(item.payload, RejectInput):
            raise item.payload
        meme, where = self.layout.read(item.payload), self.layout.where(item.payload)
        name, data = self.layout.image(item.payload, meme)
        image = checked_image(f"{item.split}/{name}", data, where, source=name)
        recipe = self.flags.prompt == "recipe"
        user = (meme.user or recipe_question(meme.key)) if recipe else PLAIN
        if self.flags.with_text:
            user = f"The text on this meme: {text_of({'text': meme.text}, 'text', where)}\n{user}"
        assistant = None if meme.label is None else ("Yes" if meme.label else "No") + ("." if recipe else "")
        return Draft((Turn(images=(image.meta.path,), user=user, assistant=assistant),), (image,))


def recipe_question(key: str) -> str:
    """One of The Cauldron's eleven questions, chosen by the sha256 of the meme's id, padded to five digits."""
    return WORDINGS[hashlib.sha256(key.encode()).digest()[0] % len(WORDINGS)]
