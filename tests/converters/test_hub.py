"""phiv's own tables: the contract of converters, rows that break the format (round trips: phiv_data/export)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from phiv_converters.hub.options import HubOptions
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data.convert.engine import convert
from phiv_data.export.engine import export
from phiv_data.export.hub import Hub
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.testing import Case, Check, conformance_checks
from phiv_schemas import SourceError


def exported(folder: Path) -> Path:
    """An export of a few rows; one has no answer."""
    (folder / "rows/images").mkdir(parents=True)
    for split, count in (("train", 3), ("val", 2)):
        lines = []
        for i in range(count):
            name = f"{split}/{i}.png"
            (folder / "rows/images" / split).mkdir(exist_ok=True)
            Image.new("RGB", (12, 8), (i * 40, len(split), 9)).save(folder / "rows/images" / name)
            turn = {"images": [name], "user": f"What is {i}?", "assistant": None if i == 2 else "An image."}
            lines.append(json.dumps({"id": f"{split}-{i}", "source": "mine", "conversations": [turn]}))
        (folder / f"rows/{split}.jsonl").write_text("\n".join(lines) + "\n")
    convert(JsonlOptions(folder / "rows"), folder / "data", num_workers=0, include_unlabeled=True)
    export(Hub(), folder / "data", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_converter_keeps_the_contract(check: Check, tmp_path: Path) -> None:
    case = Case(HubOptions, exported(tmp_path / "case"), unlabeled=1, damaged="")
    (tmp_path / "work").mkdir()
    check(case, tmp_path / "work")


def test_rows_that_break_the_format_and_images_that_do_not_decode_are_rejects(tmp_path: Path) -> None:
    file = exported(tmp_path / "case") / "data/train-00000-of-00001.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows.append(rows[0] | {"id": "train-3"})  # a good row: without one, nothing is written
    rows[0] = rows[0] | {"conversations": [rows[0]["conversations"][0] | {"images": ["../up.png"]}]}
    rows[2]["media"] = []
    rows[1]["images"][0]["bytes"] = rows[1]["images"][0]["bytes"][:-20]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), file)
    convert(HubOptions(file), tmp_path / "back", num_workers=0)
    rejects = [json.loads(line) for line in (tmp_path / "back/rejects.jsonl").read_text().splitlines()]
    assert [(reject["code"], reject["input"]) for reject in rejects] == [
        ("bad-row", "train-00000-of-00001.parquet:00000000"),
        ("truncated", "train-00000-of-00001.parquet:00000001"),
        ("bad-row", "train-00000-of-00001.parquet:00000002"),
    ]
    assert rejects[0]["reason"].startswith("$.conversations[0].images[0]: ")


def test_facts_of_an_image_come_from_its_bytes(tmp_path: Path) -> None:
    file = exported(tmp_path / "case") / "data/val-00000-of-00001.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    out = io.BytesIO()
    Image.new("RGB", (5, 4)).save(out, "PNG")
    rows[0]["images"][0]["bytes"] = out.getvalue()
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), file)
    convert(HubOptions(file), tmp_path / "back", num_workers=0)
    meta = ConversationDataset(tmp_path / "back", "val")[0].images[0].meta
    assert (meta.width, meta.height, meta.size_bytes) == (5, 4, len(out.getvalue()))


def test_a_file_of_the_tables_that_is_cut_is_an_error(tmp_path: Path) -> None:
    file = exported(tmp_path / "case") / "data/val-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(SourceError, match="cut, damaged or no table"):
        convert(HubOptions(file.parent), tmp_path / "back", num_workers=0)
