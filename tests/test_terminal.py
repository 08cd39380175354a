"""No name, text or answer is obeyed by a terminal: all that the commands print goes through one function."""

from __future__ import annotations

import ast
import gc
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_converter import draw_toy_source

from phiv_data.utils.terminal import printable, say, write_document
from phiv_schemas import UsageError

REPO = Path(__file__).resolve().parents[1]
EVIL = "\x1b[31mred\n\x9b2Jphiv: all is well\u202e\r"
SAFE = r"\x1b[31mred\n\x9b2Jphiv: all is well\u202e\r"
PROGRAMS = ("phiv-convert", "phiv-validate", "phiv-split", "phiv-export", "phiv-train", "phiv-eval", "phiv-inspect")
PROGRAMS += ("phiv-predict", "phiv-merge")
ALONE = {  # these print nothing of the data: a child process's answers, a tool for the schema files
    "phiv_data/media/video/decord_child.py",
    "schemas/phiv_schemas/generate.py",
}


def writes(path: Path) -> list[int]:
    """Lines of a file that write to stdout or stderr by themselves."""
    found = []
    gc.disable()  # before 3.11.8, ast.parse fails where a finalizer parses something meanwhile (CPython gh-106905)
    try:
        tree = ast.parse(path.read_bytes())
    finally:
        gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            is_stream = "sys.std" in function or "sys.__std" in function
            if function == "print" or (is_stream and function.rpartition(".")[2] in ("write", "writelines")):
                found.append(node.lineno)
            if function == "os.write" and ast.unparse(node.args[0]) in ("1", "2"):
                found.append(node.lineno)
    return found


def test_nothing_else_writes_to_a_terminal() -> None:
    folders = ("phiv_data", "phiv_train", "converters", "schemas")
    files = {path.relative_to(REPO).as_posix(): path for folder in folders for path in (REPO / folder).rglob("*.py")}
    found = {name: lines for name, path in files.items() if (lines := writes(path)) and name not in ALONE}
    assert list(found) == ["phiv_data/utils/terminal.py"]


def test_the_search_finds_other_ways(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "print(1)\nsys.stdout.write('')\n(sys.stdout if a else sys.stderr).write('')\nsys.stdout.buffer.write(b'')"
    )
    assert writes(file) == [1, 2, 3, 4]


def test_a_line_is_shown_and_stays_one_line() -> None:
    out = io.StringIO()
    say(f"{EVIL}: rejected", "ü – 猫", to=out)
    assert out.getvalue() == f"{SAFE}: rejected\nü – 猫\n"
    assert printable("plain") == "plain"


def test_colours_alone_are_let_through() -> None:
    out = io.StringIO()
    say("\x1b[1;32mgreen\x1b[0m\x1b[2J", to=out, colours=True)
    assert out.getvalue() == "\x1b[1;32mgreen\x1b[0m\\x1b[2J\n"


def test_json_on_stdout_is_the_same_value_without_odd_characters(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": EVIL, "text": "ü猫"}
    write_document(json.dumps(value, ensure_ascii=False))
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.isprintable()
    assert "ü猫" in text


# Every command ------------------------------------------------------------------------------------------------------


def run(program: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(program)), *map(str, args)]
    env = os.environ | {"PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def assert_safe(done: subprocess.CompletedProcess[str]) -> None:
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("phiv: all is well") for line in text.split("\n"))


@pytest.fixture(name="out", scope="module")
def _out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted dataset in a folder with a name that a terminal would obey."""
    folder = tmp_path_factory.mktemp("hostile")
    images = draw_toy_source(folder, {f"images{EVIL[0]}": ["a_same", "b_same"]})
    rows = [
        {"id": ascii(name)[1:6], "source": "x", "conversations": [{"images": [name], "user": "?", "assistant": EVIL}]}
        for name in ("a_same.png", "b_same.png", f"gone{EVIL}.png")
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / f"out{EVIL}"
    flags = ("--source", folder / "train.jsonl", "--images", images / f"images{EVIL[0]}", "--num_workers", "0")
    done = run("phiv-convert", "jsonl", *flags, "--out_dir", out)
    assert done.returncode == 1, done.stderr
    assert r"\x1b" in done.stderr
    assert SAFE in done.stdout
    assert_safe(done)
    return out


def test_validating_exporting_and_inspecting_show_names_only(out: Path, tmp_path: Path) -> None:
    (out / "images" / "a_same.png").write_bytes(b"no image")
    for program, args in {
        "phiv-validate": (out,),
        "phiv-export": ("llava", out, tmp_path / f"export{EVIL}"),
        "phiv-inspect": (out, "0", "--family", "tiny"),
    }.items():
        done = run(program, *args)
        assert_safe(done)
        assert SAFE in done.stdout or program == "phiv-inspect", done.stderr
    assert_safe(run("phiv-validate", out, "--format", "github"))
    assert_safe(run("phiv-validate", out, "--fix", tmp_path / f"fixed{EVIL}"))
    done = run("phiv-split", out, "--out_dir", tmp_path / f"split{EVIL}")
    assert r"\x1b[31mred" in done.stderr
    assert_safe(done)
    done = run("phiv-inspect", out, "0", "--family", "tiny", "--format", "json")
    assert_safe(done)
    assert json.loads(done.stdout)["spans"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_errors_show_names_only(program: str, tmp_path: Path) -> None:
    gone = tmp_path / f"gone{EVIL}"
    args = {
        "phiv-convert": ("jsonl", "--source", gone, "--out_dir", tmp_path / "o"),
        "phiv-validate": (gone,),
        "phiv-split": (gone, "--out_dir", tmp_path / "o"),
        "phiv-export": ("llava", gone, tmp_path / "o"),
        "phiv-train": ("--data_dir", gone, "--model_name_or_path", "tiny", "--output_dir", tmp_path / "o"),
        "phiv-eval": ("--data_dir", gone, "--split", "val", "--model_name_or_path", "tiny"),
        "phiv-inspect": (gone, "0"),
        "phiv-predict": ("--model", "tiny", "--question", EVIL, gone),
        "phiv-merge": (gone, "--out", tmp_path / "o"),
    }
    done = run(program, *args[program])
    assert done.returncode in (1, 2)
    assert r"\x1b[31mred" in done.stderr
    assert_safe(done)


def test_an_error_of_a_name_is_one_line_on_stderr() -> None:
    assert "\n" not in printable(str(UsageError(EVIL, EVIL)))
