"""The HTML report in a real Chromium, opened from a file with the network cut off.

Skips where selenium, Chromium or its driver is absent (Debian: `apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from data_builders import image_bytes, samples, write_dataset
from report_strategies import HOSTILE

from phiv_data.reports import html
from phiv_data.validation import validate
from phiv_schemas import Conversation, SplitStats, Stats, Turn, ValidationReport

PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
# As root in a container there is no sandbox; the others keep Chromium from phoning home.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-quic", "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install selenium)")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver)
    opened = webdriver.Chrome(options=options, service=service)
    yield opened
    opened.quit()


class Page:
    """A report that was opened."""

    def __init__(self, browser: Any, file: Path, screen: dict[str, object]) -> None:
        self.browser, self.file = browser, file
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get_log("performance")
        browser.get(file.as_uri())

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def set(self, name: str, value: str) -> None:
        """Choose or type as a person would; Chromium fires the events itself."""
        field = self.browser.find_element("name", name)
        if field.tag_name == "select":
            field.find_element("css selector", f"option[value='{value}']").click()
        else:
            field.clear()
            field.send_keys(value)

    def shown(self) -> list[str]:
        """The titles of the cards that can be seen, by what layout says of them."""
        script = """return [...document.querySelectorAll('article')].filter(a => a.getClientRects().length)
                    .map(a => a.querySelector('h3').textContent)"""
        titles: list[str] = self.run(script)
        return titles

    def requests(self) -> list[str]:
        """Every URL asked for since the page was opened, but data: URLs, which leave the page alone."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Open:
    def open_it(text: str, screen: dict[str, object] = DESKTOP) -> Page:
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        return Page(browser, file, screen)

    return open_it


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on 40 + 20 rows with a broken image, a line that is no record, and a remark."""
    splits = {"train": samples("train", 40), "val": samples("val", 20, 100)}
    folder = write_dataset(tmp_path_factory.mktemp("data") / "out", splits)
    (folder / "images/train/Archery/v_0007.0.png").write_bytes(b"broken")
    lines = (folder / "ucf101_val.jsonl").read_text().splitlines()
    lines[4] = lines[4].replace("Classify", "<image> Classify")
    lines[9] = "{<script>document.title='owned'</script>"
    (folder / "ucf101_val.jsonl").write_text("\n".join(lines) + "\n")
    return html.render(validate(folder), folder)


def test_the_gallery_shows_rows_with_their_images_and_turns(open_page: Open, broken: str) -> None:
    page = open_page(broken)
    assert len(page.shown()) == 60
    page.run("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    decoded = page.browser.execute_async_script(
        """const done = arguments[0], all = [...document.images];
           Promise.all(all.map(i => i.decode())).then(() => done(all.map(i => i.naturalWidth)))"""
    )
    assert decoded == [24] * 117  # 59 records with 2 images, one of them broken
    assert page.run("return document.querySelector('.broken').textContent") == (
        "cannot be shown: train/Archery/v_0007.0.png"
    )
    assert page.run("return [...document.querySelectorAll('dd')].filter(d => d.textContent == 'Archery').length") == 59


def test_filters_narrow_the_gallery_alone_and_together(open_page: Open, broken: str) -> None:
    page = open_page(broken)
    page.set("rule", "PV401")
    assert page.shown() == ["val-0000000104"]
    page.set("severity", "error")
    assert page.shown() == []
    page.set("rule", "")
    assert sorted(page.shown()) == ["line 10", "train-0000000007"]
    page.set("split", "train")
    assert page.shown() == ["train-0000000007"]
    page.set("severity", "")
    page.set("text", "TRAIN-000000001 archery")
    assert sorted(page.shown()) == [f"train-00000000{n}" for n in range(10, 20)]
    assert page.run("return document.getElementById('shown').textContent") == "10 of 60 rows shown"
    page.browser.find_element("css selector", "button[type=reset]").click()
    assert len(page.shown()) == 60


def test_a_rule_leads_to_its_rows_by_keyboard(open_page: Open, broken: str) -> None:
    page = open_page(broken)
    hidden = page.run("return [...document.querySelectorAll('button[data-rule][hidden]')].map(b => b.dataset.rule)")
    assert hidden == ["PV302", "PV306"]  # of a file and of shards, not of a row shown here
    summary = page.browser.find_element("css selector", "#PV104 summary")
    summary.send_keys(" ")
    assert page.run("return document.getElementById('PV104').open") is True
    page.browser.find_element("css selector", "#PV104 button").send_keys("\ue007")
    assert page.shown() == ["train-0000000007"]
    assert page.run("return document.activeElement.name") == "rule"


def test_hostile_text_stays_text(open_page: Open, tmp_path: Path) -> None:
    folder = hostile_data(tmp_path / "data")
    page = open_page(html.render(validate(folder), folder))
    texts = page.run("return [...document.querySelectorAll('dd')].map(d => d.textContent)")
    assert texts.count(HOSTILE[0]) == 3  # system, user, assistant
    assert page.browser.title == f"{folder}: validation report"
    assert page.run("return document.scripts.length + document.querySelectorAll('style').length") == 2
    page.set("text", "<script>document.title")
    assert sorted(page.shown()) == ["line 11", "r0"]
    assert page.browser.get_log("browser") == []
    assert page.requests() == [page.file.as_uri()]


def hostile_data(folder: Path) -> Path:
    """Records and broken lines of hostile text, in a file and with an image of hostile names."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a'\"<b>.png").write_bytes(image_bytes(1))
    with (folder / "<img src=x onerror=alert(1)>.jsonl").open("w") as out:
        for number, text in enumerate(HOSTILE):
            turn = Turn(images=("a'\"<b>.png",), user=text, assistant=text)
            out.write(Conversation(id=f"r{number}", source="s", conversations=(turn,), system=text).to_line() + "\n")
        out.write("".join(f"{text!r}\n" for text in HOSTILE))
    return folder


def test_injected_script_would_not_run_even_if_escaping_failed(open_page: Open, broken: str) -> None:
    attack = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    page = open_page(broken.replace("<main>", f"<main>{attack}"))
    assert page.browser.title.endswith("validation report")
    assert any("Content Security Policy" in entry["message"] for entry in page.browser.get_log("browser"))


@pytest.mark.parametrize("width", [320, 360, 414])
def test_a_phone_has_nothing_to_scroll_sideways(open_page: Open, broken: str, width: int) -> None:
    page = open_page(broken, PHONE | {"width": width})
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    heights = "return [...document.querySelectorAll('button:not([hidden]), input, select')].map(b => b.offsetHeight)"
    assert min(page.run(heights)) >= 40  # for a thumb


def test_words_without_end_do_not_widen_a_phone(open_page: Open, tmp_path: Path) -> None:
    folder = hostile_data(tmp_path / "data")
    page = open_page(html.render(validate(folder), folder), PHONE)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.run("return document.documentElement.scrollWidth") == PHONE["width"]
    wide = "return [...document.querySelectorAll('article, details')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.run(wide) == 0


def test_no_errors_and_no_requests(open_page: Open, broken: str) -> None:
    page = open_page(broken)
    page.run(
        "document.querySelectorAll('details').forEach(d => d.open = true); scrollTo(0, document.body.scrollHeight)"
    )
    page.set("rule", "PV104")
    assert page.browser.get_log("browser") == []
    assert page.requests() == [page.file.as_uri()]


def test_every_control_has_a_name_and_every_image_a_description(open_page: Open, broken: str) -> None:
    page = open_page(broken)
    assert page.run("return [...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length") == 0
    assert page.run("return [...document.images].filter(e => !e.alt).length") == 0
    assert page.run("return document.documentElement.lang") == "en"
    levels = page.run("return [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


TRAIN = SplitStats(
    rows=60, images=50, user_characters={"0": 0, "1": 45, "2-3": 15}, assistant_characters={"2-3": 40},
    classes={"yes": 30, "no": 10},
)  # fmt: skip
VAL = SplitStats(rows=4, images=4, user_characters={"0": 1, "1": 1, "2-3": 2})
TEST = SplitStats(
    rows=2, images=2, user_characters={"0": 0, "1": 0, "2-3": 2}, assistant_characters={"2-3": 2}, classes={"no": 2}
)
# The figures of the page: title -> label -> split -> [share, count, width of the bar as a part of its cell].
FIGURES = """
const figures = {};
for (const figure of document.querySelectorAll('figure')) {
  const lines = figures[figure.querySelector('figcaption').textContent] = {};
  for (const group of figure.querySelectorAll('tbody'))
    for (const row of group.rows) {
      const label = (row.querySelector('th:not(.split)') ?? group.querySelector('th')).textContent;
      const split = row.querySelector('.split');
      const bar = row.querySelector('rect'), cell = row.querySelector('td');
      const part = bar && bar.getBoundingClientRect().width / cell.getBoundingClientRect().width;
      const numbers = [...row.querySelectorAll('td:not(.bar)')].map(cell => cell.textContent);
      (lines[label] ??= {})[split ? split.textContent : ''] = [...numbers, part];
    }
}
return figures"""


def page_of(splits: dict[str, SplitStats], **totals: int) -> str:
    report = ValidationReport(path="x", rows=1, images=0, stats=Stats(splits=splits), totals={"warning": totals})
    return html.render(report)


def test_histograms_stand_side_by_side_in_shares_of_each_split(open_page: Open) -> None:
    page = open_page(page_of({"test": TEST, "train": TRAIN, "val": VAL}), PHONE)
    found = page.run(FIGURES)
    assert found["User text, in characters"] == {
        "0": {"train": ["0.0%", "0", 0], "val": ["25.0%", "1", close(0.25)], "test": ["0.0%", "0", 0]},
        "1": {"train": ["75.0%", "45", close(0.75)], "val": ["25.0%", "1", close(0.25)], "test": ["0.0%", "0", 0]},
        "2-3": {
            "train": ["25.0%", "15", close(0.25)], "val": ["50.0%", "2", close(0.5)], "test": ["100.0%", "2", close(1)],
        },
    }  # fmt: skip
    assert found["Answers"] == {  # val has none
        "yes": {"train": ["75.0%", "30", close(0.75)], "test": ["0.0%", "0", 0]},
        "no": {"train": ["25.0%", "10", close(0.25)], "test": ["100.0%", "2", close(1)]},
    }
    assert labels(page, "Answers") == ["yes", "no"]  # the most frequent first
    assert labels(page, "User text, in characters") == ["0", "1", "2-3"]
    assert "Image formats" not in found
    colours = "return [...document.querySelectorAll('.split + td rect')].map(bar => bar.classList[0])"
    assert page.run(colours) == [*["c0", "c1", "c2"] * 3, *["c0", "c2"] * 3]
    assert page.run("return document.documentElement.scrollWidth") == PHONE["width"]


def labels(page: Page, title: str) -> list[str]:
    """The labels of a figure, in order (Chromium's driver sorts the keys of objects)."""
    script = """const caption = [...document.querySelectorAll('figcaption')].find(c => c.textContent == arguments[0]);
                return [...caption.parentNode.querySelectorAll('tbody th:not(.split)')].map(th => th.textContent)"""
    found: list[str] = page.run(script, title)
    return found


def close(number: float) -> Any:
    return pytest.approx(number, rel=0.01)


def test_a_page_says_how_far_each_split_is_from_train(open_page: Open) -> None:
    page = open_page(page_of({"test": TEST, "train": TRAIN, "val": VAL}))
    found = page.run(FIGURES)
    rows = {label: [text for text in cells[""] if text] for label, cells in found["Splits"].items()}
    assert rows == {
        "Rows": ["60", "4", "2"],
        "Images": ["50", "4", "2"],
        "Turns": ["60", "4", "2"],
        "Turns answered": ["40", "0", "2"],
    }
    apart = {label: cells[""][:2] for label, cells in found["How far from train"].items()}
    # Of val 25% stand in bin 0 and 25% more in 2-3 than of train; all answers of test are no, where train has 25%.
    assert apart == {
        "User text, in characters": ["50.0%", "75.0%"],
        "Answers, in characters": ["–", "0.0%"],
        "Answers": ["–", "75.0%"],
    }
    assert page.run("return [...document.querySelectorAll('.scroll rect')].map(bar => bar.classList[0])") == [
        "c1", "c2", "c2", "c2",
    ]  # fmt: skip


def test_one_split_has_plain_histograms_and_no_comparison(open_page: Open) -> None:
    found = open_page(page_of({"all": TRAIN})).run(FIGURES)
    assert set(found) == {"Rows of each split", "User text, in characters", "Answers, in characters", "Answers"}
    assert found["Rows of each split"] == {"all": {"": ["100.0%", "60", close(1)]}}
    assert found["User text, in characters"] == {
        "0": {"": ["0.0%", "0", 0]},
        "1": {"": ["75.0%", "45", close(1)]},
        "2-3": {"": ["25.0%", "15", close(1 / 3)]},
    }


def test_every_number_of_the_statistics_is_that_of_the_report(open_page: Open, tmp_path: Path) -> None:
    splits = {"train": samples("train", 40), "val": samples("val", 20, 100)}
    report = validate(write_dataset(tmp_path / "out", splits))
    found = open_page(html.render(report)).run(FIGURES)
    titles = {
        "images_per_row": "Images per row", "turns_per_row": "Turns per row", "image_width": "Image width, in pixels",
        "user_characters": "User text, in characters", "assistant_characters": "Answers, in characters",
        "image_height": "Image height, in pixels", "image_format": "Image formats", "rows_per_source": "Sources",
        "classes": "Answers",
    }  # fmt: skip
    for name, title in titles.items():
        counts = {split: getattr(one, name) for split, one in report.stats.splits.items()}
        assert all(sum(bins.values()) for bins in counts.values()), name
        shown = {split: {bin_: int(line[split][1]) for bin_, line in found[title].items()} for split in counts}
        assert shown == counts


def test_leaks_lead_to_their_rules(open_page: Open) -> None:
    page = open_page(page_of({"train": TRAIN, "val": VAL}, PV243=1200, PV240=3, PV401=1))
    links = "return [...document.querySelectorAll('#statistics a')].map(a => [a.textContent, a.getAttribute('href')])"
    assert page.run(links) == [
        ["PV240 duplicate-image-across-splits (3)", "#PV240"],
        ["PV243 group-across-splits (1,200)", "#PV243"],
    ]
    page.browser.find_element("css selector", "a[href='#PV240']").click()
    assert page.run("return document.querySelector(location.hash).tagName") == "DETAILS"


@pytest.mark.parametrize("screen", [PHONE | {"width": 320}, PHONE, DESKTOP], ids=["small", "phone", "desktop"])
def test_hostile_names_of_splits_sources_and_classes_stay_text(open_page: Open, screen: dict[str, object]) -> None:
    names = dict.fromkeys(HOSTILE, 1234)
    one = SplitStats(rows=12_340, rows_per_source=names, classes=names, image_format=names)
    page = open_page(page_of(dict.fromkeys(HOSTILE, one)), screen)
    found = page.run(FIGURES)
    assert HOSTILE[0] in found["Rows of each split"]
    assert HOSTILE[0] in found["Answers"]
    assert HOSTILE[0] in found["Sources"]
    assert f"{'x' * 60}… (4,940 more characters)" in found["Answers"]
    assert len(page.run("return [...document.querySelectorAll('figure:nth-child(2) thead th')].map(e => 1)")) == 6
    assert "6 of 10 splits." in page.run("return document.querySelector('#statistics').textContent")
    assert page.run("return document.scripts.length + document.querySelectorAll('style').length") == 2
    assert page.run("return document.querySelectorAll('#statistics img, #statistics svg svg').length") == 0
    assert page.run("const page = document.documentElement; return page.scrollWidth - page.clientWidth") == 0
    wide = "return [...document.querySelectorAll('figure')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.run(wide) == 0
    assert page.browser.get_log("browser") == []
    assert page.requests() == [page.file.as_uri()]


@pytest.mark.parametrize("width", [320, 360, 414])
def test_counts_of_any_size_do_not_widen_a_phone(open_page: Open, width: int) -> None:
    counts = {"65536-131071": 10**12, "1": 3}
    one = SplitStats(rows=10**12 + 3, user_characters=counts, classes={"a rather long answer": 10**12})
    page = open_page(page_of({f"a long name of a split {n}": one for n in range(6)}), PHONE | {"width": width})
    assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    wide = """return [...document.querySelectorAll('figure *, figure')].filter(e => e.scrollWidth > e.clientWidth)
              .filter(e => e.tagName != 'TH').map(e => getComputedStyle(e).overflowX)"""
    assert set(page.run(wide)) == {"auto"}  # to scroll by itself


def test_it_reads_without_javascript(open_page: Open, broken: str) -> None:
    page = open_page(broken.replace("<script>", "<script type=text/plain>"))
    assert len(page.shown()) == 60
    assert page.run("return document.getElementById('filters').getClientRects().length") == 0


def test_dark_screens_get_dark_pages(open_page: Open, broken: str) -> None:
    def colours(scheme: str) -> list[str]:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        found: list[str] = page.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        return found

    page = open_page(broken)
    assert colours("light") == ["rgb(246, 247, 249)", "rgb(27, 31, 39)"]
    assert colours("dark") == ["rgb(20, 23, 28)", "rgb(232, 234, 238)"]
