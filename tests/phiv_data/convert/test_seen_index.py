"""The seen_index: exact answers, nothing left behind, a full disk told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.convert.seen_index import open_seen_index
from phiv_schemas import EnvironmentProblem


def test_the_first_to_claim_an_id_has_it(tmp_path: Path) -> None:
    with open_seen_index(tmp_path / "l") as seen_index:
        assert [seen_index.claim_id(row_id) for row_id in ("a", "b", "a", "A")] == [True, True, False, True]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12"), st.uuids().map(str)), max_size=20))
def test_claims_are_those_of_a_dict_in_order_of_appearance(
    tmp_path_factory: pytest.TempPathFactory, claims: list[tuple[str, str, str]]
) -> None:
    first: dict[str, tuple[str, str]] = {}
    with open_seen_index(tmp_path_factory.mktemp("seen_index") / "l") as seen_index:
        for path, sha256, row_id in claims:
            assert seen_index.claim(path, sha256, row_id) == first.get(path)
            first.setdefault(path, (sha256, row_id))
        assert list(seen_index.claims()) == [(path, sha256) for path, (sha256, _) in first.items()]
        assert seen_index.num_claims == len(first)


def test_sources_of_the_same_bytes_are_grouped_and_sorted(tmp_path: Path) -> None:
    with open_seen_index(tmp_path / "l") as seen_index:
        for sha256, name in (("9", "z"), ("1", "y"), ("9", "a"), ("2", "only"), ("1", "x"), ("9", "a")):
            seen_index.note_source(sha256, name)
        assert seen_index.identical_sources() == [["a", "z"], ["x", "y"]]


def test_an_old_ledger_is_not_gone_on_with_and_none_is_left(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"left by a killed run")
    with open_seen_index(tmp_path / "l") as seen_index:
        assert seen_index.claim_id("a")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentProblem, match="unable to open database file"),
        open_seen_index(tmp_path / "no" / "l"),
    ):
        pass
