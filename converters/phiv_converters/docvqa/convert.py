"""DocVQA: a scanned page and a question about it, with every answer the annotators accept.

    phiv-convert docvqa --source spdocvqa/ --out_dir out            official json and pages, or the archives themselves
    phiv-convert docvqa --source DocVQA/ --out_dir out              hub tables (lmms-lab, HuggingFaceM4, ...)
    phiv-convert docvqa --source the_cauldron/docvqa --out_dir out  The Cauldron's rows, worded as they are
    phiv-convert docvqa --demo --out_dir out                        draws a small synthetic set, offline

The question is the Phi-3.5-vision recipe's, `{question}\\nAnswer briefly.`; `answers` keeps every accepted answer for
ANLS, and `assistant` is one of them, chosen by `--answer`. Rows are in the order of the official question ids, so the
same data give the same rows whichever layout they come in. Pages are copied byte for byte, each once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from phiv_schemas import Sharing
from phiv_schemas.errors import SourceError, UsageError

if TYPE_CHECKING:
    from phiv_converters.docvqa.layouts import Layout, Place, Question
    from phiv_data.convert.base import Duplicate, Inputs, Item
    from phiv_data.media.reject import RejectInput
    from phiv_data.storage.sample import Draft, EncodedImage
    from phiv_schemas import Turn

HUB = {"mini": ("nielsr/docvqa_1200_examples", "data"), "full": ("HuggingFaceM4/the_cauldron", "docvqa")}
PROMPTS = {"recipe": "{question}\nAnswer briefly.", "plain": "{question}"}


@dataclass(frozen=True)
class DocvqaOptions:
    """DocVQA pages and questions to document question answering, every accepted answer kept."""

    sharing: ClassVar[Sharing] = Sharing(
        group="document", group_pattern=r"(?i)(?:^|/)([a-z]{4}\d{4})_\d+\.[a-z]+$", shares=("similar",)
    )  # pages of one form look the same

    source: Path | None = None
    """Folder, archive or file: the official release, unpacked or as its archives in one folder; lmms-lab/DocVQA,
    HuggingFaceM4/DocumentVQA, pixparse/docvqa-single-page-questions, nielsr/docvqa_1200_examples or The Cauldron's
    docvqa as parquet or save_to_disk folders. Without it, --hub is downloaded."""
    images: tuple[Path, ...] = ()
    """More folders or archives with pages of the official layout; --source itself is always looked through."""
    demo: bool = False
    """Draw a small synthetic set instead: needs no network and no source."""
    hub: Literal["mini", "full"] = "mini"
    """What to download without --source, as the recipe does: mini is nielsr/docvqa_1200_examples, full is the docvqa
    config of HuggingFaceM4/the_cauldron."""
    prompt: Literal["recipe", "plain"] = "recipe"
    """recipe: the question and `Answer briefly.` on a line of its own; plain: the question alone. The Cauldron's
    questions are worded already and stay as they are."""
    answer: Literal["first", "seeded"] = "first"
    """Which accepted answer `assistant` is: the first listed, or one drawn by the hash of --seed and the question."""
    seed: int = 0
    """For --answer seeded."""
    group: Literal["question", "page"] = "question"
    """One row per question, or one per page with its questions as turns and the page in the first of them."""
    val_fraction: float = 0.05
    """Where the source has train and no val: this share of train's documents, whole ones, becomes val."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UsageError("--val_fraction", f"must be 0 or more and below 1 (found {self.val_fraction})")
        if self.demo and (self.source is not None or self.images):
            raise UsageError("--demo", "draws its own pages", "Leave out --source and --images")
        if self.images and self.source is None:
            raise UsageError("--images", "needs the questions too", "Pass them as --source")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archives); None for a folder or a table."""
        from phiv_data.sources.image_index import sources_sha256

        if self.demo:
            return self.shape() | {"source": "demo"}
        found = None if self.source is None else sources_sha256((self.source, *self.images))
        return None if found is None else self.shape() | {"source": found}

    def open(self, scratch: Path) -> Docvqa:
        """Find, unpack, download or draw the source, and tell its layout."""
        from phiv_converters.docvqa.layouts import find_layout
        from phiv_data.sources.image_index import opened

        root, name = self._root(scratch)
        images = tuple(opened(path, scratch, flag="--images") for path in self.images)
        return Docvqa(self, find_layout(root, images, scratch, name), self.identity())

    def _root(self, scratch: Path) -> tuple[Path, str]:
        """The folder or file to look at, and its name in errors."""
        from phiv_data.sources.image_index import is_archive, opened

        if self.demo:
            from phiv_converters.synthetic.documents import draw_docvqa

            return draw_docvqa(scratch / "demo"), "demo"
        if self.source is None:
            from phiv_data.sources.hub import download_folder

            repo, folder = HUB[self.hub]
            hint = "Pass --source (the official release, or a hub dataset's folder), or --demo"
            return download_folder(repo, folder, hint=hint), repo
        keep = self.source.is_file() and not is_archive(self.source)  # a JSON or parquet file
        return (self.source if keep else opened(self.source, scratch)), str(self.source)

    def shape(self) -> dict[str, Any]:
        """The options that shape the output, as plain JSON values."""
        seed = self.seed if self.answer == "seeded" else None
        names = ("prompt", "answer", "group", "val_fraction")
        return {name: getattr(self, name) for name in names} | {"seed": seed}


@dataclass(frozen=True)
class Docvqa:
    """An opened source: lists its questions and turns one, or those of a page, into a draft."""

    options_: DocvqaOptions
    layout: Layout
    identity: dict[str, Any] | None
    name: str = "docvqa"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were found, and val beside train."""
        val = {"val"} if "train" in self.layout.splits and self.options_.val_fraction else set()
        return tuple(split for split in ("train", "val", "test") if split in val | set(self.layout.splits))

    @property
    def synthetic(self) -> bool:
        """True for the drawn demo set."""
        return self.options_.demo

    @property
    def record_source(self) -> str:
        """`docvqa`, or `docvqa-synthetic` for drawn pages: every row says so."""
        return "docvqa-synthetic" if self.synthetic else "docvqa"

    def describe(self) -> str:
        """The layout found and why."""
        return ("drawn demo pages, " if self.synthetic else "") + self.layout.description

    def options(self) -> dict[str, Any]:
        """Everything that shapes the output; where the source has its own val, `val_fraction` does not."""
        own_val = {"val_fraction": None} if "val" in self.layout.splits else {}
        return self.identity or self.options_.shape() | own_val

    def versions(self) -> dict[str, str]:
        """Pages are copied, so only what checks them matters."""
        from importlib.metadata import version

        return {"pillow": version("pillow")}

    def inputs(self) -> Inputs:
        """Every question or page; rows that cannot be used are inputs too, and rejected."""
        return _inputs(self.layout, self.options_)

    def draft(self, item: Item) -> Draft:
        """A page and its question, or its questions as turns; the page stands in the first turn."""
        from phiv_data.media.reject import RejectInput
        from phiv_data.storage.sample import Draft

        if isinstance(item.payload, RejectInput):
            raise item.payload
        places: tuple[Place, ...] = item.payload
        questions = [self.layout.read(place) for place in places]
        image = self._page(item.split, places[0], questions[0])
        shown = [(image.meta.path,), *[()] * (len(places) - 1)]
        turns = [self._turn(*three) for three in zip(places, questions, shown, strict=True)]
        return Draft(tuple(turns), (image,))

    def _page(self, split: str, place: Place, question: Question) -> EncodedImage:
        file = self.layout.find_page(place, question)
        try:
            stat = file.stat()
        except OSError:
            return _checked(file, None, f"{split}/{question.page}")
        return _checked(file, (stat.st_mtime_ns, stat.st_size), f"{split}/{question.page}")

    def _turn(self, place: Place, question: Question, images: tuple[str, ...]) -> Turn:
        from phiv_schemas import Turn

        prompt = "{question}" if question.is_worded else PROMPTS[self.options_.prompt]
        answers = question.answers
        assistant = None if answers is None else answers[self._choice(place, question, len(answers))]
        user = prompt.replace("{question}", question.text)
        return Turn(images=images, user=user, assistant=assistant, answers=answers)

    def _choice(self, place: Place, question: Question, count: int) -> int:
        if self.options_.answer == "first":
            return 0
        return chosen_answer(self.options_.seed, self.layout.key(place, question), count)


def chosen_answer(seed: int, key: str, count: int) -> int:
    """Which of `count` answers --answer seeded takes: sha256 of `seed:key`, its first 8 bytes, modulo `count`.

    `key` is the question id as ten digits, or file and row where there are no ids.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") % count


@lru_cache(maxsize=4)  # the questions of a page stand close together: it is decoded once for most of them
def _checked(file: Path, stamp: tuple[int, int] | None, path: str) -> EncodedImage:
    from phiv_data.sources.image_index import checked_image, read_image

    name = path.partition("/")[2]
    return checked_image(path, read_image(file, name), name, source=name)


# Listing ---------------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """The first row of a question id."""

    place: Place
    split: str
    content: int


@dataclass
class _Listing:
    """Rows as they come: `places` of those that can be used, by split and item key; `rejects` of the others."""

    by_page: bool
    places: dict[tuple[str, str], list[tuple[str, Place]]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    documents: dict[tuple[str, str], str] = field(default_factory=dict)
    rejects: list[tuple[str, str, int, RejectInput]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    seen: dict[int, _Seen] = field(default_factory=dict)
    page_sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    with_page: int = 0

    def add(self, layout: Layout, split: str, place: Place, found: Question | RejectInput) -> None:
        """Take one row."""
        from phiv_data.media.reject import RejectInput

        if not isinstance(found, RejectInput):
            try:
                if self._is_new(layout, split, place, found):
                    self._keep(layout, split, place, found)
                return
            except RejectInput as reject:
                found = reject
        self.rejects.append((split, layout.row_key(place), place.length, found))

    def _is_new(self, layout: Layout, split: str, place: Place, question: Question) -> bool:
        """False for an exact repetition. RejectInput where an id stands for two questions."""
        from phiv_data.convert.base import Duplicate
        from phiv_data.media.reject import RejectInput

        if question.id is None:
            return True
        content = hash((question.text, question.answers, question.page))  # of this process; both are read by it
        first = self.seen.setdefault(question.id, _Seen(place, split, content))
        if first.place == place:
            return True
        before, where = layout.where(first.place), layout.where(place)
        if (first.split, first.content) == (split, content):
            self.duplicates.append(Duplicate(before, where))
            return False
        what = f"the split {first.split}" if first.content == content else "another question, page or answers"
        raise RejectInput(where, "bad-row", f"questionId {question.id} is on {before} too, with {what}")

    def _keep(self, layout: Layout, split: str, place: Place, question: Question) -> None:
        own, page = layout.key(place, question), (split, question.image)
        if page not in self.page_sizes:
            self.page_sizes[page] = layout.page_size(place, question)
        size = self.page_sizes[page]
        labeled = "" if question.answers is not None else "#unlabeled"  # kept apart: those with answers are trained on
        key = (split, question.page + labeled if self.by_page else own)
        self.places.setdefault(key, []).append((own, place))
        self.sizes[key] = self.sizes.get(key, size) + place.length
        self.documents[key] = question.document
        self.with_page += size > 0


def _inputs(layout: Layout, options: DocvqaOptions) -> Inputs:
    """Items by question id or page; a row that cannot be used is one of its own, with the reason as payload."""
    from phiv_data.convert.base import Inputs, Item

    listing = _Listing(options.group == "page")
    for split, place, found in layout.rows():
        listing.add(layout, split, place, found)
    if not listing.with_page:
        found_rows = f"{len(listing.places)} rows with a question, {len(listing.rejects)} bad ones"
        hint = "Pass the folder or archive with the pages as --images"
        raise SourceError(layout.name, f"no question has its page ({found_rows} in {layout.description})", hint)
    val, notices = _val_documents(listing, layout, options.val_fraction)
    items = [
        Item(_split(split, listing.documents[split, key], val), key, listing.sizes[split, key], _in_order(places))
        for (split, key), places in listing.places.items()
    ]
    items += [Item(split, key, size, reject) for split, key, size, reject in listing.rejects]
    return Inputs(tuple(items), notices=(*layout.notices, *notices), duplicates=tuple(listing.duplicates))


def _in_order(places: list[tuple[str, Place]]) -> tuple[Place, ...]:
    return tuple(place for _, place in sorted(places))


def _split(split: str, document: str, val: frozenset[str]) -> str:
    return "val" if split == "train" and document in val else split


def _val_documents(listing: _Listing, layout: Layout, fraction: float) -> tuple[frozenset[str], list[str]]:
    """The documents of train that become val, and what to tell of it and of documents in two splits."""
    by_split: dict[str, set[str]] = {split: set() for split in layout.splits}
    for (split, _), document in listing.documents.items():
        by_split[split].add(document)
    notices = []
    every = [document for documents in by_split.values() for document in documents]
    if crossing := len(every) - len(set(every)):
        notices.append(f"{crossing} documents are in several splits of the source")
    if "val" in by_split or not fraction or not by_split.get("train"):
        return frozenset(), notices
    ranked = sorted((_share(document), document) for document in by_split["train"])
    val = frozenset(document for share, document in ranked if share < fraction) or frozenset({ranked[0][1]})
    notices.append(f"{len(val)} of {len(ranked)} documents of train are val, as the source has none")
    return val, notices


def _share(document: str) -> float:
    """A fixed place of the document in 0..1: the same one in any part of the dataset."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
