"""DocVQA from tables: written once in the official layout, as row files and one file per page.

The hub repeats a page's image in the row of each of its questions, in an order of its own. One pass over the tables
writes every page once and leaves rows that can be read in any order, with little memory.

    <work_dir>/tables-<hash>/0000.jsonl            the rows of the first table, one line each
    <work_dir>/tables-<hash>/pages/<split>/*.png   bytes as in the table

A page is called `<ucsf_document_id>_<page>.png` as in the release, else as the table calls it, else by the first row
that shows it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiv_converters.base import warn_of_missing_shards
from phiv_converters.docvqa.questions import SPLITS, DocvqaLayout, QuestionFile
from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.sources.hf_layout import standard_split
from phiv_data.sources.hf_tables import Table, find_tables, image_cell, iter_rows
from phiv_data.sources.image_index import index_images
from phiv_data.utils.atomic import TMP_PREFIX, environment_problems
from phiv_schemas import SourceError

_FIELDS = {
    "questionId": ("questionId", "question_id"),
    "question": ("question", "query"),
    "answers": ("answers",),
    "docId": ("docId", "doc_id"),
    "ucsf_document_id": ("ucsf_document_id",),
    "ucsf_document_page_no": ("ucsf_document_page_no",),
}
_NESTED = "other_metadata"  # pixparse keeps the document's fields in it
_FILE_NAME = re.compile(r"[^\W_][\w.\- ]{0,199}")
_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}


def find_table_layout(root: Path, work_dir: Path, name: str) -> DocvqaLayout | None:
    """The layout of the tables at `root`, unpacked below `work_dir`; None where there are none of DocVQA.

    Of several configs the one called DocVQA. SourceError where it is not clear what to take.
    """
    tables = [table for table in find_tables(root) if _table_kind(table)]
    if not tables:
        return None
    if len({table.config for table in tables}) > 1:
        tables = [table for table in tables if (table.config or "").lower().rpartition("/")[2] == "docvqa"] or tables
    if len({(table.config, _table_kind(table)) for table in tables}) > 1:
        configs = sorted({table.config or "-" for table in tables})
        raise SourceError(name, f"several datasets are here ({', '.join(configs)})", "Pass the folder of one")
    if unknown := sorted({table.split for table in tables if standard_split(table.split) not in SPLITS}):
        raise SourceError(name, f"the split {unknown[0]!r} is none of train, val and test", "Rename its files")
    folder = _write_official_files(tables, root, work_dir)
    names = [table.path.name for table in tables]
    shown = [_relative(table, root) if names.count(table.path.name) > 1 else table.path.name for table in tables]
    files = [
        QuestionFile(folder / f"{i:04d}.jsonl", standard_split(table.split), shown[i], None)
        for i, table in enumerate(tables)
    ]
    columns = "images, texts (The Cauldron)" if _table_kind(tables[0]) == "cauldron" else "question, answers, image"
    if "query" in tables[0].columns:
        columns = "query, answers, image (docvqa_1200_examples)"
    splits = ", ".join(sorted({table.split for table in tables}))
    config = f" of config {tables[0].config}" if tables[0].config else ""
    description = f"hub layout: {tables[0].kind} tables{config} with {columns}; splits {splits}"
    warnings = warn_of_missing_shards(tables)
    return DocvqaLayout(name, tuple(files), index_images(folder / "pages"), description, warnings)


def _table_kind(table: Table) -> str:
    columns = set(table.columns)
    if {"images", "texts"} <= columns:
        return "cauldron"
    return "rows" if "image" in columns and columns & {"question", "query"} else ""


# Writing ---------------------------------------------------------------------------------------------------------


def _write_official_files(tables: list[Table], root: Path, work_dir: Path) -> Path:
    """The folder with the tables as row files and pages: named by a hash of the tables, and always complete."""
    stats = [(_relative(t, root), t.split, t.path.stat().st_size, t.path.stat().st_mtime_ns) for t in tables]
    target = work_dir / f"tables-{hashlib.sha256(repr(stats).encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    unfinished = work_dir / f"{TMP_PREFIX}{secrets.token_hex(8)}"
    with environment_problems(work_dir):
        try:
            (unfinished / "pages").mkdir(parents=True)
            pages = _Pages(unfinished / "pages")
            for i, table in enumerate(tables):
                rows = _cauldron_rows(table, pages) if _table_kind(table) == "cauldron" else _plain_rows(table, pages)
                with (unfinished / f"{i:04d}.jsonl").open("w", encoding="utf-8") as file:
                    # What JSON cannot hold becomes an object, which no field may be: the row is rejected, not misread.
                    for row in rows:
                        file.write(json.dumps(row, default=lambda value: {"found": type(value).__name__}) + "\n")
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _relative(table: Table, root: Path) -> str:
    return table.path.relative_to(root).as_posix() if root.is_dir() else table.path.name


def _plain_rows(table: Table, pages: _Pages) -> Iterator[dict[str, Any]]:
    wanted = {name for names in _FIELDS.values() for name in names} | {_NESTED, "image"}
    for number, cells in enumerate(iter_rows(table, [name for name in table.columns if name in wanted]), 1):
        # The official fields, under their official names.
        nested = cells.get(_NESTED)
        found = {**nested, **cells} if isinstance(nested, dict) else cells
        first = {
            key: next((found[n] for n in names if found.get(n) is not None), None) for key, names in _FIELDS.items()
        }
        if isinstance(
            first["question"], dict
        ):  # docvqa_1200_examples has it in five languages; the recipe takes English
            first["question"] = first["question"].get("en")
        row = {key: value for key, value in first.items() if value is not None}
        document, page = row.get("ucsf_document_id"), row.get("ucsf_document_page_no")
        official_name = f"{document}_{page}.png" if document and page is not None else None
        yield {"row": number, **row, **pages.add(table, number, cells.get("image"), official_name)}


def _cauldron_rows(table: Table, pages: _Pages) -> Iterator[dict[str, Any]]:
    """A row per question and answer of a page."""
    for number, cells in enumerate(iter_rows(table, ("images", "texts")), 1):
        images, texts = cells["images"] or [], cells["texts"] or []
        base: dict[str, Any] = {"row": number, "is_worded": True}
        if len(images) != 1 or not texts:
            code = "missing-image" if not images else "bad-turns" if not texts else "bad-row"
            yield base | {"problem": [code, f"{len(images)} images and {len(texts)} texts: one page is expected"]}
            continue
        image = pages.add(table, number, images[0], None)
        for text in texts:
            answers = None if text.get("assistant") is None else [text["assistant"]]
            yield base | {"question": text.get("user"), "answers": answers} | image


@dataclass
class _Pages:
    """The pages written so far, by split and name (their digest) and by split and digest (their name)."""

    folder: Path
    digests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    names: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def add(self, table: Table, number: int, cell: Any, official: str | None) -> dict[str, Any]:
        """Write the page of a row unless it is there. `{"image": ...}` for the row, or `{"problem": ...}`."""
        try:
            data, name = image_cell(cell, f"{table.path.name}:{number}")
        except RejectInput as reject:
            return {"problem": [reject.code, reject.reason]}
        split, digest = standard_split(table.split), hashlib.sha256(data).digest()
        base = (name or "").replace("\\", "/").rpartition("/")[2]
        given = next((n for n in (official, base) if n and _FILE_NAME.fullmatch(n)), None)
        document = {} if given else {"page_digest": digest.hex()}  # a page without a name is its own document
        page = given or self.names.get((split, digest))
        if page is None:
            try:
                kind = image_size(data).format  # the real one
                suffix = "." + _SUFFIXES.get(kind, kind.lower())
            except RejectInput:
                suffix = ""
            page = f"{table.path.stem}-{number:08d}{suffix}"
        if self.digests.setdefault((split, page), digest) != digest:
            return {"problem": ["bad-row", f"its image is not that of the rows before under the name {page!r}"]}
        self.names.setdefault((split, digest), page)
        path = self.folder / split / page
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        return {"image": f"{split}/{page}"} | document
