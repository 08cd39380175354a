"""phiv-convert as a person meets it: output, one-line errors, exit codes, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

BIN = Path(sys.executable).parent


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "phiv-convert"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}), timeout=120)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic source in the subset layout, a few clips per class."""
    from phiv_converters.synthetic.clips import make_synthetic_ucf101

    return make_synthetic_ucf101(tmp_path_factory.mktemp("synthetic"), train=2, val=1, test=1)


def test_a_clean_conversion_exits_0_and_reports_on_stdout(clips: Path, tmp_path: Path) -> None:
    done = run("ucf101", "--source", clips, "--out_dir", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "= 24 written + 0 rejected" in done.stdout
    again = run("ucf101", "--source", clips, "--out-dir", tmp_path / "out")
    assert (again.returncode, again.stderr) == (0, "")
    assert "already converted, nothing to do" in again.stdout


def test_an_update_says_how_many_inputs_it_kept(clips: Path, tmp_path: Path) -> None:
    source = tmp_path / "UCF101_subset"
    subprocess.run(["cp", "-r", str(clips), str(source)], check=True)
    command = ("ucf101", "--source", source, "--out_dir", tmp_path / "out", "--update")
    assert run(*command).returncode == 0
    min(source.glob("train/*/*.avi")).touch()
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  1 of 24 inputs new, changed or rejected before, 23 kept\n" in done.stdout
    assert "already converted, nothing to do" in run(*command).stdout
    refused = run(*command, "--overwrite")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_rejects_exit_1_with_a_line_each_also_when_found_finished(clips: Path, tmp_path: Path) -> None:
    source = tmp_path / "UCF101_subset"
    subprocess.run(["cp", "-r", str(clips), str(source)], check=True)
    victim = sorted(source.glob("train/*/*.avi"))[0]
    victim.write_bytes(b"no clip")
    for _ in range(2):
        done = run("ucf101", "--source", source, "--out_dir", tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert victim.name in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--source", "/no/such/place"], 2, "phiv-convert: --source: no such file or folder '/no/such/place'"),
        (["--demo", "--num_frames", "0"], 2, "phiv-convert: --num_frames: must be 1 to 10000 (found 0)"),
        (["--demo", "--num_workers", "-1"], 2, "phiv-convert: --num_workers: must be 0 or more (found -1)"),
        ([], 3, "phiv-convert: hub dataset sayakpaul/ucf101-subset: "),
    ],
)
def test_bad_calls_are_one_line(tmp_path: Path, arguments: list[str], code: int, line: str) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = run("ucf101", *arguments, "--out_dir", tmp_path / "out", env=env)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_converter_that_is_not_there_is_one_line() -> None:
    near, far = run("tabel"), run("nonsense", "--out_dir", "x")
    assert (near.returncode, near.stderr) == (2, "phiv-convert: tabel: is no converter. Did you mean 'table'?\n")
    assert (far.returncode, far.stderr.count("\n")) == (2, 1)
    assert "ucf101" in far.stderr


def test_rows_without_an_answer_are_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,answer,split\na.png,x,train\na.png,,train\na.png,,val\nb.png,x,test\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    done = run("table", "--source", tmp_path / "t.csv", "--out_dir", tmp_path / "out")
    assert "  2 without an answer (first: 't.csv:3'); --include_unlabeled keeps them\n" in done.stdout
    assert [f"{split} has no rows" in done.stderr for split in ("train", "val", "test")] == [False, True, True]
    assert "val has no rows (rejected: 0 of its 1 inputs, without an answer: 1)\n" in done.stderr
    assert "test has no rows (rejected: 1 of its 1 inputs). Correct them, then pass --update; or" in done.stderr
    (tmp_path / "u.csv").write_text("image,comment\na.png,x\n")
    done = run("table", "--source", tmp_path / "u.csv", "--out_dir", tmp_path / "out2")
    assert done.returncode == 1
    assert "columns that are not read: comment\n" in done.stderr


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is missing. --update makes it whole, --overwrite converts all again"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "was cut or changed: 60 bytes, not "),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "sha256 is not the manifest's. --overwrite converts"),
    ],
)
def test_damaged_rejects_of_a_finished_output_are_one_line(
    damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("image,answer\na.png,x\nb.png,x\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    command = ("table", "--source", tmp_path / "t.csv", "--out_dir", tmp_path / "out")
    assert run(*command).returncode == 1
    damage(tmp_path / "out/rejects.jsonl")
    again = run(*command)
    (line,) = (line for line in again.stderr.splitlines() if "rejects.jsonl" in line)
    assert (again.returncode, said in line) == (1, True), again.stderr


def test_usage_errors_exit_2() -> None:
    assert run("ucf101").returncode == 2
    assert run("nonsense").returncode == 2


def test_a_folder_without_permission_is_one_line_and_exit_3(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    for folder in (p for p in tmp_path.parents if p.owner() == tmp_path.owner() and p.is_relative_to("/tmp")):
        folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys, filelock, loky, phiv_data.convert.engine\n"
        "from phiv_data.cli.convert import main\n"
        "sys.argv = ['phiv-convert', 'ucf101', '--demo', '--num_frames', '0', '--out_dir', 'x']\n"
        "main(); sys.stderr.write('----\\n')  # loads what nobody may not read\n"
        "if os.geteuid() == 0: os.seteuid(65534)  # root may write anywhere, nobody may not\n"
        f"sys.argv = ['phiv-convert', 'ucf101', '--demo', '--out_dir', {str(tmp_path / 'locked' / 'out')!r}]\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    line = done.stderr.split("----\n")[1]
    assert "no permission" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_exits_130_and_the_same_command_goes_on(
    clips: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    command = [str(BIN / "phiv-convert"), "ucf101", "--source", str(clips), "--out_dir", str(tmp_path / "out")]
    heard = partial(signal.signal, stop, signal.SIG_DFL)  # a suite started in the background is deaf to Ctrl-C
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not (tmp_path / "out" / ".phiv" / "plan.json").exists():
        time.sleep(0.01)
    process.send_signal(stop)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "phiv-convert: interrupted. Run the same command to continue\n")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run("ucf101", "--source", clips, "--out_dir", tmp_path / "out").returncode == 0


def test_neither_torch_nor_transformers_is_imported(clips: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from phiv_data.cli.convert import main\n"
        f"sys.argv = ['phiv-convert', 'ucf101', '--source', {str(clips)!r}, '--out_dir', {str(tmp_path / 'out')!r}, "
        "'--num_workers', '0']\n"
        "assert main() == 0\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_loads_no_heavy_library() -> None:
    """What keeps --help under 0.4 s (measured in docs/benchmarks.md)."""
    code = (
        "import sys; from phiv_data.cli.convert import main\n"
        "sys.argv = ['phiv-convert', 'ucf101', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'pyarrow', 'PIL', 'av', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_broken_plugin_is_reported_and_disturbs_no_other(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[phiv.converters]\nbroken = no_such_module:Options\n")
    done = run("--help", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0
    assert "ucf101" in done.stdout
    assert "plugin left out: broken (no_such_module:Options): ModuleNotFoundError" in done.stderr
