"""The JSON Schema files are those of the models, and mean what the models mean."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from phiv_schemas import Conversation
from phiv_schemas.generate import FOLDER, MODELS, schema_files

EXAMPLE = {
    "id": "val-0000000300",
    "source": "ucf101",
    "conversations": [{"images": ["val/A/v.0.jpg"], "user": "What is it?", "assistant": "A"}],
}


@pytest.mark.parametrize("name", sorted(schema_files()))
def test_files_are_not_stale(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == schema_files()[name], "run: python -m phiv_schemas.generate"


def test_no_file_is_left_of_a_model_that_is_gone() -> None:
    assert {path.name for path in FOLDER.glob("*.schema.json")} == set(schema_files())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_schema_is_valid_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_files()[f"{name}.schema.json"]))


@pytest.mark.parametrize(
    "change",
    [{}, {"id": 3}, {"conversations": []}, {"extra": 1}, {"system": "Be brief."}, {"system": 3}],
    ids=str,
)
def test_json_schema_and_model_agree(change: dict[str, object]) -> None:
    record = EXAMPLE | change
    schema = json.loads(schema_files()["conversation.schema.json"])
    by_schema = jsonschema.Draft202012Validator(schema).is_valid(record)
    try:
        Conversation.model_validate(record)
    except ValueError:
        by_model = False
    else:
        by_model = True
    assert by_schema == by_model


def test_the_page_on_the_format_shows_a_real_record() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert Conversation.model_validate_json(block).to_line() + "\n" == block


def test_the_page_on_the_format_names_every_key_and_column() -> None:
    from phiv_data.storage.shards import schema
    from phiv_schemas import ImageMeta, Turn

    page = (Path(FOLDER) / "README.md").read_text(encoding="utf-8")
    names = {*Conversation.model_fields, *Turn.model_fields, *ImageMeta.model_fields, *schema().names}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
