"""Where DocVQA's questions and pages are. Official files are read where they are; tables become such files first.

    train_v1.0_withQT.json, val_..., test_v1.0.json    spdocvqa_qas.zip, with the pages of spdocvqa_images.tar.gz
    {train,val,test}/{documents/, <split>_v1.0.json}   the older download
    spdocvqa_qas.zip, spdocvqa_images.tar.gz           both, still packed, in one folder
    tables with question (or query), answers, image    lmms-lab, HuggingFaceM4, pixparse, nielsr
    tables with images, texts                          The Cauldron: questions and answers already worded

Rows name `documents/pybv0228_81.png` whatever the pages' folder is called, so pages are found by base name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from phiv_converters.base import hint_for_converted
from phiv_converters.docvqa.questions import SPLITS, DocvqaLayout, QuestionFile
from phiv_converters.docvqa.tables import find_table_layout
from phiv_data.sources.folders import entries, walk
from phiv_data.sources.hf_layout import named_tables, standard_split
from phiv_data.sources.image_index import index_images, unpack
from phiv_data.utils.atomic import environment_problems
from phiv_schemas import SourceError

_NAME = re.compile(r"^(train|val|test)_v\d.*\.json$", re.IGNORECASE)
_HEAD = re.compile(rb'"dataset_split"\s*:\s*"(\w+)"')
_SQUAD = re.compile(rb'\s*\[\s*\{\s*"(context|boxes)"')
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_DEPTH = 3


def find_layout(root: Path, images: tuple[Path, ...], work_dir: Path, name: str) -> DocvqaLayout:
    """The layout of `root`, with pages below it and in `images`; errors call it `name`.

    The official layout wins where both are there. SourceError where none is.
    """
    if root.is_file() and root.suffix.lower() in (".json", ".jsonl"):
        return _official_layout([_question_file(root, name)], (root.absolute().parent, *images), name)
    if root.is_dir():
        folders = [root, *_unpack_archives(root, work_dir)]
        paths = [path for folder in folders for path in _json_files(folder, _DEPTH)]
        files = [_question_file(path, name) for path in paths if _NAME.match(path.name) or _HEAD.search(_head(path))]
        if files:
            return _official_layout(files, (*folders, *images), name)
    if layout := find_table_layout(root, work_dir, name):
        return layout
    if root.is_dir():
        for path in _json_files(root, 1):
            if _SQUAD.match(_head(path)):
                _question_file(path, name)  # raises: it names what was found instead
    found = ", ".join(entry.name for entry in entries(root)[:8]) if root.is_dir() else root.name
    raise SourceError(
        name,
        f"neither {{train,val,test}}_v1.0.json nor tables of DocVQA (found: {found or 'nothing'})",
        hint_for_converted(root, name)
        or "Pass the folder of the official release, or of a hub dataset (parquet or save_to_disk)",
    )


def _official_layout(files: list[QuestionFile], folders: tuple[Path, ...], name: str) -> DocvqaLayout:
    """One file a split: the one with question types, else the first by name."""
    best: dict[str, QuestionFile] = {}
    for file in sorted(files, key=lambda file: ("withqt" not in file.name.lower(), file.name, str(file.path))):
        best.setdefault(file.split, file)
    chosen = tuple(best[split] for split in SPLITS if split in best)
    left = sorted(file.name for file in files if file not in chosen)
    warnings = (f"other files of the same splits were left alone: {', '.join(left)}",) if left else ()
    described = f"official layout: {', '.join(file.name for file in chosen)}"
    return DocvqaLayout(name, chosen, index_images(*folders), described, warnings)


def _question_file(path: Path, name: str) -> QuestionFile:
    """SourceError for JSON of another shape. The split is `dataset_split` of the file, else a part of its name."""
    head = _head(path)
    if _SQUAD.match(head):
        what = f"{path.name} holds questions over OCR text (SQuAD or LayoutLM form), which names no pages"
        raise SourceError(name, what, "Pass the official release (val_v1.0_withQT.json with its pages) or a hub table")
    declared = _HEAD.search(head)
    word = declared[1].decode() if declared else (_NAME.match(path.name) or [path.stem, path.stem])[1]
    split = standard_split(word.lower())
    if split not in SPLITS:
        raise SourceError(f"{path.name}", f"its split is none of train, val and test (found {word!r})", "Rename it")
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    return QuestionFile(path, split, path.name, "data" if is_object and declared else None)


def _json_files(folder: Path, depth: int) -> Iterator[Path]:
    """`*.json` below `folder`, without the thousands of files with OCR results."""
    for entry in entries(folder):
        if entry.is_dir():
            if depth > 0 and "ocr" not in entry.name.lower():
                yield from _json_files(Path(entry.path), depth - 1)
        elif entry.name.lower().endswith(".json"):
            yield Path(entry.path)


def _head(path: Path) -> bytes:
    with environment_problems(path), path.open("rb") as file:
        return file.read(4096)


def _unpack_archives(root: Path, work_dir: Path) -> list[Path]:
    """The archives in `root` unpacked below `work_dir`: those of questions or pages that are not unpacked in `root`."""
    if any(True for _ in named_tables(root)):
        return []
    archives = [root / e.name for e in entries(root) if e.name.lower().endswith(_ARCHIVES) and e.is_file()]
    wanted = [path for path in archives if "ocr" not in path.name.lower()]
    if any(_NAME.match(path.name) for path in _json_files(root, _DEPTH)):
        wanted = [path for path in wanted if "qas" not in path.name.lower()]
    pages = (file.name for _, files in walk(root) for file in files)
    if wanted and any(name.lower().endswith((".png", ".jpg", ".jpeg")) for name in pages):
        wanted = [path for path in wanted if "qas" in path.name.lower()]
    return [unpack(path, work_dir) for path in wanted]
