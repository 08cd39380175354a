"""What may be imported is what docs/api.md lists: no more, no less."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| `([\w.]+)` \|[^|]*\| (.*) \|$", (REPO / "docs/api.md").read_text("utf-8"), re.MULTILINE)
REEXPORTS = {"phiv_data.media.video", "phiv_schemas.report"}  # for phiv's own modules
PUBLIC = {module: re.findall(r"`(\w+)`", names) for module, names in ROWS}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_page_lists_the_public_names_of_a_module(module: str) -> None:
    imported = import_module(module)
    assert sorted(PUBLIC[module]) == sorted(imported.__all__)
    assert [name for name in PUBLIC[module] if not hasattr(imported, name)] == []


def test_every_module_with_public_names_is_on_the_page() -> None:
    roots = {"phiv_data": REPO, "phiv_train": REPO, "phiv_schemas": REPO / "schemas"}
    found = set()
    for package, root in roots.items():
        for file in (root / package).rglob("*.py"):
            if re.search(r"^__all__ = ", file.read_text("utf-8"), re.MULTILINE):
                parts = file.relative_to(root).with_suffix("").parts
                found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert found - REEXPORTS == set(PUBLIC)


def test_the_version_is_that_of_the_installed_package() -> None:
    import phiv_data

    assert phiv_data.__version__ == version("phiv")
