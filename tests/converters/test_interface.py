"""What all converters here have in common: light options, imports without circles, and inputs that carry content."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import phiv_converters
from phiv_converters.chat_json.options import LlavaOptions
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
from phiv_data.convert.engine import convert
from phiv_schemas import UsageError

PACKAGE = Path(phiv_converters.__file__).parent
HEAVY = ("pydantic", "numpy", "PIL", "pyarrow", "av")


def test_the_options_of_every_converter_load_without_heavy_libraries() -> None:
    points = [point.value for point in entry_points(group="phiv.converters") if "phiv_converters." in point.value]
    assert len(points) == 18
    assert all(value.partition(":")[0].endswith(".options") for value in points)
    lines = [f"import {value.partition(':')[0]}" for value in points]
    lines += ["import sys", f"print([name for name in {HEAVY} if name in sys.modules])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it; not the one `open` of its options loads late."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("phiv_converters"):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return found - ({name.replace(".options", ".convert")} if path.name == "options.py" else set())


def test_no_file_imports_itself_through_others() -> None:
    files = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
    left = {name: _imports(path) & files.keys() for name, path in files.items()}
    while free := [name for name, imports in left.items() if not imports & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


# Changed content -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A tiny source, and an edit of it that keeps every size."""

    options: Callable[[Path], Any]
    make: Callable[[Path], Path]
    file: str
    old: bytes
    new: bytes


def _own_rows(folder: Path) -> Path:
    row = {"conversations": [{"images": ["a.png"], "user": "Which?", "assistant": "Cat."}]}
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(folder / "images/a.png")
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def _llava_rows(folder: Path) -> Path:
    said = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "Cat."}]
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    (folder / "train.json").write_text(json.dumps([{"image": "a.png", "conversations": said}]))
    return folder


def _clips(folder: Path) -> Path:
    return make_synthetic_ucf101(folder, train=1, val=1, test=1, size=(64, 48))


CHANGES = {
    "docvqa": Change(
        DocvqaOptions, make_synthetic_docvqa, "val_v1.0_withQT.json", b'"answers": ["M', b'"answers": ["D'
    ),
    "nlvr2": Change(Nlvr2Options, make_synthetic_nlvr2, "data/dev.json", b"There are exactly", b"There are roughly"),
    "hateful_memes": Change(
        HatefulMemesOptions, make_synthetic_hateful_memes, "train.jsonl", b'"label": 0', b'"label": 1'
    ),
    "jsonl": Change(JsonlOptions, _own_rows, "train.jsonl", b"Cat.", b"Dog."),
    "llava": Change(LlavaOptions, _llava_rows, "train.json", b"Cat.", b"Dog."),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_row_of_the_same_length_is_noticed(name: str, tmp_path: Path) -> None:
    change = CHANGES[name]
    source = change.make(tmp_path / "in")
    convert(change.options(source), tmp_path / "out", num_workers=0, arrow=False)
    assert convert(change.options(source), tmp_path / "out", num_workers=0, arrow=False).found_finished
    text = (source / change.file).read_bytes()
    assert change.old in text
    (source / change.file).write_bytes(text.replace(change.old, change.new, 1))
    with pytest.raises(UsageError, match=r"holds a finished .* conversion that differs in"):
        convert(change.options(source), tmp_path / "out", num_workers=0, arrow=False)


IMAGES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Path], str]] = {
    "ucf101": (lambda source: Ucf101Options(source, num_frames=2), _clips, "*.avi"),
    **{name: (change.options, change.make, "*.png") for name, change in CHANGES.items()},
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_changed_image_or_clip_of_the_same_length_is_noticed(name: str, tmp_path: Path) -> None:
    options, make, pattern = IMAGES[name]
    source = make(tmp_path / "in")
    convert(options(source), tmp_path / "out", num_workers=0, arrow=False)
    file = sorted(source.rglob(pattern))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"holds a finished .* conversion that differs in"):
        convert(options(source), tmp_path / "out", num_workers=0, arrow=False)


@pytest.mark.parametrize("name", IMAGES)
def test_a_copy_of_the_source_elsewhere_gives_the_same_plan(name: str, tmp_path: Path) -> None:
    options, make, _ = IMAGES[name]
    source = make(tmp_path / "in")
    copy = shutil.copytree(source, tmp_path / "copy" / source.name)
    plans = []
    for number, folder in enumerate((source, copy)):
        manifest = convert(options(folder), tmp_path / str(number), num_workers=0, arrow=False).manifest
        plans.append(manifest.plan_sha256)
    assert plans[0] == plans[1]


# Declarations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path", "group"),
    [
        (Ucf101Options, "train/Archery/v_Archery_g20_c02.0.jpg", "Archery_g20"),
        (DocvqaOptions, "val/ffjw0228_11.png", "ffjw0228"),
        (Nlvr2Options, "dev/dev-850-0-img1.png", "dev-850"),
    ],
)
def test_a_dataset_declares_which_images_belong_together(options: Any, path: str, group: str) -> None:
    match = re.search(options.sharing.group_pattern, path, re.IGNORECASE)
    assert match is not None
    assert match[1] == group


@pytest.mark.parametrize("options", [Ucf101Options, DocvqaOptions, Nlvr2Options, HatefulMemesOptions])
def test_the_text_of_the_prompt_is_an_option(options: Any) -> None:
    """An edited prompt makes another output: a stopped run is not resumed with another wording."""
    assert re.search("[?{]", str(options().output_options()["prompt_text"]))


def test_opened_sources_declare_what_their_options_declare(tmp_path: Path) -> None:
    for options in (Ucf101Options, DocvqaOptions, Nlvr2Options, HatefulMemesOptions):
        assert options.sharing.shares in ((), ("images",), ("similar",))
    opened = HatefulMemesOptions(make_synthetic_hateful_memes(tmp_path)).open(tmp_path / "work")
    assert opened.sharing is HatefulMemesOptions.sharing
