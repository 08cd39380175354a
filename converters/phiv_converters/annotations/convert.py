"""Annotation files about images: COCO captions, VQA v2 questions, Label Studio exports.

    phiv-convert coco --source annotations/captions_val2017.json --images val2017 --out_dir out
    phiv-convert vqa --source vqa/ --images coco/ --out_dir out          questions and annotations, found in pairs
    phiv-convert label_studio --source export.json --images photos --out_dir out

Before, in `captions_val2017.json`:

    {"images": [{"id": 7, "file_name": "000007.jpg"}], "annotations": [{"image_id": 7, "caption": "A dog."}]}

After, a record:

    {"id": "val-0000000000", "source": "coco", "conversations": [{"images": ["val/000007.jpg"],
      "user": "Describe the image.", "assistant": "A dog.", "answers": ["A dog."]}]}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from phiv_converters.annotations.coco import read_coco
from phiv_converters.annotations.label_studio import read_label_studio
from phiv_converters.annotations.options import AnnotationOptions, LabelStudioOptions
from phiv_converters.annotations.vqa import read_vqa
from phiv_converters.base import refuse_exports
from phiv_converters.table.columns import CLASSES, DESCRIBE, Columns
from phiv_converters.table.convert import TableRows, with_classes
from phiv_converters.table.files import Row, RowFile, read
from phiv_converters.table.options import TableOptions
from phiv_data.sources.folders import walk
from phiv_data.sources.hf_layout import split_word
from phiv_data.sources.image_index import ImageIndex, index_images
from phiv_schemas.errors import SourceError

_SUBTYPE = re.compile(r"(train|val|test)(-dev|-std)?\d{4}")
_WAYS_OUT = {
    "coco": "Pass a captions_*.json",
    "vqa": "Pass the questions and, beside them, their annotations",
    "label_studio": "Export tasks that name an image in their data and are answered by choices, texts or ratings",
}
_NAMES = {"coco": "captions", "vqa": "questions", "label_studio": ""}


def open_annotations(flags: AnnotationOptions, work_dir: Path) -> TableRows:
    """Find the annotation files of the format, and the images by their names."""
    if not flags.source.exists():
        raise SourceError("--source", f"no such file or folder {str(flags.source)!r}", "Check the path")
    refuse_exports(flags.source)
    root = flags.source if flags.source.is_dir() else flags.source.parent
    found = [
        folder / file.name for folder, files in walk(root) for file in files if file.name.lower().endswith(".json")
    ]
    sources = (
        [flags.source] if flags.source.is_file() else [path for path in found if _NAMES[flags.format] in path.name]
    )
    if not sources:
        what = f"no *{_NAMES[flags.format]}*.json in {str(root)!r}"
        raise SourceError("--source", what, "Pass the annotation file")
    images = flags.images or root
    index = index_images(images)
    files = []
    for path in sources:
        reader = partial(_with_paths, _reader(flags, path, found), index)
        word = split_word(path.stem) or _SUBTYPE.search(path.stem)
        split = word[0] if isinstance(word, tuple) else word[1] if word else ""
        files.append(RowFile(path, path.relative_to(root).as_posix(), "json", split, reader=reader))
    first = next((row.values for file in files for row in read(file) if not row.problem), None)
    if first is None:
        raise _no_rows(flags, files)
    has_question = first.get("question") is not None
    prompt = flags.question or (CLASSES if flags.format == "label_studio" else DESCRIBE)
    columns = Columns(
        image=("image",),
        question="question" if has_question else None,
        prompt="" if has_question else prompt,
        answer="answer" if "answer" in first else None,
        answers="answers",
    )
    name = flags.name or flags.format
    table = TableOptions(flags.source, images, question=flags.question, name=name, **flags.shares.flags())
    more = {"control": flags.control} if isinstance(flags, LabelStudioOptions) else {}
    return with_classes(TableRows(table, tuple(files), columns, more_options=more))


def _no_rows(flags: AnnotationOptions, files: Sequence[RowFile]) -> SourceError:
    """The error of files none of whose rows can be used: the first problem, and how many rows have which."""
    problems = [(f"{file.name}:{row.number}", row.problem) for file in files for row in read(file)]
    if not problems:
        return SourceError(str(flags.source), f"holds no rows of {flags.format}", "Pass the annotation file")
    counts = Counter(re.sub(r"\d+", "N", problem) for _, problem in problems).most_common()
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts[:3]) + "; ..." * (len(counts) > 3)
    what = f"none of its {len(problems)} rows can be used (first: {': '.join(problems[0])}). In all: {reasons}"
    return SourceError(str(flags.source), what, _WAYS_OUT[flags.format])


def _reader(flags: AnnotationOptions, path: Path, found: Sequence[Path]) -> Callable[[], Iterator[Row]]:
    """What reads the rows of a file; of VQA also the annotations of the same images, by the files' names."""
    if flags.format == "coco":
        return partial(read_coco, path)
    if isinstance(flags, LabelStudioOptions):
        return partial(read_label_studio, path, flags.control)
    match = _SUBTYPE.search(path.stem)
    subtype = match[0] if match else ""
    answers = [one for one in found if "annotations" in one.name and one.parent == path.parent and subtype in one.name]
    if len(answers) > 1:
        raise SourceError(str(path), f"{len(answers)} files could be its annotations", "Leave one in the folder")
    return partial(read_vqa, path, answers[0] if answers else None, subtype)


def _with_paths(rows: Callable[[], Iterator[Row]], index: ImageIndex) -> Iterator[Row]:
    """The rows, with each image's path below the index's root; a name of several files makes a bad row."""
    for row in rows():
        named, problem = row.values.get("image"), row.problem
        paths = []
        for name in named if isinstance(named, list) else [named]:
            files: list[Path] = []
            if isinstance(name, str):  # Label Studio puts eight hex digits before uploaded names
                files = index.candidates(name) or index.candidates(re.sub(r"(^|/)[0-9a-f]{8}-", r"\1", name))
            paths.append(files[0].relative_to(index.root).as_posix() if len(files) == 1 else name)
            if len(files) > 1:
                problem = problem or f"{len(files)} files are called {name!r}: leave one of them in --images"
        yield Row(row.number, {**row.values, "image": paths}, problem)
