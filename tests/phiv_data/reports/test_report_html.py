"""The report as one HTML file, as text; test_report_browser.py opens it."""

from __future__ import annotations

import base64
import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from data_builders import image_bytes
from hypothesis import given
from report_strategies import HOSTILE, reports

from phiv_data.reports import html, write_reports
from phiv_data.validation import validate
from phiv_schemas import Conversation, EnvironmentProblem, Issue, SplitStats, Stats, Turn, UsageError, ValidationReport


class Page(HTMLParser):
    """The elements of a document, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def hostile_data(folder: Path) -> Path:
    """A jsonl file whose every text is hostile, and a line that is no record."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a'\"<b>.png").write_bytes(image_bytes(1))
    turn = [Turn(images=("a'\"<b>.png",), user=text, assistant=text) for text in HOSTILE]
    records = [
        Conversation(id=f"row-{n} <b>", source="<i>", conversations=(t,), system=t.user) for n, t in enumerate(turn)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{r.to_line()}\n" for r in records) + "<script>alert(1)</script>\n")
    return folder


@given(reports())
def test_hostile_text_makes_no_element_and_no_attribute(report: ValidationReport) -> None:
    text = html.render(report)
    assert text == html.render(report)
    plain = report.model_copy(update={"path": "x", "issues": [plain_form(i) for i in report.issues], "stats": STATS})
    page, expected = Page(text), Page(html.render(plain))
    allowed = {(tag, frozenset(attributes)) for tag, attributes in expected.elements}
    assert {(tag, frozenset(attributes)) for tag, attributes in page.elements} <= allowed


X = {"x": 1, "x" * 20: 0}
STATS = Stats(splits={name: SplitStats(rows=1, images_per_row=X, image_format=X, classes=X) for name in X})


def plain_form(issue: Issue) -> Issue:
    texts = {name: "x" for name in ("file", "message", "hint", "json_path") if getattr(issue, name)}
    return issue.model_copy(update=texts)


def test_hostile_rows_stay_text(tmp_path: Path) -> None:
    folder = hostile_data(tmp_path / "data")
    page = Page(html.render(validate(folder), folder))
    assert len(page.named("script")) == len(page.named("style")) == 1
    assert len(page.named("article")) == len(HOSTILE) + 1
    assert {image["alt"] for image in page.named("img")} == {"a'\"<b>.png"}
    assert not [a for _, a in page.elements if any(name.startswith("on") or name == "style" for name in a)]
    assert HOSTILE[0] in page.text
    assert "left\\u202eright\\u2066 zero\\u200bwidth" in page.text


def test_the_policy_allows_the_inline_style_and_script_alone(folder: Path) -> None:
    text = html.render(validate(folder), folder)
    policy = next(a["content"] for a in Page(text).named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    urls = [
        a.get("src") or a.get("href") or "" for tag, a in Page(text).elements if tag in ("img", "a", "link", "script")
    ]
    assert {url.split(":")[0].split("#")[0] for url in urls} <= {"", "data"}
    assert not re.search(r"url\(|@import|https?:", text)


def test_every_row_with_a_finding_comes_first_and_names_its_rules(folder: Path) -> None:
    (folder / "images" / "train/Archery/v_0039.1.png").write_bytes(b"broken")
    report = validate(folder)
    page = Page(html.render(report, folder, max_rows=4))
    first, *rest = page.named("article")
    assert (first["data-rules"], first["data-severity"], first["data-split"]) == ("PV104", "error", "train")
    assert [article["data-severity"] for article in rest] == ["clean"] * 3
    assert {article["data-split"] for article in rest} == {"train", "val"}
    assert "cannot be shown: train/Archery/v_0039.1.png" in page.text


def test_thumbnails_are_small_jpegs_of_the_images(folder: Path) -> None:
    (image, *_) = Page(html.render(validate(folder), folder)).named("img")
    source = image["src"] or ""
    assert source.startswith("data:image/jpeg;base64,")
    assert base64.b64decode(source.split(",")[1])[:2] == b"\xff\xd8"
    assert (image["width"], image["height"]) == ("24", "16")


def test_rows_come_from_the_shards_where_there_is_no_jsonl(folder: Path) -> None:
    report = validate(folder / "arrow")
    page = Page(html.render(report, folder / "arrow"))
    assert len(page.named("article")) == 60
    assert len(page.named("img")) == 120


@pytest.mark.parametrize("max_bytes", [html.MIN_BYTES, 2**20])
def test_the_file_stays_under_its_limit_whatever_the_data(tmp_path: Path, max_bytes: int) -> None:
    folder = hostile_data(tmp_path / "data")
    lines = (folder / "rows.jsonl").read_bytes() * 200
    (folder / "rows.jsonl").write_bytes(lines)
    long = Issue(code="PV100", file="rows.jsonl", message="&" * 10_000, json_path="'" * 10_000, hint="<" * 10_000)
    places = [(f"PV{code}", line) for code in range(100, 300) for line in range(1, 4)]
    issues = [long.model_copy(update={"code": code, "line": line}) for code, line in places]
    many = {f"{n} {'&' * 10_000}": n for n in range(1000)}
    charts = SplitStats.model_fields.keys() - {"rows", "images"}
    stats = Stats(splits={f"{n} {'&' * 10_000}": SplitStats(**dict.fromkeys(charts, many)) for n in range(20)})
    report = ValidationReport(path="&" * 10_000, rows=2200, images=1, issues=issues, stats=stats)
    text = html.render(report, folder, max_bytes=max_bytes, max_rows=2000)
    assert len(text.encode()) <= max_bytes
    assert "PV299" in text


def test_a_limit_too_small_is_a_usage_error() -> None:
    report = ValidationReport(path="x", rows=0, images=0)
    with pytest.raises(UsageError, match="max_bytes: must be at least 262144"):
        html.render(report, max_bytes=1000)


def test_data_that_are_gone_leave_a_report_without_rows(tmp_path: Path, folder: Path) -> None:
    text = html.render(validate(folder), tmp_path / "nothing")
    assert not Page(text).named("article")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("name", ["rows.jsonl", ".png"])
def test_an_error_of_the_machine_makes_no_page_without_rows_or_images(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = hostile_data(tmp_path / "data")
    report, folder = validate(data), tmp_path / "reports"
    opened = Path.open

    def fails(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name.endswith(name):
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        with pytest.raises(EnvironmentProblem):
            write_reports(report, folder, data)
    assert not folder.exists()
    assert len(write_reports(report, folder, data)) == 5
    data.rename(tmp_path / "away")
    with pytest.raises(EnvironmentProblem, match="was moved away or replaced"):
        write_reports(report, folder, data)
