"""Label Studio: tasks with their annotations (JSON), or one flat object a task (JSON_MIN)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from phiv_converters.table.columns import is_image_name
from phiv_converters.table.files import Row
from phiv_data.sources.json_stream import read_rows
from phiv_data.storage.record_errors import list_keys
from phiv_schemas.errors import SourceError

_OF_THE_TOOL = {
    *("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "inner_id"),
    *("total_annotations", "cancelled_annotations", "comment_count", "file_upload", "project"),
}
_QUESTIONS = ("question", "prompt", "query", "text")


def read_label_studio(path: Path, control: str | None = None) -> Iterator[Row]:
    """A row for each task: its image, the question in its data, and the choices and texts that people gave.

    The first annotation is learned, other people's are accepted too. What no answer can be, boxes for example, is a bad
    row. `control`: what people filled in (`from_name`); SourceError where there are several and none is named.
    """
    controls = dict[str, None]()
    for number, row in enumerate(read_rows(path), start=1):
        if row.problem or not isinstance(row.value, dict):
            yield Row(number, {}, row.problem or "is no object")
        elif isinstance(row.value.get("data"), dict):
            try:
                yield _read_task(number, row.value, control, controls)
            except (AttributeError, TypeError):  # a text or a number where the tool writes an object or a list
                yield Row(number, {}, "its annotations are not as Label Studio writes them")
        else:
            yield _read_flat(number, row.value, control, controls)
        if len(controls) > 1 and control is None:
            what = f"task {number}: {len(controls)} controls may hold the answer ({list_keys(controls)})"
            raise SourceError(str(path), what, "Pass --control NAME for one of them")
    if controls and control is not None and control not in controls:
        raise SourceError("--control", f"nobody answered in {control!r}", f"The export has: {list_keys(controls)}")


def _read_task(number: int, task: Mapping[str, Any], control: str | None, controls: dict[str, None]) -> Row:
    """The row of a task; `controls` takes the names of what it is answered in."""
    data = task["data"]
    answers, classes = [], list[str]()
    for annotation in task.get("annotations") or task.get("completions") or []:
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        parts = []
        for result in annotation.get("result") or []:
            value, name = result.get("value") or {}, str(result.get("from_name", ""))
            controls[name] = None
            if control is not None and name != control:
                continue
            given = value.get("choices") or value.get("text") or value.get("taxonomy")
            if given is None and "rating" in value:
                given = value["rating"]
            if given is None:
                return Row(number, {}, f"its annotation is {result.get('type', 'of no type')!r}, no answer in words")
            parts += [str(one) for one in given] if isinstance(given, list) else [str(given)]
        if parts:
            answers.append(", ".join(parts))
            classes += parts
    images = [image for value in data.values() for image in _images_in(value)]
    question = next((data[key] for key in _QUESTIONS if isinstance(data.get(key), str)), None)
    return _row(number, images, question, answers, data, classes)


def _read_flat(number: int, task: Mapping[str, Any], control: str | None, controls: dict[str, None]) -> Row:
    images = [image for value in task.values() for image in _images_in(value)]
    question = next((key for key in _QUESTIONS if isinstance(task.get(key), str)), None)
    labels = [
        key
        for key, value in task.items()
        if key not in _OF_THE_TOOL and key != question and not list(_images_in(value))
    ]
    controls |= dict.fromkeys(labels)
    labels = [key for key in labels if control in (None, key)]
    value = task[labels[0]] if labels else None
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        value = value["choices"]
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return Row(number, {}, f"its {labels[0]!r} holds regions, no answer in words")
    parts = [str(one) for one in (value if isinstance(value, list) else [value]) if one not in (None, "")]
    answers = [", ".join(parts)] if parts else []
    return _row(number, images, task.get(question) if question else None, answers, task, parts)


def _row(
    number: int, images: list[str], question: Any, answers: list[str], keys: Mapping[str, Any], classes: list[str]
) -> Row:
    """A task's row; of an answer of several choices `classes` has each."""
    problem = "" if images else f"no image in its data ({list_keys(keys)})"
    answer = answers[0] if answers else None
    cells = {"image": images, "question": question, "answer": answer, "answers": answers, "classes": classes}
    return Row(number, cells, problem)


def _images_in(value: Any) -> Iterator[str]:
    """The images that a value of a task's data names: as the tool's own addresses, paths or lists of them."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str):
            continue
        try:
            parts = urlsplit(one)
            path = parse_qs(parts.query).get("d", [""])[0] or unquote(parts.path)
        except ValueError:  # `http://[`
            path = one
        if is_image_name(path):
            yield re.sub(r"^/?data/(upload/\d+/)?", "", path)
