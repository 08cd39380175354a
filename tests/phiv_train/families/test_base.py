"""Finding families: by entry point, one plugin never disturbing another."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from phiv_data.utils.plugins import FAMILIES
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.families import base
from phiv_train.families.base import Family, family_names, get_family


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The installed families, to which a test may add some."""
    points = list(base.entry_points(group=FAMILIES))

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [p for p in points if p.group == group and name in (None, p.name)]

    monkeypatch.setattr(base, "entry_points", entry_points)
    return points


def plugin(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, FAMILIES)


def test_the_two_families_are_installed() -> None:
    assert {"phi3_vision", "tiny"} <= set(family_names())
    family: Family = get_family("phi3_vision")
    assert family.model_types == ("phi3_v",)


def test_an_unknown_family_is_answered_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"--family: no family 'phi4'\. Installed: .*phi3_vision.*tiny"):
        get_family("phi4")


def test_a_broken_plugin_fails_alone_in_one_line(plugins: list[EntryPoint]) -> None:
    plugins.append(plugin("broken", "no_such_package.at_all:FAMILY"))
    assert "broken" in family_names()
    assert get_family("tiny").name == "tiny"
    with pytest.raises(EnvironmentProblem, match=r"family 'broken': cannot be imported .*ModuleNotFoundError"):
        get_family("broken")


def test_an_object_that_is_no_family_is_refused_with_every_member_it_lacks(plugins: list[EntryPoint]) -> None:
    plugins.append(plugin("odd", "json:dumps"))
    with pytest.raises(
        EnvironmentProblem, match=r"json:dumps is not a Family \(missing: collate, components, .*, skeleton\)"
    ):
        get_family("odd")


def test_a_name_two_packages_claim_is_refused_and_the_same_one_twice_is_not(plugins: list[EntryPoint]) -> None:
    plugins.append(plugin("tiny", "other_package:FAMILY"))
    with pytest.raises(UsageError, match="'tiny' is claimed twice"):
        get_family("tiny")
    plugins[-1] = next(p for p in plugins if p.name == "tiny")
    assert get_family("tiny").name == "tiny"


def test_listing_families_imports_none(plugins: list[EntryPoint]) -> None:
    plugins.append(plugin("loud", "this_module_is_never_imported:FAMILY"))
    assert "loud" in family_names()
    assert "this_module_is_never_imported" not in sys.modules
