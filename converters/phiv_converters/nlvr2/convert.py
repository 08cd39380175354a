"""NLVR2: two photographs and a sentence become the question whether it is true of them, and the answer.

    phiv-convert nlvr2 --source nlvr --images train_img.zip dev_img.zip --out_dir out   official release
    phiv-convert nlvr2 --source NLVR2/ --out_dir out                         hub tables: HuggingFaceM4, lmms-lab
    phiv-convert nlvr2 --source the_cauldron/nlvr2 --out_dir out             the recipe's rows, worded as they are
    phiv-convert nlvr2 --demo --out_dir out                                  makes a small synthetic set, offline

Before, a line of `data/dev.json`:

    {"sentence": "The right image shows a curving walkway of dark glass circles embedded in dirt ...",
     "label": "False", "identifier": "dev-850-0-0", "synset": "beer bottle", ...}

After, a record (and the two PNG files, copied byte for byte):

    {"id": "dev-0000000000", "source": "nlvr2", "conversations": [{
      "images": ["dev/dev-850-0-img0.png", "dev/dev-850-0-img1.png"],
      "user": "The first image is the image on the left, the second image is the image on the right. Evaluate the
               accuracy of this statement regarding the images: \\"The right image shows ...\\". Is it true? Answer
               yes or no.",
      "assistant": "No."}]}

The left image comes first. `--prompt recipe` words the question as The Cauldron does, which the Phi-3.5-vision
recipe trains on; of its eight wordings a row takes the one its identifier hashes to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from phiv_converters.base import HubFolder, Release, file_stamp, open_release
from phiv_converters.nlvr2.layouts import Nlvr2Layout, Nlvr2Tables, SentenceLocation, find_layout
from phiv_converters.nlvr2.listing import list_sentences
from phiv_converters.nlvr2.official_hashes import average_hash, find_hash_files, read_hashes
from phiv_converters.nlvr2.options import PLAIN, SHARING, WORDINGS, Nlvr2Options
from phiv_converters.synthetic.documents import make_synthetic_nlvr2
from phiv_data.convert.base import Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import checked_image, open_source
from phiv_data.storage.sample import Draft
from phiv_data.utils.atomic import sha256_file
from phiv_schemas import Turn
from phiv_schemas.sharing import Sharing

SPLITS = ("train", "val", "dev", "test1", "test2")
HUB = HubFolder("HuggingFaceM4/the_cauldron", "nlvr2")
HASH_TOLERANCE = 4
"""Bits of 64 by which an image's hash may differ from the official one: decoders and scalers differ by version."""


def open_nlvr2(flags: Nlvr2Options, work_dir: Path) -> Nlvr2:
    """Find, unpack, download or make the source, and recognise its layout."""
    hint = "Pass --source (the official repository, or a hub dataset's folder), or --demo"
    demo = make_synthetic_nlvr2(work_dir / "demo") if flags.demo else None
    root = demo or open_release(flags.source, work_dir, HUB, hint=hint)
    images = tuple(open_source(path, work_dir, flag="--images") for path in flags.images)
    layout = find_layout(root, images, flags.subset, "demo" if flags.demo else str(flags.source or HUB.repo))
    hash_files = () if flags.ignore_hashes else tuple(find_hash_files((root, *images)))
    return Nlvr2(flags, layout, flags.identity(), hash_files)


@dataclass(frozen=True)
class Nlvr2(Release):
    """An opened source: lists its rows and turns one, or those of a pair, into a draft."""

    name: ClassVar[str] = "nlvr2"
    sharing: ClassVar[Sharing] = SHARING
    demo_content: ClassVar[str] = "pairs"

    flags: Nlvr2Options
    layout: Nlvr2Layout
    hash_files: tuple[Path, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The sets that were found, and those made of train; no val where --val_directories or --val_fraction is 0."""
        made = set(self.flags.shares.splits_made()) if "train" in self.layout.sets else set[str]()
        if not self.flags.val_directories:
            made -= {"val"}
        return tuple(split for split in (*SPLITS, "test") if split in made | set(self.layout.sets))

    def options(self) -> dict[str, Any]:
        """Everything that affects the output; of a folder also the hashes that were found in it."""
        hashes = {"hashes": [sha256_file(file) for file in self.hash_files]}
        return self.fixed or self.flags.output_options() | hashes

    def inputs(self) -> Inputs:
        """Every row or pair; rows that cannot be used are inputs too, and rejected."""
        inputs = list_sentences(
            self.layout,
            by_pair=self.flags.group == "pair",
            val_directories=self.flags.val_directories,
            shares=self.flags.shares,
        )
        if hashes := self._official_hashes():
            warning = f"official hashes of {len(hashes)} images are checked"
            return replace(inputs, warnings=(*inputs.warnings, warning))
        return inputs

    def drafts_depend_on(self) -> object:
        """The flags and the official hashes where rows are lines, whose content names their images; else all."""
        if isinstance(self.layout, Nlvr2Tables):
            return super().drafts_depend_on()
        return self.flags, [sha256_file(file) for file in self.hash_files]

    def draft_depends_on(self, item: Item) -> object:
        """The key; not where the lines are."""
        return super().draft_depends_on(item) if isinstance(self.layout, Nlvr2Tables) else item.key

    def draft(self, item: Item) -> Draft:
        """A pair and its sentence, or its sentences as turns; both images are in the first turn."""
        if isinstance(item.payload, RejectInput):
            raise item.payload
        locations: tuple[SentenceLocation, ...] = item.payload
        read = [self.layout.read(location) for location in locations]  # in the order of the file, which depends on it
        examples = sorted(read, key=lambda example: (example.label is None, example.identifier))
        where = self.layout.where(locations[0])
        images = []
        for name, data in self.layout.images(locations[0], examples[0]):
            if (official := self._official_hashes().get(name)) is not None:
                bits = (average_hash(data) ^ int(official, 16)).bit_count()
                if bits > HASH_TOLERANCE:
                    reason = f"{name} is not the official image (its hash differs in {bits} of 64 bits)"
                    raise RejectInput(where, "hash-mismatch", reason)
            images.append(checked_image(f"{item.split}/{name}", data, where, source=name))
        paths = tuple(image.meta.path for image in images)
        turns = []
        for i, example in enumerate(examples):
            answer = None if example.label is None else str(example.label)
            if self.flags.prompt == "recipe":
                user = example.user or recipe_question(example.identifier or example.sentence, example.sentence)
                answer = None if answer is None else example.assistant or ("Yes." if example.label else "No.")
            elif example.sentence:
                user = PLAIN.format(sentence=example.sentence)
            else:
                what = f"no sentence in quotes in the question (found {example.user[:60]!r})"
                raise RejectInput(where, "bad-row", what)
            turns.append(Turn(images=() if i else paths, user=user, assistant=answer))
        return Draft(tuple(turns), tuple(images))

    def _official_hashes(self) -> dict[str, str]:
        return read_hashes(self.hash_files, tuple(map(file_stamp, self.hash_files)))


def recipe_question(identifier: str, sentence: str) -> str:
    """The question in one of The Cauldron's eight wordings, chosen by the identifier's sha256."""
    digest = hashlib.sha256(identifier.encode()).digest()
    return WORDINGS[digest[0] % len(WORDINGS)].format(sentence=sentence)
