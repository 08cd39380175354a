"""Tables with bars: the histograms of a report. The numbers are the table, so that nothing is in the image alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from phiv_data.reports.markup import Child, Markup, el, shorten

MAX_LABELS = 24
_LABEL = 60
_NAME = 20
_SHORT = 12  # characters that fit on one line

Column = Mapping[str, int]
"""Label to count."""


@dataclass(frozen=True, slots=True)
class _Bars:
    """Bars of one colour, named where there are others."""

    counts: Column
    colour: int = 0
    name: str | None = None

    @property
    def whole(self) -> int:
        return sum(self.counts.values())


def bars(title: str, counts: Column, note: str = "", *, max_labels: int = MAX_LABELS) -> Markup:
    """A bar for each label, in the order given, with its share of all and its count."""
    return _figure(title, note, _table([], _groups([_Bars(counts)], list(counts), max_labels)))


def side_by_side(
    title: str, columns: Mapping[str, Column], labels: Sequence[str], note: str = "", *, max_labels: int = MAX_LABELS
) -> Markup:
    """For each label a bar of every column, in shares of the column, so that columns of any size compare.

    A column keeps its colour where others are empty; those are left out.
    """
    several = [_Bars(counts, number, name) for number, (name, counts) in enumerate(columns.items()) if counts]
    return _figure(title, note, _table(["", "", "", "share", "count"], _groups(several, labels, max_labels)))


def facts(title: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Child]]], note: str = "") -> Markup:
    """A table of a row for each (name, a cell for each column)."""
    head = ["", *(shorten(name, _LABEL) for name in columns)]
    lines = [el("tr", _label(name), [el("td", cell) for cell in cells]) for name, cells in rows]
    return _figure(title, note, el("div", _table(head, [el("tbody", lines)]), class_="scroll", tabindex=0))


def bar(length: float, colour: int) -> Markup:
    """A bar of a length from 0 to 1. A colour is the number of a split in their order."""
    width = max(1.0, 100 * length) if length else 0
    return el("svg", el("rect", width=f"{width:.2f}", height=10, class_=f"c{colour}"), viewBox="0 0 100 10",
              preserveAspectRatio="none", aria_hidden="true")  # fmt: skip


def _figure(title: str, note: str, table: Markup) -> Markup:
    return el("figure", el("figcaption", title), note and el("p", note, class_="soft"), table)


def _table(head: Sequence[str], groups: Sequence[Markup]) -> Markup:
    names = [el("th", name, scope="col") if name else el("td") for name in head]
    return el("table", el("thead", el("tr", names)) if names else None, groups)


def _groups(columns: Sequence[_Bars], labels: Sequence[str], max_labels: int) -> list[Markup]:
    """The lines of each label; those beyond the limit are summed in a last one, so that counts add up."""
    kept, rest = labels[:max_labels], labels[max_labels:]
    wholes = [max(1, column.whole) for column in columns]  # nothing of nothing has no bar
    lines = [(label, [column.counts.get(label, 0) for column in columns]) for label in kept]
    largest = max((n / whole for _, counts in lines for n, whole in zip(counts, wholes, strict=True)), default=0)
    groups = [_group(label, columns, counts, largest) for label, counts in lines]
    if rest:
        sums = [sum(column.counts.get(label, 0) for label in rest) for column in columns]
        groups.append(_group(f"{len(rest):,} more", columns, sums, 0))
    return groups


def _group(label: str, columns: Sequence[_Bars], counts: Sequence[int], largest: float) -> Markup:
    """The lines of one label. `largest`: the share whose bar is full; 0: no bars."""
    lines = []
    for column, count in zip(columns, counts, strict=True):
        length = count / column.whole / largest if count and largest else 0.0
        share = f"{count / column.whole:.1%}" if column.whole else "–"  # nothing of nothing
        lines.append(
            [
                None if column.name is None else el("th", shorten(column.name, _NAME), scope="row", class_="split"),
                el("td", bar(length, column.colour) if largest else None, class_="bar"),
                el("td", share),
                el("td", f"{count:,}"),
            ]
        )
    first, *others = lines
    return el("tbody", el("tr", _label(label, len(lines)), first), [el("tr", line) for line in others])


def _label(label: str, rows: int = 1) -> Markup:
    shown, several = shorten(label, _LABEL), rows > 1
    return el("th", shown, scope="rowgroup" if several else "row", rowspan=rows if several else None,
              class_="short" if len(shown) <= _SHORT else None)  # fmt: skip
