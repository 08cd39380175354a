"""What a dataset may declare to share, and the sentences about what it may not."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter

from phiv_schemas import Sharing


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"group": "x"}, "group and group_pattern go together: what a group is, and where a path names it"),
        ({"group_pattern": "(x)"}, "group and group_pattern go together: what a group is, and where a path names it"),
        ({"group": "x", "group_pattern": "(x"}, "group_pattern is not a regular expression (missing ), unterminated "),
        ({"group": "x", "group_pattern": "x"}, "group_pattern has no group in parentheses (found 'x')"),
        (
            {"group": "a" * 17, "group_pattern": "(x)"},
            "group must be at most 16 printable ASCII characters (found 'aaa",
        ),
        (
            {"group": "a\n", "group_pattern": "(x)"},
            "group must be at most 16 printable ASCII characters (found 'a\\n')",
        ),
        ({"shares": ("rows",)}, "shares must be of images, similar (found 'rows')"),
    ],
)
def test_what_makes_no_sharing_is_refused_with_a_sentence(fields: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(what)):
        Sharing(**fields)  # type: ignore[arg-type]  # on purpose


def test_a_sharing_survives_json() -> None:
    adapter = TypeAdapter(Sharing)
    for sharing in (Sharing(), Sharing("scene", r"(s\d+)", ("images", "similar"))):
        assert adapter.validate_json(adapter.dump_json(sharing)) == sharing


@pytest.mark.parametrize("text", ['{"other": 1}', '{"group": 3}', '{"shares": ["rows"]}', '{"group": "x"}'])
def test_a_file_with_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="validation error for Sharing"):
        TypeAdapter(Sharing).validate_json(text)
