"""Any report at all, hostile text included."""

from __future__ import annotations

from hypothesis import strategies as st

from phiv_schemas import CODES, Issue, SplitStats, Stats, ValidationReport
from phiv_schemas.rules import Severity

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "' onmouseover='document.title=1' x='",
    "</style></script></textarea></title><svg onload=alert(1)>",
    "<!-- <i>cards</i> --> ]]> &lt; &#x3c;",
    "javascript:alert(1) {{7*7}} {0} %(x)s ${x} $body",
    "NUL \x00 bell \x07 delete \x7f escape \x1b[31m",
    "left\u202eright\u2066 zero\u200bwidth \ufeff \u2028 \uffff",
    "[text](https://example.invalid)",
    "x" * 5000,
)
texts = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
issues = st.builds(
    Issue,
    code=st.sampled_from([*CODES, "PV999"]),
    severity=st.sampled_from(["error", "warning"]),
    file=texts,
    line=st.none() | st.integers(1, 10**9),
    json_path=st.none() | texts,
    message=texts,
    hint=texts,
)


counts = st.dictionaries(texts, st.integers(0, 10**9), max_size=3)
split_stats = st.builds(
    SplitStats, rows=st.integers(0, 10**9), images_per_row=counts, rows_per_source=counts, image_format=counts,
    classes=counts,
)  # fmt: skip
stats = st.builds(Stats, splits=st.dictionaries(texts, split_stats, max_size=8))


@st.composite
def reports(draw: st.DrawFn) -> ValidationReport:
    """Reports with any path, issues and statistics; the totals count at least the issues that are listed."""
    listed = draw(st.lists(issues, max_size=8))
    totals: dict[Severity, dict[str, int]] = {}
    for issue in listed:
        by_code = totals.setdefault(issue.severity, {})
        by_code[issue.code] = by_code.get(issue.code, 0) + 1
    for by_code in totals.values():
        by_code["PV101"] = by_code.get("PV101", 0) + draw(st.sampled_from([0, 0, 1, 10**6]))
    rows, images = draw(st.integers(0, 10**9)), draw(st.integers(0, 10**9))
    return ValidationReport(
        path=draw(texts), rows=rows, images=images, issues=listed, totals=totals, stats=draw(stats),
        truncated=draw(st.booleans()),
    )  # fmt: skip
