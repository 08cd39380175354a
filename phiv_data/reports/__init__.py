"""Render a `ValidationReport` as text, JSON, JUnit, SARIF, HTML or GitHub annotations.

Each module has a `render(report) -> str`, and the same report gives the same text.

>>> render(report, "sarif")                       # one format
>>> write_reports(report, Path("reports"))        # all that are files
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from phiv_data.utils.atomic import atomic_write, must_stay
from phiv_schemas import ValidationReport

Form = Literal["text", "json", "junit", "sarif", "html", "github"]
_MODULES = {"json": "json_report"}
REPORT_FILE_NAMES: dict[Form, str] = {
    "text": "report.txt",
    "json": "report.json",
    "junit": "report.junit.xml",
    "sarif": "report.sarif",
    "html": "report.html",
}

__all__ = ["Form", "render", "write_report", "write_reports"]


def render(
    report: ValidationReport,
    form: Form,
    data: Path | str | None = None,
    *,
    images_root: Path | str | None = None,
    input_format: str = "auto",
) -> str:
    """The report in a form. `data`, what was validated, and how (`images_root`, `input_format`) give "html" its rows
    and images. EnvironmentProblem where the data are gone by then."""
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)} (found {form!r})")
    module = import_module(f"phiv_data.reports.{_MODULES.get(form, form)}")
    if form != "html":
        return str(module.render(report))
    with must_stay(Path(data)) if data is not None else nullcontext():
        return str(module.render(report, data, images_root=images_root, input_format=input_format))


def write_reports(
    report: ValidationReport,
    folder: Path,
    data: Path | str | None = None,
    *,
    images_root: Path | str | None = None,
    input_format: str = "auto",
) -> list[Path]:
    """Write every form that is a file into `folder`, each whole or not at all; returns what was written."""
    texts = {
        folder / name: render(report, form, data, images_root=images_root, input_format=input_format)
        for form, name in REPORT_FILE_NAMES.items()
    }
    for path, text in texts.items():
        write_report(path, text)
    return list(texts)


def write_report(path: Path, text: str) -> None:
    """Write a rendered report as UTF-8, whole or not at all. Text that is no Unicode is written as `?`.

    A link is followed; a device or a pipe is written to as it is.
    """
    path, data = Path(os.path.realpath(path)), text.encode("utf-8", "replace")
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    with atomic_write(path, durable=False) as out:
        out.write(data)
