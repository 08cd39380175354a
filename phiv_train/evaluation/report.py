"""Evaluation reports: a JSON file that extends the one of Microsoft's recipe, and the confusion matrix as an image.

    write_result(result, Path("out/eval_after.json"), model="out")   # and out/eval_after.confusion.png

The recipe's keys come first: `answers_unique`, `generated_texts_unique` and the metric by name. For accuracy these are
lists of `{id, answer}` and `{id, generated_text}`, for ANLS a list of accepted answers and a text per question.
`answers_normalized` and `generated_texts_normalized` are those of accuracy as the recipe compares, and writes, them.
Ours follow: `metric`, `counts`, `settings`, `classes`, `confusion`, `worst`, `predictions`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from phiv_data.utils.atomic import atomic_write
from phiv_data.utils.terminal import printable
from phiv_train.evaluation.metrics import ClassTable, normalize

if TYPE_CHECKING:
    from phiv_train.evaluation.generate import EvalResult, Prediction

OTHER = "(other)"


def write_result(result: EvalResult, path: Path, **settings: Any) -> Path:
    """Write the JSON file (last, complete or not at all) and, for a classification, `<stem>.confusion.png` beside it.

    `settings` are added to those of the run. Returns `path`. Call it on one rank. Same result, same bytes.
    """
    if table := result.classes():
        out = io.BytesIO()
        draw_confusion(table).save(out, "PNG")
        with atomic_write(path.with_name(f"{path.stem}.confusion.png")) as file:
            file.write(out.getvalue())
    with atomic_write(path) as file:
        file.write((json.dumps(as_dict(result, settings), indent=2, ensure_ascii=False) + "\n").encode())
    return path


def as_dict(result: EvalResult, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The result as plain JSON values."""
    table = result.classes()
    scores = {name: result.scores(name) for name in result.metrics}
    predictions = [
        {"row": p.question.row, "turn": p.question.turn, **_describe(p), "stopped": p.stopped}
        | {"scores": {name: values[i] for name, values in scores.items()}}
        for i, p in enumerate(result.predictions)
    ]
    asked = [p.question for p in result.predictions]
    of_recipe: dict[str, Any] = {
        "answers_unique": [{"id": question.id, "answer": question.answer} for question in asked],
        "generated_texts_unique": [{"id": p.question.id, "generated_text": p.text} for p in result.predictions],
    }
    normalized = {
        "answers_normalized": [{"id": question.id, "answer": normalize(question.answer)} for question in asked],
        "generated_texts_normalized": [
            {"id": p.question.id, "generated_text": normalize(p.text)} for p in result.predictions
        ],
    }
    if result.metric.startswith("anls"):
        normalized = {}
        of_recipe["answers_unique"] = [list(question.answers) for question in asked]
        of_recipe["generated_texts_unique"] = [p.text for p in result.predictions]
    return {
        **of_recipe,
        **result.metrics,
        **normalized,
        "metric": result.metric,
        "counts": counts(result),
        "settings": {**result.settings, **(settings or {})},
        "classes": table
        and [
            {"label": c.label, "precision": c.precision, "recall": c.recall, "support": c.support}
            for c in table.scores()
        ],
        "confusion": table and {"labels": [*table.labels, OTHER], "matrix": table.confusion.tolist()},
        "worst": [_describe(p) for p in result.worst()],
        "predictions": predictions,
    }


def counts(result: EvalResult) -> dict[str, int]:
    """Rows evaluated, questions scored, those without an answer, and answers that are empty or were cut short."""
    return {
        "rows": result.rows,
        "questions": len(result.predictions),
        "unlabeled": result.unlabeled,
        "empty": sum(not p.text.strip() for p in result.predictions),
        "cut": sum(not p.stopped for p in result.predictions),
    }


def as_text(result: EvalResult) -> str:
    """Scores, counts and the table of classes, for people."""
    c = counts(result)
    lines = [f"{name} {value:.4f}" for name, value in result.metrics.items()]
    lines.append(
        f"{c['questions']} questions of {c['rows']} rows"
        f" ({c['unlabeled']} unlabeled left out, {c['empty']} answers empty, {c['cut']} cut at max_new_tokens)"
    )
    if table := result.classes():
        width = max(map(len, [*table.labels, "class"]))
        lines.append(f"{'class':{width}} {'precision':>9} {'recall':>6} {'support':>7}")
        for row in table.scores():
            precision = "-" if row.precision is None else f"{row.precision:.3f}"
            lines.append(f"{row.label:{width}} {precision:>9} {row.recall:6.3f} {row.support:7}")
    return "".join(f"{printable(line)}\n" for line in lines)


def draw_confusion(table: ClassTable) -> Image.Image:
    """The matrix as an image: row the true class, column the predicted one, darker the larger share of its row."""
    cell = 34 if len(table.labels) <= 24 else 13
    font, small = ImageFont.load_default(13 if cell > 13 else 10), ImageFont.load_default(11)
    columns = [" ".join(label.split()) for label in (*table.labels, OTHER)]
    columns = [label if len(label) <= 32 else f"{label[:31]}~" for label in columns]
    margin = 12 + max(int(font.getlength(label)) for label in columns)
    size = (margin + cell * len(columns) + 8, margin + cell * len(table.labels) + 8)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for i, counts_ in enumerate(table.confusion.tolist()):
        pen.text((margin - 4, margin + cell * (i + 0.5)), columns[i], "black", font, anchor="rm")
        for j, count in enumerate(counts_):
            box = (margin + cell * j, margin + cell * i)
            share = count / sum(counts_)
            shade = round(255 - 235 * share), round(255 - 190 * share), round(255 - 105 * share)  # white to dark blue
            pen.rectangle((*box, box[0] + cell, box[1] + cell), shade, outline=(200, 200, 200))
            if count and cell > 13:
                middle = (box[0] + cell / 2, box[1] + cell / 2)
                pen.text(middle, str(count), "white" if share > 0.5 else "black", small, anchor="mm")
    for j, label in enumerate(columns):  # reading upwards, from the lower edge of a white strip
        strip = Image.new("RGB", (margin - 4, cell), "white")
        ImageDraw.Draw(strip).text((2, cell / 2), label, "black", font, anchor="lm")
        image.paste(strip.transpose(Image.Transpose.ROTATE_90), (margin + cell * j, 0))
    return image


def _describe(prediction: Prediction) -> dict[str, Any]:
    question = prediction.question
    return {"id": question.id, "generated_text": prediction.text, "answers": list(question.answers)}
