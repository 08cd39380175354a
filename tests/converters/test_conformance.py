"""The datasets' converters keep the contract: the conformance kit tries each on a tiny source.

Those of rows in files (jsonl, llava, sharegpt, swift, trl, cauldron) go through it in test modules of their own.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

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


def packed_docvqa(folder: Path) -> Case:
    """The official archives, still packed, in one folder."""
    release = docvqa(folder / "made").source
    source = folder / "docvqa"
    source.mkdir(parents=True)
    with zipfile.ZipFile(source / "spdocvqa_qas.zip", "w") as questions:
        for file in release.glob("*.json"):
            questions.write(file, file.name)
    with tarfile.open(source / "spdocvqa_images.tar.gz", "w:gz") as pages:
        pages.add(release / "spdocvqa_images", "spdocvqa_images")
    return replace(docvqa(folder / "again"), source=source)


def clips_of_classes(folder: Path) -> Case:
    """Class folders without lists, in the one folder of the source."""
    case = ucf101(folder / "made")
    for clip in case.source.rglob("*.avi"):
        (folder / "in/clips" / clip.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / "in/clips" / clip.parent.name / f"{clip.parent.parent.name}_{clip.name}")
    return replace(case, source=folder / "in")


def tables_of_the_cauldron(folder: Path) -> Case:
    from phiv_converters.hateful_memes.options import HatefulMemesOptions

    (folder / "in").mkdir(parents=True)
    pixels = [bytes([shade]) * 48 for shade in range(6)]
    rows = []
    for data in pixels:
        Image.frombytes("RGB", (4, 4), data).save(out := io.BytesIO(), "PNG")
        texts = [{"user": "Is it?", "assistant": "No.", "source": "x"}]
        rows.append({"images": [{"bytes": out.getvalue(), "path": None}], "texts": texts})
    pq.write_table(pa.Table.from_pylist(rows), folder / "in/train-00000-of-00001.parquet")
    return Case(HatefulMemesOptions, folder / "in")


@pytest.mark.parametrize("make", [packed_docvqa, clips_of_classes, tables_of_the_cauldron], ids=lambda m: m.__name__)
def test_an_output_in_the_source_is_no_part_of_it_in_other_layouts(
    make: Callable[[Path], Case], tmp_path: Path
) -> None:
    testing.check_output_inside_source(make(tmp_path / "case"), tmp_path / "check")


@pytest.mark.parametrize("check", OF_ARCHIVES, ids=lambda check: check.__name__)
def test_so_they_do_with_the_source_as_an_archive(check: Check, case: Case, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", case.source.parent, case.source.name)
    check(replace(case, source=Path(archive)), tmp_path)
