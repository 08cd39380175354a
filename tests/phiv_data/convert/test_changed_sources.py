"""A source that changes without a change of any size is noticed: by a rerun, by a resumed run, by compare_source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from toy_converter import ToyOptions, draw_toy_source

from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.hateful_memes.options import HatefulMemesOptions
from phiv_converters.nlvr2.options import Nlvr2Options
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_converters.synthetic.clips import make_synthetic_ucf101
from phiv_converters.synthetic.documents import (
    make_synthetic_docvqa,
    make_synthetic_hateful_memes,
    make_synthetic_nlvr2,
)
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert import staging
from phiv_data.convert.base import ConverterOptions, Item
from phiv_data.convert.engine import convert
from phiv_data.convert.fingerprint import code_version
from phiv_data.convert.reopen import compare_source
from phiv_data.storage.sample import Draft
from phiv_data.utils.progress import Progress
from phiv_data.validation import validate
from phiv_schemas import UsageError

Reproduction = tuple[Callable[[Path], ConverterOptions], Path, Callable[[], None]]


def change(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first `old` by `new`, of the same length, and keep the file's times."""
    data, stat = path.read_bytes(), path.stat()
    assert old in data
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def hateful_memes(folder: Path) -> Reproduction:
    source = make_synthetic_hateful_memes(folder)
    return HatefulMemesOptions, source, lambda: change(source / "train.jsonl", b'"label": 0', b'"label": 1')


def docvqa(folder: Path) -> Reproduction:
    source = make_synthetic_docvqa(folder)
    file = next(source.glob("train*.json"))
    answer = json.loads(file.read_text())["data"][0]["answers"][0].encode()
    other = (b"X" if answer[:1] != b"X" else b"Y") + answer[1:]
    return DocvqaOptions, source, lambda: change(file, b'["' + answer, b'["' + other)


def nlvr2(folder: Path) -> Reproduction:
    source = make_synthetic_nlvr2(folder)
    return Nlvr2Options, source, lambda: change(source / "data/train.json", b'"sentence": "T', b'"sentence": "t')


def ucf101(folder: Path) -> Reproduction:
    source = make_synthetic_ucf101(folder, train=1, val=1, test=1, size=(64, 48))
    clip = min(source.glob("train/*/*.avi"))

    def damage() -> None:
        """64 bytes of the clip; a file's contents are compared by its time."""
        data = bytearray(clip.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
        clip.write_bytes(data)

    return Ucf101Options, source, damage


REPRODUCTIONS = (hateful_memes, docvqa, nlvr2, ucf101)


@pytest.fixture(name="case", params=REPRODUCTIONS, ids=lambda make: make.__name__)
def _case(request: pytest.FixtureRequest, tmp_path: Path) -> Reproduction:
    make: Callable[[Path], Reproduction] = request.param
    return make(tmp_path / "raw")


class Stopped(BaseException):
    """Takes the place of a kill: nothing of ours catches it."""


def stop_before_shards(title: str, total: int) -> Progress:
    if title.endswith("shards"):
        raise Stopped
    return Progress(title, total)


def records(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.jsonl")}


def stopped(options: ConverterOptions, out: Path, **how: Any) -> None:
    """Run all tasks, and stop before anything is in place."""
    with pytest.raises(Stopped):
        convert(options, out, num_workers=0, progress=stop_before_shards, **how)


def test_a_changed_source_is_noticed_on_a_finished_output(case: Reproduction, tmp_path: Path) -> None:
    options, source, damage = case
    before = convert(options(source), tmp_path / "out", num_workers=0).manifest
    assert convert(options(source), tmp_path / "out", num_workers=0).found_finished
    assert compare_source(before, [source], tmp_path / "work").status == "same"
    damage()
    with pytest.raises(UsageError, match=r"that differs in (its inputs|the files of its source)\. Pass --overwrite"):
        convert(options(source), tmp_path / "out", num_workers=0)
    convert(options(source), tmp_path / "out", num_workers=0, overwrite=True)
    convert(options(source), tmp_path / "fresh", num_workers=0)
    assert records(tmp_path / "out") == records(tmp_path / "fresh")
    is_rows = options is not Ucf101Options  # a clip of the same size is for those who hash it to compare
    assert compare_source(before, [source], tmp_path / "work").status == ("changed" if is_rows else "same")


def test_a_stopped_run_of_a_changed_source_starts_over(case: Reproduction, tmp_path: Path) -> None:
    options, source, damage = case
    stopped(options(source), tmp_path / "out")
    damage()
    outcome = convert(options(source), tmp_path / "out", num_workers=0)
    assert "the source has changed since the stopped run: the conversion starts over" in outcome.warnings
    convert(options(source), tmp_path / "fresh", num_workers=0)
    assert records(tmp_path / "out") == records(tmp_path / "fresh")


# Files, times and --verify ----------------------------------------------------------------------------------------


@pytest.fixture(name="toy")
def _toy(tmp_path: Path) -> Path:
    return draw_toy_source(tmp_path / "toy", {"train": ["a", "b"], "val": ["c"]})


def edit(path: Path) -> None:
    """Other pixels in as many bytes, at the same time."""
    change(path, path.read_bytes()[-20:], path.read_bytes()[-20:][::-1])


def test_a_touched_file_is_noticed_and_verify_knows_better(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(toy), out, num_workers=0, verify=True)
    (toy / "train/a.png").touch()
    with pytest.raises(UsageError, match=r"in the files of its source\. .* --verify compares their contents"):
        convert(ToyOptions(toy), out, num_workers=0)
    assert convert(ToyOptions(toy), out, num_workers=0, verify=True).found_finished


def test_verify_detects_what_size_and_time_do_not_show(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(toy), out, num_workers=0, verify=True)
    edit(toy / "train/a.png")
    assert convert(ToyOptions(toy), out, num_workers=0).found_finished
    with pytest.raises(UsageError, match="differs in the files of its source"):
        convert(ToyOptions(toy), out, num_workers=0, verify=True)


def test_verify_cannot_answer_for_an_output_made_without_it(toy: Path, tmp_path: Path) -> None:
    convert(ToyOptions(toy), tmp_path / "out", num_workers=0)
    with pytest.raises(UsageError, match="it was made without --verify"):
        convert(ToyOptions(toy), tmp_path / "out", num_workers=0, verify=True)


def test_times_leave_no_trace_in_the_output_but_one_beside_it(toy: Path, tmp_path: Path) -> None:
    convert(ToyOptions(toy), tmp_path / "one", num_workers=0)
    copy = shutil.copytree(toy, tmp_path / "copy", copy_function=shutil.copyfile)
    for file in copy.rglob("*.png"):
        os.utime(file, (1, 1))
    convert(ToyOptions(copy), tmp_path / "two", num_workers=0)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    differing = [str(f) for f in files if (tmp_path / "one" / f).read_bytes() != (tmp_path / "two" / f).read_bytes()]
    assert sorted(differing) == [".phiv/kept/digests", ".phiv/kept/index.json", ".phiv/source.json"]
    assert not staging.is_unfinished(tmp_path / "one")


def test_an_output_that_came_without_its_record_is_found_with_a_warning(toy: Path, tmp_path: Path) -> None:
    convert(ToyOptions(toy), tmp_path / "out", num_workers=0)
    shutil.rmtree(tmp_path / "out/.phiv")
    outcome = convert(ToyOptions(toy), tmp_path / "out", num_workers=0)
    assert outcome.found_finished
    assert "compared by size only" in outcome.warnings[0]


def test_a_missing_file_is_a_reject_and_its_return_is_noticed(toy: Path, tmp_path: Path) -> None:
    class Listed(ToyOptions):
        def inputs(self) -> list[Item]:  # type: ignore[override]
            return [Item("train", name, self.source / "train" / name) for name in ("a.png", "missing.png")]

        def draft(self, item: Item) -> Draft:
            from phiv_data.convert import Turn, load_image

            image = load_image(item.path, item.key)
            return Draft((Turn(images=(item.key,), user="?", assistant="!"),), (image,))

    manifest = convert(Listed(toy), tmp_path / "out", num_workers=0).manifest
    assert (manifest.accounting.written, manifest.accounting.rejected) == (1, {"unreadable": 1})
    shutil.copy(toy / "train/b.png", toy / "train/missing.png")
    with pytest.raises(UsageError, match="differs in its inputs"):
        convert(Listed(toy), tmp_path / "out", num_workers=0)


# The converter's code ---------------------------------------------------------------------------------------------


def test_another_version_of_the_converter_is_another_output(toy: Path, tmp_path: Path) -> None:
    class Second(ToyOptions):
        version = "2"

    first = convert(ToyOptions(toy, fixed=True), tmp_path / "out", num_workers=0).manifest
    assert first.converter_version == ToyOptions(toy).version
    with pytest.raises(UsageError, match="differs in the version of its converter"):
        convert(Second(toy, fixed=True), tmp_path / "out", num_workers=0)
    stopped(ToyOptions(toy), tmp_path / "stopped")
    outcome = convert(Second(toy), tmp_path / "stopped", num_workers=0)
    assert outcome.warnings == ("the converter has changed since the stopped run: the conversion starts over",)
    assert outcome.manifest.converter_version == "2"


def test_compare_source_says_why_it_cannot(toy: Path, tmp_path: Path) -> None:
    source = make_synthetic_hateful_memes(tmp_path / "raw")
    toys = convert(ToyOptions(toy), tmp_path / "toys", num_workers=0).manifest
    memes = convert(HatefulMemesOptions(source), tmp_path / "memes", num_workers=0).manifest
    demo = convert(HatefulMemesOptions(demo=True), tmp_path / "demo", num_workers=0).manifest

    def reason(manifest: Any, path: Path) -> str:
        status, why = compare_source(manifest, [path], tmp_path / "work")
        assert status == "unknown"
        return why

    assert reason(toys, toy) == "its converter 'toy_converter:ToyOptions' is not installed"
    assert compare_source(toys.model_copy(update={"converter": None}), [toy], tmp_path).status == "no converter"
    assert reason(demo, source) == "it was made with --demo"
    assert "no such file or folder" in reason(memes, tmp_path / "gone")
    assert reason(memes.model_copy(update={"converter_version": "0"}), source) == "the converter has changed since"


# Code --------------------------------------------------------------------------------------------------------------


PLUGIN = """
from dataclasses import dataclass
from pathlib import Path

import {words}
from phiv_data.convert import Converter, Draft, Item, Turn


@dataclass(frozen=True)
class Asks(Converter):
    source: Path
    name = "asks"

    def inputs(self):
        yield Item("train", "one", b"")

    def draft(self, item):
        return Draft((Turn(images=(), user={words}.QUESTION, assistant="yes"),), ())
"""


def run_plugin(folder: Path, out: Path) -> str:
    """What phiv-convert would say of the plugin in `folder`, in a process of its own."""
    code = (
        "from pathlib import Path; from asks import Asks; from phiv_data.convert.engine import convert;"
        f"print(convert(Asks(Path('.')), Path({str(out)!r}), num_workers=0).found_finished)"
    )
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_words_in_a_module_beside_the_converter_are_part_of_its_version(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "asks.py").write_text(PLUGIN.format(words="asks_words"))
    (plugin / "asks_words.py").write_text("QUESTION = 'Is it?'\n")
    assert [run_plugin(plugin, tmp_path / "out") for _ in range(2)] == ["False", "True"]
    (plugin / "asks_words.py").write_text("QUESTION = 'Was it'\n")
    assert "differs in the version of its converter" in run_plugin(plugin, tmp_path / "out")


def file_of(module: str) -> Path:
    spec = find_spec(module)
    assert spec
    assert spec.origin
    return Path(spec.origin)


@pytest.mark.parametrize(
    ("converter", "module"),
    [
        ("llava", "phiv_data.formats.llava"),
        ("llava", "phiv_data.formats.dialogue"),
        ("nlvr2", "phiv_converters.base"),
        ("nlvr2", "phiv_converters.synthetic.documents"),
        ("ucf101", "phiv_converters.ucf101.layouts"),
        ("jsonl", "phiv_converters.own_jsonl.listing"),
    ],
)
def test_code_that_a_built_in_converter_uses_is_part_of_its_version(
    converter: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (options,) = [point.load() for point in entry_points(group="phiv.converters", name=converter)]
    before, file = code_version(options, options.opener), file_of(module)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == file))
    assert code_version(options, options.opener) != before


def test_code_that_makes_no_records_is_not_part_of_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = code_version(HatefulMemesOptions, HatefulMemesOptions.opener), Path.read_bytes
    others = {file_of("phiv_data.reports.html"), file_of("phiv_converters.ucf101.convert")}
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path in others))
    assert code_version(HatefulMemesOptions, HatefulMemesOptions.opener) == before


def test_rows_of_the_users_own_are_compared_with_their_source(tmp_path: Path) -> None:
    source = tmp_path / "own" / "train.jsonl"
    source.parent.mkdir()
    line = {"id": "1", "source": "own", "conversations": [{"images": [], "user": "Q17?", "assistant": "yes"}]}
    source.write_text(json.dumps(line) + "\n")
    manifest = convert(JsonlOptions(source.parent), tmp_path / "out", num_workers=0).manifest
    assert compare_source(manifest, [source.parent], tmp_path / "work").status == "same"
    change(source, b"Q17", b"Q77")
    assert compare_source(manifest, [source.parent], tmp_path / "work2").status == "changed"
    found = [(issue.code, issue.file) for issue in validate(tmp_path / "out", source=source.parent).issues]
    assert ("PV312", "manifest.json") in found


def test_a_manifest_imports_nothing_that_is_not_an_installed_converter(tmp_path: Path) -> None:
    source = make_synthetic_hateful_memes(tmp_path / "raw")
    manifest = convert(HatefulMemesOptions(source), tmp_path / "out", num_workers=0).manifest
    other = manifest.model_copy(update={"converter": "antigravity:geohash"})
    comparison = compare_source(other, [source], tmp_path / "work")
    assert comparison == ("unknown", "its converter 'antigravity:geohash' is not installed")
    assert "antigravity" not in sys.modules


def test_verify_on_a_stopped_run_says_that_contents_were_not_read(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        convert(ToyOptions(toy), tmp_path / "out", num_workers=0, progress=stop_before_shards)
    outcome = convert(ToyOptions(toy), tmp_path / "out", num_workers=0, verify=True)
    assert outcome.warnings == (
        "the stopped run did not read the contents of the source's files, which --verify compares:"
        " the conversion starts over",
    )


# Order -------------------------------------------------------------------------------------------------------------


def test_rows_come_as_the_author_lists_them_split_by_split(tmp_path: Path) -> None:
    class Backwards(ToyOptions):
        splits = ("val", "train")

        def inputs(self) -> list[Item]:  # type: ignore[override]
            return list(reversed(list(super().inputs())))

    source = draw_toy_source(tmp_path / "toy", {"train": ["1", "9", "10"], "val": ["2", "3"]})
    convert(replace(Backwards(source), splits=("val", "train")), tmp_path / "out", num_workers=0)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"out/toy_{name}.jsonl").open()] for name in ("val", "train")
    }
    answers = {name: [row["conversations"][0]["assistant"] for row in some] for name, some in rows.items()}
    assert answers == {"val": ["3", "2"], "train": ["9", "10", "1"]}
    assert [row["id"] for row in rows["train"]] == ["train-0000000002", "train-0000000003", "train-0000000004"]
