"""A plugin that fails, in whichever way, is left out with one line; the others and the command work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
from dataclasses import dataclass
from pathlib import Path
from phiv_data.convert import Converter, Draft, Item, Turn


@dataclass(frozen=True)
class Good(Converter):
    source: Path
    name = "good"

    def inputs(self):
        {listing}
        yield Item("train", "one", b"1")

    def draft(self, item):
        {drafting}
        return Draft((Turn(images=(), user="Is it?", assistant="yes"),), ())
"""
BROKEN = {
    "exits": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "raises": ("raise BaseException('of its own\\nkind')", "BaseException: of its own kind"),
    "lacks": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "is_no_python": ("def", "SyntaxError: invalid syntax"),
    "is_no_class": ("O = 3", "is no dataclass that is a ConverterOptions or a Converter"),
    "has_no_type": (
        "from dataclasses import dataclass\nfrom phiv_data.convert import Converter\n"
        "@dataclass(frozen=True)\nclass O(Converter):\n    source: 'NoSuchType'\n",
        "its fields have types that cannot be read (NameError: name 'NoSuchType' is not defined)",
    ),
}


def install(folder: Path, group: str, name: str, code: str, attribute: str = "O") -> None:
    """A distribution with one entry point, as pip leaves it."""
    module = f"plugin_{name}"
    info = folder / f"{module}-1.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")


def run(folder: Path, program: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(folder)}
    command = [str(Path(sys.executable).with_name(program)), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_broken_converters_are_left_out_and_the_conversion_runs(tmp_path: Path) -> None:
    for name, (code, _) in BROKEN.items():
        install(tmp_path / "site", "phiv.converters", name, code)
    install(tmp_path / "site", "phiv.converters", "good", GOOD.format(listing="", drafting=""), "Good")
    done = run(
        tmp_path / "site", "phiv-convert", "good", "--source", ".", "--out_dir", tmp_path / "out", "--num_workers", "0"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/manifest.json").is_file()
    lines = done.stderr.splitlines()
    assert len(lines) == len(BROKEN)
    for name, (_, reason) in BROKEN.items():
        (line,) = (line for line in lines if f"plugin left out: {name}" in line)
        assert reason in line


@pytest.mark.parametrize(
    ("listing", "drafting", "workers", "words"),
    [
        ("raise SystemExit(0)", "", 0, "Good: the converter ends the program while it lists the source (exit 0)"),
        ("", "raise SystemExit(0)", 0, "good: its converter ends the program at input 'one' (exit 0)"),
        ("", "raise SystemExit(0)", 2, "good: its converter ends the program at input 'one' (exit 0)"),
    ],
)
def test_a_converter_that_exits_is_one_line(
    tmp_path: Path, listing: str, drafting: str, workers: int, words: str
) -> None:
    install(tmp_path / "site", "phiv.converters", "good", GOOD.format(listing=listing, drafting=drafting), "Good")
    done = run(
        *(tmp_path / "site", "phiv-convert", "good", "--source", ".", "--out_dir", tmp_path / "out"),
        *("--num_workers", str(workers)),
    )
    assert done.returncode == 2
    assert done.stderr == f"phiv-convert: {words}. Tell its author\n"


@pytest.mark.parametrize("name", ["exits", "raises"])
def test_a_family_that_exits_is_one_line(tmp_path: Path, name: str) -> None:
    code, reason = BROKEN[name]
    install(tmp_path / "site", "phiv.families", name, code)
    record = '{"id": "1", "source": "x", "conversations": [{"images": [], "user": "?", "assistant": "!"}]}'
    (tmp_path / "train.jsonl").write_text(record + "\n")
    run(tmp_path, "phiv-convert", "jsonl", "--source", tmp_path / "train.jsonl", "--out_dir", tmp_path / "out")
    for program, more in {"phiv-inspect": ("0",), "phiv-validate": ("--max_tokens", "9")}.items():
        done = run(tmp_path / "site", program, tmp_path / "out", *more, "--family", name)
        assert done.returncode == 3, done.stdout + done.stderr
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
