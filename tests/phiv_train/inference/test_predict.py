"""phiv-predict and load_model: the answers of evaluation, about files, clips and splits, labelled or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from eval_data import ASK, COLOURS
from media_tools import numbered_clip
from PIL import Image
from training import environment, torchrun

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas import Conversation
from phiv_schemas.errors import RecordError, UsageError
from phiv_train import LoadedModel, load_model
from phiv_train.cli import predict as cli_predict
from phiv_train.cli import predict_split
from phiv_train.evaluation.generate import evaluate
from phiv_train.families.base import get_family


@pytest.fixture(scope="module")
def model(knows_colours: Path) -> LoadedModel:
    return load_model(knows_colours, family="tiny", device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (48, 40), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def phiv_predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`phiv_predict(*arguments)` -> (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["phiv-predict", *map(str, words)])
        code = cli_predict.main()
        return code, *capsys.readouterr()

    return call


# -- in Python ---------------------------------------------------------------------------------------------------------
def test_a_model_answers_about_files_bytes_and_decoded_images(model: LoadedModel, photos: Path) -> None:
    for name in COLOURS:
        file = photos / f"{name}.png"
        for given in (file, str(file), file.read_bytes(), Image.open(file), [file]):
            assert model.answer(given, ASK) == name


def test_several_images_and_earlier_turns(model: LoadedModel, photos: Path) -> None:
    red, green = photos / "Red.png", photos / "Green.png"
    assert model.answer([red, green], ASK) == "Green"
    assert model.answer([green, red], ASK) == "Red"
    assert model.answer([], "Is this True?") == "Yes"
    assert model.answer(red, "Is this True?", earlier=[(ASK, "Red")]) == "Yes"


def test_what_cannot_be_used_is_an_error(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(RecordError, match=r"broken\.png"):
        model.answer(tmp_path / "broken.png", ASK)
    with pytest.raises(UsageError, match="no such file"):
        model.answer(tmp_path / "gone.png", ASK)


# -- images ------------------------------------------------------------------------------------------------------------
def test_images_folders_and_patterns(knows_colours: Path, photos: Path, phiv_predict: Any) -> None:
    ask = ("--model", knows_colours, "--family", "tiny", "--question", ASK, "--device", "cpu")
    assert phiv_predict(*ask, photos / "Red.png")[:2] == (0, "Red\n")
    code, out, _ = phiv_predict(*ask, photos)
    assert code == 0
    assert out.splitlines() == [f"{photos}/{name}.png: {name}" for name in sorted(COLOURS)]
    assert phiv_predict(*ask, f"{photos}/*.png")[1] == out
    assert phiv_predict(*ask, "--together", photos / "Red.png", photos / "Blue.png")[1] == "Blue\n"


def test_a_clip_is_its_frames(
    knows_colours: Path, model: LoadedModel, photos: Path, tmp_path: Path, phiv_predict: Any
) -> None:
    clip = numbered_clip(tmp_path / "clip.mp4", 12)
    code, out, _ = phiv_predict(
        clip, "--model", knows_colours, "--family", "tiny", "--question", ASK, "--num_frames", 3, "--device", "cpu"
    )
    assert (code, out) == (0, model.answer(clip, ASK, num_frames=3) + "\n")


def test_an_unusable_image_is_named_and_the_others_are_answered(
    knows_colours: Path, photos: Path, tmp_path: Path, phiv_predict: Any
) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    output = tmp_path / "answers.jsonl"
    code, _, err = phiv_predict(
        photos, "--model", knows_colours, "--family", "tiny", "--question", ASK, "--output", output, "--device", "cpu"
    )
    assert code == 1
    assert "broken.png" in err
    assert "1 of 4 could not be used" in err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prediction"] for line in lines] == sorted(COLOURS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs images, clips or folders of them, or --data_dir"),
        (("x.png",), "--question: is missing"),
        (("nothing*.png", "--question", "?"), "a pattern that fits none"),
        (("--data_dir", "d"), "--output: is missing"),
        (("x.png", "--data_dir", "d", "--question", "?"), "Pass one of the two"),
        (("x.png", "--question", "?", "--num_frames", "0"), "--num_frames: must be at least 1"),
        (("x.png", "--question", "?", "--limit", "3"), "--limit: is for --data_dir"),
        (("--data_dir", "d", "--output", "o", "--together"), "--together: is for images and clips"),
        (("", "--question", "?"), "IMAGE: a name is empty"),
        (("x.png", "--question", "\udce9"), "--question: is not UTF-8 text"),
    ],
)
def test_usage(words: tuple[str, ...], message: str, phiv_predict: Any) -> None:
    code, _, err = phiv_predict("--model", "tiny", *words)
    assert code == 2
    assert message in err


# -- splits ------------------------------------------------------------------------------------------------------------
def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_split_without_answers_is_answered(
    knows_colours: Path, colours: Path, tmp_path: Path, phiv_predict: Any
) -> None:
    output = tmp_path / "p.jsonl"
    code, _, err = phiv_predict(
        *("--model", knows_colours, "--family", "tiny", "--data_dir", colours, "--output", output),
        *("--turns", "all", "--device", "cpu"),
    )
    assert (code, err) == (0, "")
    lines = lines_of(output)
    assert [line["row"] for line in lines] == sorted(line["row"] for line in lines)
    # The second turn follows the model's own answer to the first, which has none.
    assert [(line["turn"], line["prediction"]) for line in lines[:2]] == [(0, "Blue"), (1, "Yes")]
    assert [line["images"] for line in lines[:2]] == [lines[0]["images"]] * 2
    assert "answers" not in lines[0]
    assert (lines[2]["prediction"], lines[2]["answers"]) == ("Green", ["Greenish"])
    assert len(lines) == 2 + 2 + 150
    assert list(tmp_path.iterdir()) == [output]


def test_answers_are_those_of_evaluation(
    knows_colours: Path, colours: Path, tmp_path: Path, model: LoadedModel
) -> None:
    data = ConversationDataset(colours, "val")
    predict_split.predict_split(model, data, tmp_path / "p.jsonl", turns="all", batch_size=3, settings={})
    scored = evaluate(model.model, model.family, model.processor, data, turns="all")
    expected = [(p.question.row, p.question.turn, p.text, list(p.question.answers)) for p in scored.predictions]
    lines = lines_of(tmp_path / "p.jsonl")
    assert [(one["row"], one["turn"], one["prediction"], one["answers"]) for one in lines] == expected


def test_a_stopped_run_continues(
    colours: Path, tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = ConversationDataset(colours, "test"), tmp_path / "p.jsonl"
    predict_split.predict_split(model, data, tmp_path / "straight.jsonl", settings={"a": 1})
    answer, calls = predict_split.answer_rows, 0

    def stops(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(predict_split, "answer_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        predict_split.predict_split(model, data, output, settings={"a": 1})
    assert not output.exists()
    with pytest.raises(UsageError, match=r"p\.jsonl\.parts: holds answers of a run with another a \(1\)"):
        predict_split.predict_split(model, data, output, settings={"a": 2})
    found = predict_split.predict_split(model, data, output, settings={"a": 1})
    assert found == (predict_split.ROWS_PER_BLOCK, 0)
    assert output.read_bytes() == (tmp_path / "straight.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"p.jsonl", "straight.jsonl"}


def test_parts_that_are_not_ours_or_of_other_weights_or_data_are_refused(
    knows_colours: Path, colours: Path, tmp_path: Path, phiv_predict: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, parts = tmp_path / "p.jsonl", tmp_path / "p.jsonl.parts"
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(knows_colours, model)
    shutil.copytree(colours, data)
    words = ("--model", model, "--family", "tiny", "--data_dir", data, "--output", output, "--device", "cpu")
    parts.mkdir()
    (parts / "000000.jsonl").write_text("mine\n")
    code, _, err = phiv_predict(*words)
    assert (code, "holds 000000.jsonl and no settings.json" in err) == (2, True)
    assert (parts / "000000.jsonl").read_text() == "mine\n"
    shutil.rmtree(parts)
    with monkeypatch.context() as patch:
        patch.setattr(predict_split, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert phiv_predict(*words)[0] == 130
    get_family("tiny").save(*get_family("tiny").load("tiny:8"), model)
    code, _, err = phiv_predict(*words)
    assert (code, "holds answers of a run with another weights" in err) == (2, True)
    shutil.rmtree(model)
    shutil.copytree(knows_colours, model)
    manifest = (data / "manifest.json").read_bytes()
    (data / "manifest.json").write_bytes(manifest + b"\n")
    assert phiv_predict(*words)[0] in (1, 2)
    (data / "manifest.json").write_bytes(manifest)
    assert phiv_predict(*words)[0] == 0
    assert list(tmp_path.glob("*p.jsonl*")) == [output]


def test_a_row_that_cannot_be_asked_is_named_and_the_others_are_answered(
    model: LoadedModel, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LoadedModel.encode

    def fails(self: LoadedModel, prompt: Conversation, images: Any) -> Any:
        if prompt.id.endswith("3"):
            raise RecordError(prompt.id, "is too thin")
        return encode(self, prompt, images)

    monkeypatch.setattr(LoadedModel, "encode", fails)
    data = ConversationDataset(colours, "val")
    done = predict_split.predict_split(model, data, tmp_path / "p.jsonl", turns="all", settings={})
    lines = lines_of(tmp_path / "p.jsonl")
    wrong = [line for line in lines if line["prediction"] is None]
    assert len(wrong) == done.failed > 0
    assert {line["error"] for line in wrong} == {f"{line['id']}: is too thin" for line in wrong}
    assert {line["id"] for line in lines} == {row.id for row in data}


def test_an_output_may_not_be_an_image_or_in_the_dataset(
    knows_colours: Path, colours: Path, photos: Path, phiv_predict: Any
) -> None:
    red, ask = photos / "Red.png", ("--model", knows_colours, "--question", ASK)
    before = red.read_bytes()
    code, _, err = phiv_predict(*ask, red, "--output", red)
    assert (code, "is one of the images" in err, red.read_bytes()) == (2, True, before)
    code, _, err = phiv_predict("--model", knows_colours, "--data_dir", colours, "--output", colours / "x.jsonl")
    assert (code, "is in the dataset" in err) == (2, True)


def test_hidden_files_are_no_images_and_an_image_may_be_shown_twice(
    knows_colours: Path, photos: Path, phiv_predict: Any
) -> None:
    (photos / "._Red.png").write_bytes(b"of a Mac")
    (photos / "gone.png").symlink_to(photos / "nothing.png")
    ask = ("--model", knows_colours, "--family", "tiny", "--question", ASK, "--device", "cpu")
    code, out, err = phiv_predict(*ask, photos)
    assert (code, len(out.splitlines()), "gone.png: no such file" in err) == (1, 3, True)
    red = photos / "Red.png"
    expected = load_model(knows_colours, family="tiny", device="cpu").answer([red, red], ASK)
    assert phiv_predict(*ask, "--together", red, red)[1] == f"{expected}\n"


def test_two_processes_share_the_rows(knows_colours: Path, colours: Path, tmp_path: Path) -> None:
    words = ["--model", str(knows_colours), "--family", "tiny", "--data_dir", str(colours), "--device", "cpu"]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    command = [sys.executable, "-m", "phiv_train.cli.predict", *words, "--output", str(one)]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=240)
    done = torchrun(2, "-m", "phiv_train.cli.predict", *words, "--output", str(two))
    assert done.returncode == 0, done.stderr[-2000:]
    assert two.read_bytes() == one.read_bytes()
