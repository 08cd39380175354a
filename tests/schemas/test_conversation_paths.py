"""The one-match check of image paths agrees with the check that explains."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_schemas.conversation import _explain, check_image_path

PIECES = st.sampled_from(
    ["a", "ä b", ".", "..", "...", ".a", "", "/", "\\", "C:", ":", "\x00", "\n", "\x7f", "日", "a.jpg"]
)


@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES, max_size=6).map("".join) | st.lists(PIECES, max_size=5).map("/".join) | st.text(max_size=8))
def test_one_match_and_the_explanation_agree(path: str) -> None:
    try:
        expected: str | None = _explain(path)
    except ValueError:
        expected = None
    if expected is None:
        with pytest.raises(ValueError, match="must"):
            check_image_path(path)
    else:
        assert check_image_path(path) == path
