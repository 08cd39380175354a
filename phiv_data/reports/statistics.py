"""The statistics of a report as charts."""

from __future__ import annotations

from phiv_data.reports.charts import bars, shares
from phiv_data.reports.markup import Markup, el
from phiv_schemas import Stats, ValidationReport

_CHARTS = {
    "rows_per_split": "Rows of each split",
    "rows_per_source": "Rows of each source",
    "images_per_row": "Images per row",
    "turns_per_row": "Turns per row",
    "user_characters": "Length of what the user says, in characters",
    "assistant_characters": "Length of answers, in characters",
    "tokens_per_row": "Length of rows, in tokens",
    "image_width": "Width of images, in pixels",
    "image_height": "Height of images, in pixels",
    "image_format": "Formats of images",
}
_NOTES = {name: text for name, field in Stats.model_fields.items() if (text := field.description)}


def statistics(report: ValidationReport) -> Markup:
    """The section with the charts: those of which something was measured."""
    counts = {name: getattr(report.stats, name) for name in _CHARTS}
    charts = [bars(_CHARTS[name], list(bins.items()), _NOTES.get(name, "")) for name, bins in counts.items() if bins]
    if report.stats.classes:
        charts.append(shares("Answers of each split", report.stats.classes, "Counts, and shares of the split."))
    body = el("div", charts, class_="charts") if charts else el("p", "Nothing was measured.", class_="soft")
    return el("section", el("h2", "Statistics"), body, id="statistics")
