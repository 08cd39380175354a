"""The inputs of DocVQA: questions by id or page, each question once, and the documents of train that become val."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from phiv_converters.base import row_digest
from phiv_converters.docvqa.questions import DocvqaLayout, DocvqaQuestion, QuestionLocation
from phiv_converters.val_split import Shares, val_warning
from phiv_data.convert.base import Duplicate, Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_schemas import SourceError


def list_questions(layout: DocvqaLayout, *, by_page: bool, shares: Shares) -> Inputs:
    """Items by question id or page; a row that cannot be used is one of its own, with the reason as payload."""
    listing = QuestionListing(layout, by_page)
    for split, location, question in layout.rows():
        listing.add(split, location, question)
    if not listing.num_with_page:
        found_rows = f"{len(listing.locations)} rows with a question, {len(listing.rejects)} bad ones"
        hint = "Pass the folder or archive with the pages as --images"
        raise SourceError(layout.name, f"no question has its page ({found_rows} in {layout.description})", hint)
    split_of, warnings = listing.choose_splits(shares)
    items = []
    for (split, key), locations in listing.locations.items():
        item_split = split_of.get(listing.documents[split, key], split) if split == "train" else split
        payload = tuple(location for _, location in sorted(locations))
        items.append(Item(item_split, key, tuple(listing.contents[split, key]), payload, listing.sizes[split, key]))
    items += [Item(split, key, str(reject).encode(), reject, size) for split, key, size, reject in listing.rejects]
    items.sort(key=lambda item: item.key)  # question ids in ten digits: the same order in every layout
    return Inputs(items, warnings=(*layout.warnings, *warnings), duplicates=tuple(listing.duplicates))


class FirstRow(NamedTuple):
    """The first row of a question id."""

    location: QuestionLocation
    split: str
    content: bytes


@dataclass
class QuestionListing:
    """Rows in the order of the files: `locations` of usable ones, by split and item key; `rejects` of the others."""

    layout: DocvqaLayout
    by_page: bool
    locations: dict[tuple[str, str], list[tuple[str, QuestionLocation]]] = field(default_factory=dict)
    contents: dict[tuple[str, str], list[bytes | Path]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    documents: dict[tuple[str, str], str] = field(default_factory=dict)
    rejects: list[tuple[str, str, int, RejectInput]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    first_rows: dict[int, FirstRow] = field(default_factory=dict)
    page_sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    num_with_page: int = 0

    def add(self, split: str, location: QuestionLocation, question: DocvqaQuestion | RejectInput) -> None:
        """Add one row: to the inputs, to the duplicates or to the rejects."""
        try:
            if isinstance(question, RejectInput):
                raise question
            if not self._is_new(split, location, question):
                return
        except RejectInput as reject:
            self.rejects.append((split, self.layout.row_key(location), location.length, reject))
            return
        own, page = self.layout.key(location, question), (split, question.image)
        if page not in self.page_sizes:
            try:
                self.page_sizes[page] = self.layout.find_page(location, question).stat().st_size
            except (RejectInput, OSError):
                self.page_sizes[page] = 0
        size = self.page_sizes[page]
        labeled = "" if question.answers is not None else "#unlabeled"  # kept apart: those with answers are trained on
        key = (split, question.page + labeled if self.by_page else own)
        self.locations.setdefault(key, []).append((own, location))
        content = self.contents.setdefault(key, [self.layout.page_file(location, question)])
        content.append(row_digest(question))
        self.sizes[key] = self.sizes.get(key, size) + location.length
        self.documents[key] = question.document
        self.num_with_page += size > 0

    def _is_new(self, split: str, location: QuestionLocation, question: DocvqaQuestion) -> bool:
        """False for an exact repetition. RejectInput where one id has two different questions."""
        if question.id is None:
            return True
        content = row_digest(question.text, question.answers, question.page)
        first = self.first_rows.setdefault(question.id, FirstRow(location, split, content))
        if first.location == location:
            return True
        before, where = self.layout.where(first.location), self.layout.where(location)
        if (first.split, first.content) == (split, content):
            self.duplicates.append(Duplicate(before, where))
            return False
        what = f"the split {first.split}" if first.content == content else "another question, page or answers"
        raise RejectInput(where, "bad-row", f"questionId {question.id} is on {before} too, with {what}")

    def choose_splits(self, shares: Shares) -> tuple[dict[str, str], list[str]]:
        """The split of each document of train; warnings about that, and about documents in several splits."""
        by_split: dict[str, set[str]] = {split: set() for split in self.layout.splits}
        for (split, _), document in self.documents.items():
            by_split[split].add(document)
        warnings = []
        every = [document for documents in by_split.values() for document in documents]
        if crossing := len(every) - len(set(every)):
            warnings.append(f"{crossing} documents are in several splits of the source")
        shares.check_source(by_split)
        if "val" in by_split or not shares.splits_made() or not by_split.get("train"):
            return {}, warnings
        positions = {document: shares.position(document) for document in by_split["train"]}
        limits = shares.limits(positions.values())
        split_of = {document: limits.split_of(position) for document, position in positions.items()}
        made = [split_of[document] for (split, _), document in self.documents.items() if split == "train"]
        warnings.append(val_warning(made, "documents"))
        return split_of, warnings
