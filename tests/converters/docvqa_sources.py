"""Sources of DocVQA in the layouts people have it in, made of one official release."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = dict[str, list[dict[str, Any]]]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def page_bytes(shade: int = 200, format: str = "PNG") -> bytes:
    """A tiny page of one shade."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("L", (40, 50), shade).save(out, format)
    return out.getvalue()


def question(number: Any, page: str, *answers: str, text: str = "What is it?", **more: Any) -> dict[str, Any]:
    """A row of an official file for page `<document>_<page>.png`; without answers as in test."""
    document, _, page_number = page.removesuffix(".png").rpartition("_")
    row = {"questionId": number, "question": text, "image": f"documents/{page}", "docId": 14465}
    row |= {"ucsf_document_id": document, "ucsf_document_page_no": page_number}
    return row | ({"answers": list(answers)} if answers else {}) | more


def release(folder: Path, rows: Rows, pages: dict[str, bytes] | None = None, *, images: str = "documents") -> Path:
    """An unpacked official release; pages that are not given are made."""
    (folder / images).mkdir(parents=True)
    for split, elements in rows.items():
        body = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": split, "data": elements}
        (folder / f"{split}_v1.0_withQT.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    names = {str(row["image"]).rpartition("/")[2] for elements in rows.values() for row in elements}
    made = {name: page_bytes(60 + i) for i, name in enumerate(sorted(names))}
    for name, data in (made if pages is None else pages).items():
        (folder / images / name).write_bytes(data)
    return folder


def rows_of(source: Path) -> Rows:
    """The rows of a release."""
    bodies = (json.loads(path.read_bytes()) for path in sorted(source.rglob("*_v1.0*.json")))
    return {body["dataset_split"]: body["data"] for body in bodies}


def page_of(source: Path, row: dict[str, Any]) -> bytes:
    return next(source.rglob(row["image"].rpartition("/")[2])).read_bytes()


# The same release in another layout -------------------------------------------------------------------------------


def archives(source: Path, folder: Path) -> Path:
    """spdocvqa_qas.zip and spdocvqa_images.tar.gz, and one of OCR results that must not be needed."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "spdocvqa_qas.zip", "w") as qas:
        for path in sorted(source.glob("*.json")):
            qas.write(path, path.name)
    with tarfile.open(folder / "spdocvqa_images.tar.gz", "w:gz") as images:
        for path in sorted(source.rglob("*.png")):
            images.add(path, f"spdocvqa_images/{path.name}")
    (folder / "spdocvqa_ocr.tar.gz").write_bytes(b"not needed, not looked at")
    return folder


def older(source: Path, folder: Path) -> Path:
    """{train,val,test}/{documents,ocr_results,<split>_v1.0.json}, every folder with its own pages."""
    for split, rows in rows_of(source).items():
        (folder / split / "documents").mkdir(parents=True)
        (folder / split / "ocr_results").mkdir()
        body = {"dataset_split": split, "data": [{k: v for k, v in r.items() if k != "question_types"} for r in rows]}
        (folder / split / f"{split}_v1.0.json").write_text(json.dumps(body))
        for row in rows:
            name = row["image"].rpartition("/")[2]
            (folder / split / "documents" / name).write_bytes(page_of(source, row))
            (folder / split / "ocr_results" / f"{name[:-4]}.json").write_text('{"status": "Succeeded"}')
    return folder


def lmms(source: Path, folder: Path) -> Path:
    """lmms-lab/DocVQA: ids are strings, test answers null, rows in an order of their own, two shards a split."""
    for split, rows in rows_of(source).items():
        cells = [
            {
                "questionId": str(row["questionId"]),
                "question": row["question"],
                "question_types": row.get("question_types"),
                "image": {"bytes": page_of(source, row), "path": f"row{row['questionId']}.png"},  # not the page's name
                "docId": row["docId"],
                "ucsf_document_id": row["ucsf_document_id"],
                "ucsf_document_page_no": row["ucsf_document_page_no"],
                "answers": row.get("answers"),
                "data_split": split,
            }
            for row in rows[::-1]
        ]
        write_shards(folder / "DocVQA", HUB_SPLITS[split], cells, 2)
    return folder


def pixparse(source: Path, folder: Path) -> Path:
    """pixparse: question_id, the image's own name, the document's fields in a struct of their own."""
    for split, rows in rows_of(source).items():
        cells = [
            {
                "image": {"bytes": page_of(source, row), "path": row["image"].rpartition("/")[2]},
                "question_id": row["questionId"],
                "question": row["question"],
                "answers": row.get("answers") or [],
                "ocr_results": {"page": 1, "lines": ["a", "b"]},
                "other_metadata": {
                    "doc_id": row["docId"],
                    "ucsf_document_id": row["ucsf_document_id"],
                    "ucsf_document_page_no": row["ucsf_document_page_no"],
                },
            }
            for row in sorted(rows, key=lambda row: row["question"])
        ]
        write_shards(folder / "data", HUB_SPLITS[split], cells, 1)
    return folder


def saved(source: Path, folder: Path) -> Path:
    """HuggingFaceM4/DocumentVQA as `datasets` saves it: dictionary of splits, arrow files."""
    from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value, disable_progress_bars

    disable_progress_bars()
    texts = ("question", "ucsf_document_id", "ucsf_document_page_no")
    features = Features({name: Value("string") for name in texts} | {"questionId": Value("int32")})
    features |= {"docId": Value("int32"), "image": Image(), "answers": Sequence(Value("string"))}
    splits = {}
    for split, rows in rows_of(source).items():
        columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in features}
        columns["image"] = [{"bytes": page_of(source, row), "path": None} for row in rows]
        splits[HUB_SPLITS[split]] = Dataset.from_dict(columns, features=Features(features))
    DatasetDict(splits).save_to_disk(str(folder))
    return folder


def write_shards(folder: Path, split: str, cells: Iterable[dict[str, Any]], count: int) -> None:
    """Parquet files as the hub names them; row groups of three."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(cells)
    for i in range(count):
        part = rows[i * len(rows) // count : (i + 1) * len(rows) // count]
        table = pa.Table.from_pylist(part, pa.Table.from_pylist(rows).schema)
        pq.write_table(table, folder / f"{split}-{i:05d}-of-{count:05d}.parquet", row_group_size=3)


LAYOUTS = {"archives": archives, "older": older, "lmms": lmms, "pixparse": pixparse, "saved": saved}


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))
