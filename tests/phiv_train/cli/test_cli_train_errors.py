"""`phiv-train` with bad input: one line on stderr and the right exit code, before anything is saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from training import call, flags, settings

from phiv_schemas.manifest import Manifest
from phiv_train.families.tiny import FAMILY, build_tiny


def broken(demo: Path, tmp_path: Path, change: str) -> Path:
    """A copy of the set with something wrong."""
    folder = tmp_path / "data"
    shutil.copytree(demo, folder)
    shard = next((folder / "arrow/train").glob("*.arrow"))
    if change == "raw":
        shutil.rmtree(folder)
        for name in ("cat/1.png", "dog/2.png"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(b"")
        return folder
    if change == "unfinished":
        (folder / "manifest.json").unlink()
    elif change == "empty":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["splits"][-1] |= {"rows": 0, "num_images": 0, "shards": []}
        (folder / "manifest.json").write_bytes(Manifest.model_validate(manifest).to_bytes())
    elif change == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif change == "flipped":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 255
        shard.write_bytes(bytes(data))
    return folder


@pytest.mark.parametrize(
    ("change", "words", "line", "code"),
    [
        ("unfinished", "", "has no manifest.json: not a converted dataset, or unfinished", 1),
        ("raw", "", "is not converted: images in 2 folders. Convert it: phiv-convert folder --source ", 2),
        ("cut", "", "was cut or changed", 1),
        ("flipped", "--verify sha256", "was changed: its sha256 is not the manifest's", 1),
        ("", "--train_split trian", "the split 'trian' of --train_split is not there (found: train of ", 2),
        ("", "--eval --eval_split dev", "Pass --eval_split NAME with one that has rows, --eval_data_dir with ", 2),
        ("", "--eval --eval_split dev", "makes a val of its rows", 2),
        ("", "--eval --eval_data_dir nowhere", "nowhere: ", 2),
        ("empty", "--eval --eval_split test", "the split 'test' of --eval_split has no rows (found: train of ", 2),
        ("empty", "--eval --eval_split test", "or --no_eval; phiv-split ", 2),
        ("", "--max_length 60", "over max_length 60", 1),
        ("", "--model_name_or_path nowhere/at/all", "no such folder, and not a hub id", 2),
        ("", "--family tinny", "--family: no family 'tinny'", 2),
        ("", "--batch_size 5 --no_packing --batch_size_per_gpu 2", "--batch_size: 5 rows do not divide", 2),
        ("", "--freeze visoin", "--freeze: no part 'visoin'", 2),
        ("", "--precision float16 --device cpu", "--precision: float16 needs a GPU", 2),
        ("", "--bf16 --use_flash_attention --device cpu", "--use_flash_attention: ", 3),
        ("", "--precision float16 --use_flash_attention", "float16 does not work with use_flash_attention", 2),
        ("", "--lora_rank 0", "lora_rank: input should be greater than or equal to 1", 2),
        ("", "--resume nowhere", "nowhere: no such checkpoint", 2),
        ("", "--distributed fsdp2", "--distributed fsdp2: needs several processes", 2),
    ],
)
def test_bad_input_is_one_line(
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    change: str,
    words: str,
    line: str,
    code: int,
) -> None:
    config = settings(broken(demo, tmp_path, change) if change else demo, tmp_path / "out")
    assert call(monkeypatch, *flags(config), *words.split()) == code
    err = capsys.readouterr().err
    problem = [text for text in err.splitlines() if text.startswith("phiv-train: ")]
    assert line in problem[-1], err
    assert "Traceback" not in err


def test_an_output_folder_that_cannot_be_is_one_line(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = f"--data_dir {demo} --model_name_or_path tiny --output_dir {tmp_path / 'file'}"
    assert call(monkeypatch, *words.split()) == 2
    assert capsys.readouterr().err.startswith("phiv-train: --output_dir: ")
    for name, make in (("final", Path.touch), ("eval_after.json", Path.mkdir), ("metrics.jsonl", Path.mkdir)):
        folder = tmp_path / f"out_{name}"
        folder.mkdir()
        make(folder / name)
        assert call(monkeypatch, *words.split(), "--output_dir", str(folder)) == 2
        assert f"{name}' " in capsys.readouterr().err
    assert call(monkeypatch, *words.split(), "--batch_size", "0") == 2
    assert capsys.readouterr().err == "phiv-train: batch_size: input should be greater than or equal to 1 (found 0)\n"


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        ("--report_to nosuch", 2, "phiv-train: --report_to: transformers knows no tracker 'nosuch'. It knows "),
        ("--report_to clearml", 3, "phiv-train: --report_to: the package of clearml is missing. pip install clearml"),
        (
            "--use_lora --lora_parts language --part_learning_rates vision 1e-3",
            2,
            "phiv-train: --part_learning_rates: nothing of part 'vision' is trained. Leave it out",
        ),
    ],
)
def test_what_cannot_train_is_one_line(
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    code: int,
    line: str,
) -> None:
    words = f"--data_dir {demo} --model_name_or_path tiny --output_dir {tmp_path / 'out'} --no_eval --no-tqdm"
    assert call(monkeypatch, *words.split(), "--max_steps", "30", "--warmup_steps", "0", *flags.split()) == code
    assert any(found.startswith(line) for found in capsys.readouterr().err.splitlines())
    assert not (tmp_path / "out/final").exists()


@pytest.mark.parametrize("logging_steps", ["1", "100"])
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logging_steps: str,
) -> None:
    model, processor = build_tiny()
    model.lm_head.weight.data[:] = 3e38  # finite, as weights must be to be loaded; logits overflow
    FAMILY.save(model, processor, tmp_path / "model")
    words = f"--data_dir {demo} --model_name_or_path {tmp_path / 'model'} --output_dir {tmp_path / 'out'} --no_eval"
    assert call(monkeypatch, *words.split(), "--max_steps", "2", "--logging_steps", logging_steps) == 2
    assert "phiv-train: training: the loss is not a finite number at step " in capsys.readouterr().err
    assert not [*(tmp_path / "out").glob("checkpoint-*"), *(tmp_path / "out").glob("final")]
