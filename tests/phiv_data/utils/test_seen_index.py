"""The seen-index: exact answers, no file left behind, a full disk reported in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.utils.seen_index import open_seen_index
from phiv_schemas import EnvironmentProblem


def test_only_the_first_row_registers_an_id(tmp_path: Path) -> None:
    with open_seen_index(tmp_path / "l") as seen_index:
        assert [seen_index.register_id(row_id) for row_id in ("a", "b", "a", "A")] == [True, True, False, True]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12"), st.uuids().map(str)), max_size=20))
def test_names_are_those_of_a_dict_in_order_of_appearance(
    tmp_path_factory: pytest.TempPathFactory, registered: list[tuple[str, str, str]]
) -> None:
    first: dict[str, tuple[str, str]] = {}
    with open_seen_index(tmp_path_factory.mktemp("seen_index") / "l") as seen_index:
        for path, sha256, row_id in registered:
            assert seen_index.register(path, sha256, row_id) == first.get(path)
            first.setdefault(path, (sha256, row_id))
        assert list(seen_index.registered()) == [(path, sha256) for path, (sha256, _) in first.items()]
        assert seen_index.num_registered == len(first)


def test_sources_of_the_same_bytes_are_grouped_and_sorted(tmp_path: Path) -> None:
    with open_seen_index(tmp_path / "l") as seen_index:
        for sha256, name in (("9", "z"), ("1", "y"), ("9", "a"), ("2", "only"), ("1", "x"), ("9", "a")):
            seen_index.add_source(sha256, name)
        assert seen_index.identical_sources() == [["a", "z"], ["x", "y"]]


def test_an_old_file_is_replaced_and_none_is_left(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"left by a killed run")
    with open_seen_index(tmp_path / "l") as seen_index:
        assert seen_index.register_id("a")
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentProblem, match="unable to open database file"),
        open_seen_index(tmp_path / "no" / "l"),
    ):
        pass


def test_without_a_path_nothing_lies_in_a_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_seen_index() as seen_index:
        assert [seen_index.register(name, "", str(i)) for i, name in enumerate("aba")] == [None, None, ("", "0")]
    assert list(tmp_path.iterdir()) == []
