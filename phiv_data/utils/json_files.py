"""A JSON object from a file or a text, or one line that says what is wrong with it.

>>> parse_object("config.json", '{"hidden_size": 64}')
{'hidden_size': 64}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import UsageError


def read_object(path: Path, hint: str = "") -> dict[str, Any]:
    """The object of a JSON file. UsageError when it is missing, not UTF-8, not JSON, or no object."""
    with environment_problems(path):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(str(path), f"is not UTF-8 ({error.reason} at byte {error.start})", hint) from error
        except FileNotFoundError as error:
            raise UsageError(str(path), "is missing", hint) from error
    return parse_object(str(path), text, hint)


def parse_object(where: str, text: str, hint: str = "") -> dict[str, Any]:
    """The object of a JSON text. UsageError when it is not JSON, nested too deeply to be read, or no object."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UsageError(where, "is not a JSON object (it is nested too deeply)", hint) from error
    except ValueError as error:
        raise UsageError(where, f"is not a JSON object ({error})", hint) from error
    if not isinstance(value, dict):
        raise UsageError(where, f"is not a JSON object (found {type(value).__name__})", hint)
    return value
