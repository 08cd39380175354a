"""Write the JSON Schema files beside this package: `python -m phiv_schemas.generate`.

They are made from the pydantic models, so the models stay the one source; a test fails when a file is stale. Rules
that span fields (an answer among `answers`, offsets within `user`, paths that stay below `images/`) are the models'
alone: JSON Schema cannot express them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from phiv_schemas.conversation import Conversation
from phiv_schemas.manifest import Manifest
from phiv_schemas.report import Reject, ValidationReport

FOLDER = Path(__file__).resolve().parents[1]
MODELS: dict[str, type[BaseModel]] = {
    "conversation": Conversation,
    "manifest": Manifest,
    "reject": Reject,
    "validation_report": ValidationReport,
}


def schema_files() -> dict[str, str]:
    """File name to text, for every model of the format."""
    files = {}
    for name, model in MODELS.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
        files[f"{name}.schema.json"] = json.dumps(schema, indent=2) + "\n"
    return files


def main() -> None:
    """Write every file, and name those that changed."""
    for name, text in schema_files().items():
        path = FOLDER / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
