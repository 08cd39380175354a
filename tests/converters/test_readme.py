"""What converters/README.md shows is the sample plugin to the letter, which test_plugin.py installs and runs."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "converters/README.md").read_text()
PACKAGE = REPO / "tests/plugin_package"


def test_the_python_of_the_readme_is_the_converter_and_the_tests_of_the_sample_plugin() -> None:
    shown = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown == [(PACKAGE / "phiv_pets.py").read_text(), (PACKAGE / "tests/test_pets.py").read_text()]


def test_the_converter_is_twenty_lines() -> None:
    code = (PACKAGE / "phiv_pets.py").read_text().splitlines()
    assert len([line for line in code if line.strip()]) <= 20


def test_the_pyproject_of_the_readme_is_that_of_the_sample_plugin() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert shown == (PACKAGE / "pyproject.toml").read_text()


def test_all_that_an_author_imports_comes_from_one_module() -> None:
    code = (PACKAGE / "phiv_pets.py").read_text()
    assert set(re.findall(r"from (phiv\S*) import", code)) == {"phiv_data.convert"}
