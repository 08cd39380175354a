"""The datasets' converters keep the contract: the conformance kit tries each on a tiny source.

Those of rows in files (jsonl, llava, sharegpt, swift, trl, cauldron) go through it in test modules of their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from phiv_data.testing import Case, Check, conformance_checks
from phiv_data.testing import conformance as testing


def ucf101(folder: Path) -> Case:
    from phiv_converters.synthetic.clips import make_synthetic_ucf101
    from phiv_converters.ucf101.options import Ucf101Options

    source = make_synthetic_ucf101(folder, train=2, val=1, test=1, size=(64, 48))
    options = partial(Ucf101Options, num_frames=2, classes=("BouncingBall", "SpinningStar"))
    return Case(
        options,
        source,
        changed=(
            partial(options, num_frames=3),
            partial(options, jpeg_quality=90),
            partial(options, max_per_class=1),
            partial(options, on_corrupt="salvage"),
            partial(Ucf101Options, num_frames=2),
        ),
        damaged="train/SpinningStar/v_SpinningStar_g01_c01.avi",
    )


def docvqa(folder: Path) -> Case:
    from phiv_converters.docvqa.options import DocvqaOptions
    from phiv_converters.synthetic.documents import make_synthetic_docvqa

    source = make_synthetic_docvqa(folder)
    for file in source.glob("*.json"):
        body = json.loads(file.read_text())
        body["data"] = body["data"][:9]  # a page and a half, of two documents
        file.write_text(json.dumps(body))
    changed = (
        partial(DocvqaOptions, prompt="plain"),
        partial(DocvqaOptions, answer="seeded"),
        partial(DocvqaOptions, answer="seeded", seed=1),
        partial(DocvqaOptions, group="page"),
    )
    return Case(DocvqaOptions, source, changed, unlabeled=9)


def nlvr2(folder: Path) -> Case:
    from phiv_converters.nlvr2.options import Nlvr2Options
    from phiv_converters.synthetic.documents import make_synthetic_nlvr2

    source = make_synthetic_nlvr2(folder)
    for split, keep in {"train": {"0", "1", "22", "23"}, "dev": {"0"}, "test1": {"0", "1"}}.items():
        file = source / f"data/{split}.json"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if json.loads(line)["identifier"].split("-")[1] in keep))
    without_label = (source / "data/test1.json").read_text().replace('"label": "True", ', "", 1)
    (source / "data/test1.json").write_text(without_label)
    options = partial(Nlvr2Options, val_directories=2)
    changed = (partial(options, prompt="plain"), partial(options, group="pair"), partial(options, val_directories=1))
    return Case(options, source, changed, unlabeled=1)


def hateful_memes(folder: Path) -> Case:
    from phiv_converters.hateful_memes.options import HatefulMemesOptions
    from phiv_converters.synthetic.documents import make_synthetic_hateful_memes

    source = make_synthetic_hateful_memes(folder)
    for file in source.glob("*.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:10]))
    changed = (
        partial(HatefulMemesOptions, prompt="plain"),
        partial(HatefulMemesOptions, with_text=True),
        partial(HatefulMemesOptions, val=("dev_seen",)),
    )
    return Case(HatefulMemesOptions, source, changed, unlabeled=10)


CASES: dict[str, Callable[[Path], Case]] = {case.__name__: case for case in (ucf101, docvqa, nlvr2, hateful_memes)}
OF_ARCHIVES = (
    testing.check_options,
    testing.check_bad_sources,
    testing.check_second_run_finds_the_first,
    testing.check_place_and_order_leave_no_trace,
)


@pytest.fixture(name="case", scope="module", params=CASES)
def _case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_converters_keep_the_contract(check: Check, case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("check", OF_ARCHIVES, ids=lambda check: check.__name__)
def test_so_they_do_with_the_source_as_an_archive(check: Check, case: Case, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", case.source.parent, case.source.name)
    check(replace(case, source=Path(archive)), tmp_path)
