"""A report as one HTML file that works from anywhere: a gallery of rows, filters, counts by rule, histograms.

    >>> Path("report.html").write_text(render(report, Path("out")), encoding="utf-8")

The file contains all it shows: thumbnails are data: URIs, style and script are inline, and its Content-Security-Policy
allows these and nothing else, so opening it asks no server for anything. Data are hostile text: see `markup`.
It never grows beyond `max_bytes`: rows are a sample (`rows.sample_rows`), long texts and lists are cut, with a note.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from phiv_data.reports.charts import MAX_LABELS
from phiv_data.reports.findings import issues_by_code, plural, rule_of, rule_title, severity_of
from phiv_data.reports.gallery import card, issue_line, split_label
from phiv_data.reports.markup import Markup, el, join, raw_text, shorten
from phiv_data.reports.rows import RowLocation, ShownRow, sample_rows
from phiv_data.reports.statistics import statistics
from phiv_schemas import Issue, UsageError, ValidationReport

MAX_BYTES = 8 * 2**20
MIN_BYTES = 2**18
MAX_ROWS = 200
MAX_SPLITS = 50  # to filter by
# Examples of a rule and bins of a chart: fewer where the limit on the file's size asks for it.
_AMOUNTS = ((10, MAX_LABELS), (3, 12), (1, 6), (0, 2))
_SHARE = 0.6  # of the rows: those with findings


def render(
    report: ValidationReport,
    data: Path | str | None = None,
    *,
    images_root: Path | str | None = None,
    input_format: str = "auto",
    max_bytes: int = MAX_BYTES,
    max_rows: int = MAX_ROWS,
) -> str:
    """The report as an HTML document of at most `max_bytes` bytes of UTF-8.

    `data` is what was validated; without it no rows are shown. `images_root` is where a jsonl file's image
    paths start (default: the folder `images` beside it); `input_format` as for `validate`. At most `max_rows` rows are
    shown. The same report and data give the same text. UsageError for a limit below 256 KiB.
    """
    if max_bytes < MIN_BYTES:
        raise UsageError("max_bytes", f"must be at least {MIN_BYTES} (found {max_bytes})")
    rows = _rows(report, data, images_root, input_format, max_rows)
    by_place: dict[RowLocation, list[Issue]] = {}
    for issue in report.issues:
        if issue.line:
            by_place.setdefault((issue.file, issue.line), []).append(issue)
    for examples, labels in _AMOUNTS:
        before, after = _page_around_cards(report, rows, examples, labels)
        space = max_bytes - _size(before) - _size(after)
        if space > 0:
            break
    cards: list[Markup] = []
    for row in rows:  # the first that fit, with no more of them made than that
        one = card(row, by_place.get(row.place, ()))
        space -= _size(one)
        if space < 0:
            break
        cards.append(one)
    return f"{before}{join(cards)}{after}"


def _rows(
    report: ValidationReport, data: Path | str | None, images_root: Path | str | None, input_format: str, max_rows: int
) -> list[ShownRow]:
    if data is None:
        return []
    root = Path(images_root) if images_root is not None else None
    by_rule = [[(i.file, i.line) for i in some if i.line] for some in issues_by_code(report).values()]
    by_turns = (place for some in zip_longest(*by_rule) for place in some if place)  # each rule's first, then second
    wanted: list[RowLocation] = list(dict.fromkeys(by_turns))[: max(1, round(_SHARE * max_rows))]
    return sample_rows(Path(data), wanted, limit=max_rows, images_root=root, input_format=input_format)


def _size(text: str) -> int:
    return len(text.encode())


# The page ---------------------------------------------------------------------------------------------------------


def _page_around_cards(
    report: ValidationReport, rows: Sequence[ShownRow], examples: int, labels: int
) -> tuple[str, str]:
    """The document before and after the cards."""
    by_code, counts = issues_by_code(report), report.counts()
    found = sorted(counts, key=lambda code: (severity_of(report, code), -counts[code], code))
    rules = [_rule(report, code, by_code.get(code, []), counts[code], examples) for code in found]
    mark = el("i", "cards")  # a placeholder for them; the rest of the page cannot hold it, being escaped
    body = el(
        "body",
        _header(report),
        el(
            "main",
            el("section", el("h2", "Rules"), rules or el("p", "No findings."), id="rules"),
            _gallery(report, rows, mark),
            statistics(report, labels),
        ),
        el("footer", "Made by phiv-validate. This file holds a sample of the data: share it as you would the data."),
        raw_text("script", _asset("report.js")),
    )
    before, _, after = el("html", _head(report), body, lang="en").partition(mark)
    return f"<!DOCTYPE html>\n{before}", f"{after}\n"


def _head(report: ValidationReport) -> Markup:
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", shorten(f"{report.path}: validation report", 200)),
        el("link", rel="icon", href="data:,"),
        raw_text("style", style),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("phiv_data.reports").joinpath("assets", name).read_text(encoding="utf-8")


def _header(report: ValidationReport) -> Markup:
    verdict = el("p", "Valid" if report.ok else "Not valid", class_=f"verdict {'good' if report.ok else 'error'}")
    facts = {"rows": report.rows, "images": report.images}
    facts |= {"errors": report.num_errors, "warnings": report.num_warnings}
    links = {"rules": "Rules", "rows": "Rows", "statistics": "Statistics"}
    return el(
        "header",
        el("h1", "Validation report"),
        el("p", el("code", shorten(report.path, 500))),
        verdict,
        el("dl", [el("div", el("dt", name), el("dd", f"{count:,}")) for name, count in facts.items()], class_="facts"),
        el("nav", [el("a", text, href=f"#{name}") for name, text in links.items()], aria_label="Sections"),
    )


def _rule(report: ValidationReport, code: str, issues: Sequence[Issue], count: int, examples: int) -> Markup:
    severity, rule = severity_of(report, code), rule_of(code)
    shown = [issue_line(issue) for issue in issues[:examples]]
    more = count - len(shown)
    return el(
        "details",
        el("summary", el("span", rule_title(code), class_=severity), el("span", f"{count:,}", class_="count")),
        el("p", f"{severity.capitalize()}: {rule.summary}. {rule.hint}", class_="soft"),
        el("ol", shown),
        more > 0 and el("p", f"and {more:,} more, not shown here", class_="soft"),
        el("button", "Show its rows", type="button", data_rule=code, hidden=True),
        id=code,
    )


def _gallery(report: ValidationReport, rows: Sequence[ShownRow], cards: Markup) -> Markup:
    places = {row.place for row in rows}
    found = sorted({issue.code for issue in report.issues if (issue.file, issue.line) in places})
    splits = sorted({split_label(row.split) for row in rows})
    form = el(
        "form",
        _select("rule", "Rule", {code: rule_title(code) for code in found}),
        _select("severity", "Findings", {"error": "errors", "warning": "warnings only", "clean": "none"}),
        _select("split", "Split", {name: name for name in splits[:MAX_SPLITS]}),
        el("label", "Text", el("input", type="search", name="text", autocomplete="off")),
        el("button", "Reset", type="reset"),
        id="filters",
        hidden=True,
    )
    note = (
        f"A sample of the {plural(report.rows, 'row')}: some with findings first, then evenly spread over each split."
    )
    status = el("p", id="shown", role="status", class_="soft")
    return el("section", el("h2", "Rows"), el("p", note, class_="soft"), form, status,
              el("div", cards, class_="cards"), id="rows")  # fmt: skip


def _select(name: str, label: str, options: Mapping[str, str]) -> Markup:
    every = [el("option", "all", value=""), *(el("option", text, value=value) for value, text in options.items())]
    return el("label", label, el("select", every, name=name))
