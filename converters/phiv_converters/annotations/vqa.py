"""VQA v2: a file of questions and a file of annotations, which answer them by question_id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phiv_converters.table.files import Row
from phiv_data.sources.json_stream import read_json_array
from phiv_data.storage.record_errors import truncated_repr
from phiv_schemas.errors import SourceError


def read_vqa(path: Path, annotations: Path | None, subtype: str) -> Iterator[Row]:
    """A row for each question. `multiple_choice_answer` is learned; the answers of all people are accepted.

    `subtype` (`train2014`) is in the images' names: `COCO_train2014_000000000042.jpg`. An annotation that cannot be
    read is a bad row behind the questions, and so are, together, those of no question.
    SourceError for a question with two annotations.
    """
    answers: dict[Any, tuple[str | None, tuple[Any, ...]]] = {}
    bad: list[str] = []
    for row in read_json_array(annotations, "annotations") if annotations else ():
        value = row.value if isinstance(row.value, dict) else {}
        if row.problem or "question_id" not in value:
            bad.append(f"the annotation in line {row.line}: {row.problem or 'has no question_id'}")
            continue
        given = value.get("answers")
        texts = (
            tuple(one.get("answer") if isinstance(one, dict) else one for one in given)
            if isinstance(given, list)
            else ()
        )
        key = repr(value.get("question_id"))
        if key in answers:
            raise SourceError(f"{annotations}:{row.line}", f"a second annotation of question {key}", "Keep one")
        answers[key] = value.get("multiple_choice_answer"), tuple(dict.fromkeys(map(str, texts)))
    number, asked = 0, set[str]()
    for number, row in enumerate(read_json_array(path, "questions"), start=1):
        value = row.value if isinstance(row.value, dict) else {}
        key = repr(value.get("question_id"))
        answer, accepted = answers.get(key, (None, ()))
        asked.add(key)
        image, image_id = value.get("image") or value.get("file_name"), value.get("image_id")
        if image is None and isinstance(image_id, int):
            image = f"COCO_{subtype}_{image_id:012d}.jpg" if subtype else f"{image_id:012d}.jpg"
        elif image is None and isinstance(image_id, str):
            image = image_id if "." in image_id else f"{image_id}.jpg"
        problem = row.problem or ("" if image else f"a question without image_id ({truncated_repr(value)})")
        learned = answer or (accepted[0] if accepted else None)
        cells = {"image": image, "question": value.get("question"), "answer": learned, "answers": list(accepted)}
        yield Row(number, cells, problem)
    if unasked := [key for key in answers if key not in asked]:
        bad.append(f"{len(unasked)} annotations are of no question in the file (question_id {', '.join(unasked[:3])})")
    for place, problem in enumerate(bad, start=number + 1):
        yield Row(place, {}, problem)
