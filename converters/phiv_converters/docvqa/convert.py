"""DocVQA: a scanned page and a question about it, with every answer the annotators accept.

    phiv-convert docvqa --source spdocvqa/ --out_dir out            official json and pages, or the archives themselves
    phiv-convert docvqa --source DocVQA/ --out_dir out              hub tables (lmms-lab, HuggingFaceM4, ...)
    phiv-convert docvqa --source the_cauldron/docvqa --out_dir out  The Cauldron's rows, worded as they are
    phiv-convert docvqa --demo --out_dir out                        makes a small synthetic set, offline

Before, an element of `data` in `val_v1.0.json`:

    {"questionId": 21699, "question": "What is the Expenses for Salaries for 1987?",
     "image": "documents/ffjw0228_11.png", "docId": 6870, "ucsf_document_id": "ffjw0228", "ucsf_document_page_no": "11",
     "answers": ["$117,047"], "data_split": "val"}

After, a record (and the page's file, copied byte for byte):

    {"id": "val-0000000000", "source": "docvqa", "conversations": [{"images": ["val/ffjw0228_11.png"],
      "user": "What is the Expenses for Salaries for 1987?\\nAnswer briefly.",
      "assistant": "$117,047", "answers": ["$117,047"]}]}

The question is the Phi-3.5-vision recipe's, `{question}\\nAnswer briefly.`; `answers` keeps every accepted answer for
ANLS, and `assistant` is one of them, chosen by `--answer`. Rows are in the order of the official question ids, so the
same data give the same rows whichever layout they come in. Each page is copied once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from phiv_converters.base import HubFolder, Release, file_stamp, open_release
from phiv_converters.docvqa.layouts import find_layout
from phiv_converters.docvqa.listing import list_questions
from phiv_converters.docvqa.options import PROMPTS, SHARING, DocvqaOptions
from phiv_converters.docvqa.questions import SPLITS, DocvqaLayout, QuestionLocation
from phiv_converters.synthetic.documents import make_synthetic_docvqa
from phiv_data.convert.base import Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import checked_image, open_source, read_image
from phiv_data.storage.sample import Draft, EncodedImage
from phiv_schemas import Turn
from phiv_schemas.sharing import Sharing

HUB = {
    "mini": HubFolder("nielsr/docvqa_1200_examples", "data"),
    "full": HubFolder("HuggingFaceM4/the_cauldron", "docvqa"),
}


def open_docvqa(flags: DocvqaOptions, work_dir: Path) -> Docvqa:
    """Find, unpack, download or make the source, and recognise its layout."""
    hub, name = HUB[flags.hub], "demo" if flags.demo else str(flags.source or HUB[flags.hub].repo)
    hint = "Pass --source (the official release, or a hub dataset's folder), or --demo"
    demo = make_synthetic_docvqa(work_dir / "demo") if flags.demo else None
    root = demo or open_release(flags.source, work_dir, hub, hint=hint)
    images = tuple(open_source(path, work_dir, flag="--images") for path in flags.images)
    return Docvqa(flags, find_layout(root, images, work_dir, name), flags.identity())


@dataclass(frozen=True)
class Docvqa(Release):
    """An opened source: lists its questions and turns one, or those of a page, into a draft."""

    name: ClassVar[str] = "docvqa"
    sharing: ClassVar[Sharing] = SHARING
    demo_content: ClassVar[str] = "pages"

    flags: DocvqaOptions
    layout: DocvqaLayout

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were found, and those made of train."""
        made = self.flags.shares.splits_made() if "train" in self.layout.splits else ()
        return tuple(split for split in SPLITS if split in {*made, *self.layout.splits})

    def options(self) -> dict[str, Any]:
        """Everything that affects the output; where the source has its own val, `val_fraction` does not."""
        own_val = {"val_fraction": None} if "val" in self.layout.splits else {}
        return self.fixed or self.flags.output_options() | own_val

    def inputs(self) -> Inputs:
        """Every question or page; rows that cannot be used are inputs too, and rejected."""
        return list_questions(self.layout, by_page=self.flags.group == "page", shares=self.flags.shares)

    def draft(self, item: Item) -> Draft:
        """A page and its question, or its questions as turns; the page is in the first turn."""
        if isinstance(item.payload, RejectInput):
            raise item.payload
        locations: tuple[QuestionLocation, ...] = item.payload
        questions = [self.layout.read(location) for location in locations]
        file, page = self.layout.find_page(locations[0], questions[0]), f"{item.split}/{questions[0].page}"
        image = _read_page(file, file_stamp(file), page)
        turns = []
        for i, (location, question) in enumerate(zip(locations, questions, strict=True)):
            prompt = "{question}" if question.is_worded else PROMPTS[self.flags.prompt]
            answers, assistant = question.answers, None
            if answers is not None:
                key, seeded = self.layout.key(location, question), self.flags.answer == "seeded"
                assistant = answers[choose_answer(self.flags.seed, key, len(answers)) if seeded else 0]
            user, images = prompt.replace("{question}", question.text), () if i else (image.meta.path,)
            turns.append(Turn(images=images, user=user, assistant=assistant, answers=answers))
        return Draft(tuple(turns), (image,))


def choose_answer(seed: int, key: str, count: int) -> int:
    """Which of `count` answers --answer seeded takes: sha256 of `seed:key`, its first 8 bytes, modulo `count`.

    `key` is the question id as ten digits, or file and row where there are no ids.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") % count


@lru_cache(maxsize=4)  # the questions of a page are close together: it is decoded once for most of them
def _read_page(file: Path, stamp: tuple[int, ...] | None, path: str) -> EncodedImage:
    """The page as an image; `stamp` (of `file_stamp`) makes a changed file be read again."""
    name = path.partition("/")[2]
    return checked_image(path, read_image(file, name), name, source=name)
