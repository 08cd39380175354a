"""A report as one JSON object, with the verdict and the counts by code beside the issues."""

from __future__ import annotations

import json

from phiv_schemas import ValidationReport


def render(report: ValidationReport) -> str:
    """The report as JSON in ASCII, indented by two: see `schemas/validation_report.schema.json`."""
    value = report.model_dump(mode="json")
    issues = value.pop("issues")
    return json.dumps({**value, "ok": report.ok, "counts": report.counts(), "issues": issues}, indent=2) + "\n"
