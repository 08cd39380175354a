"""The statistics of a report as charts; where there are several splits, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from phiv_data.reports.charts import MAX_LABELS, bar, bars, facts, side_by_side
from phiv_data.reports.findings import rule_title
from phiv_data.reports.gallery import split_label
from phiv_data.reports.markup import Child, Markup, el
from phiv_data.reports.splits import MAX_SPLITS, distance, in_order
from phiv_schemas import SplitStats, Stats, ValidationReport

_DECODED = "Of distinct images that were decoded."
_BINS = {
    "images_per_row": ("Images per row", ""),
    "turns_per_row": ("Turns per row", ""),
    "user_characters": ("User text, in characters", "Per turn."),
    "assistant_characters": ("Answers, in characters", "Per turn that has an answer."),
    "tokens_per_row": ("Rows, in tokens", "Of the prompt where the answer is null."),
    "image_width": ("Image width, in pixels", _DECODED),
    "image_height": ("Image height, in pixels", _DECODED),
}
_NAMES = {
    "image_format": ("Image formats", _DECODED),
    "rows_per_source": ("Sources", "Rows of each."),
    "classes": ("Answers", "Each different one."),
}
_CHARTS = _BINS | _NAMES
_LEAKS = ("PV240", "PV241", "PV242", "PV243")


def statistics(report: ValidationReport, max_labels: int = MAX_LABELS) -> Markup:
    """The section with the charts: those of which something was measured, of at most `max_labels` bins each."""
    stats, counts = report.stats, report.counts()
    splits = {name: stats.splits[name] for name in in_order(stats)[:MAX_SPLITS]}
    charts = list(_comparison(stats, splits, max_labels))
    for name, (title, note) in _CHARTS.items():
        columns = {split: getattr(one, name) for split, one in splits.items()}
        sums = Counter[str]()
        for column in columns.values():
            sums.update(column)
        labels = list(sums)  # bins in their order, names by their count in all columns together
        if name in _NAMES:
            labels.sort(key=lambda label: (-sums[label], label))
        if labels and len(splits) > 1:
            charts.append(side_by_side(title, columns, labels, note, max_labels=max_labels))
        elif labels:
            (column,) = columns.values()
            charts.append(bars(title, {label: column[label] for label in labels}, note, max_labels=max_labels))
    body = el("div", charts, class_="charts") if charts else el("p", "Nothing was measured.", class_="soft")
    # What was found in two splits, with links to the findings of these rules.
    found = [el("a", f"{rule_title(code)} ({counts[code]:,})", href=f"#{code}") for code in _LEAKS if code in counts]
    leaks = el("p", "Leaks between splits: ", [[link, " "] for link in found], class_="warning") if found else None
    return el("section", el("h2", "Statistics"), leaks, body, id="statistics")


def _comparison(stats: Stats, splits: Mapping[str, SplitStats], max_labels: int) -> Iterator[Markup]:
    if stats.splits:
        rows = {name: stats.splits[name].rows for name in in_order(stats)}
        yield bars("Rows of each split", rows, max_labels=max_labels)
    if len(splits) < 2:
        return
    sizes = {
        "Rows": [f"{split.rows:,}" for split in splits.values()],
        "Images": [f"{split.images:,}" for split in splits.values()],
        "Turns": [f"{split.turns:,}" for split in splits.values()],
        "Turns answered": [f"{split.answered_turns:,}" for split in splits.values()],
    }
    cut = f"{len(splits)} of {len(stats.splits)} splits. " if len(stats.splits) > len(splits) else ""
    yield facts("Splits", list(splits), sizes.items(), cut)
    first, *others = splits
    distances: list[tuple[str, list[Child]]] = []
    for name, (title, _) in _CHARTS.items():
        apart = [distance(getattr(splits[first], name), getattr(splits[other], name)) for other in others]
        if any(far is not None for far in apart):
            shown: list[Child] = [
                "–" if far is None else [f"{far:.1%}", bar(far, i)] for i, far in enumerate(apart, start=1)
            ]
            distances.append((title, shown))
    note = f"{cut}How much of a split would have to change for its shares to be those of {split_label(first)}. "
    note += "Small splits differ by chance."
    yield facts(f"How far from {split_label(first)}", others, distances, note)
