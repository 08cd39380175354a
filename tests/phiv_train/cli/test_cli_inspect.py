"""phiv-inspect: what it shows is what the family encodes, and every row is found by number or id."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_data import ASK, COLOURS, ask, make_dataset, mixed_rows
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import Sample, encoded_image
from phiv_schemas import Conversation, Turn
from phiv_train.cli import inspect as cli_inspect
from phiv_train.evaluation.inspection import inspect_row
from phiv_train.families.base import IGNORE, get_family
from phiv_train.families.phi3_vision.encoding import num_image_tokens
from phiv_train.families.tiny import tiny_processor

FAMILY = get_family("tiny")
PROCESSOR = tiny_processor(num_crops=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*mixed_rows("train"), ("val", (ask("Red"),)), ("val", (ask("Blue"), ((), "And now?", None)))]
    return make_dataset(tmp_path_factory.mktemp("inspect") / "data", rows)


@pytest.fixture
def phiv_inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`phiv_inspect(*arguments)` -> (exit code, stdout, the lines of stderr that are phiv-inspect's)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["phiv-inspect", *map(str, arguments)])
        code = cli_inspect.main()
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if line.startswith("phiv-inspect")]

    return call


def test_spans_and_images_are_those_of_the_encoded_row(folder: Path) -> None:
    for sample in ConversationDataset(folder, "train"):
        encoded = FAMILY.encode(sample.conversation, [image.open() for image in sample.images], PROCESSOR)
        seen = inspect_row(sample, FAMILY, PROCESSOR)
        assert [id_ for span in seen.spans for id_ in span.ids] == encoded.input_ids.tolist()
        supervised = [span.supervised for span in seen.spans for _ in span.ids]
        assert supervised == (encoded.labels != IGNORE).tolist()
        assert (seen.tokens, seen.supervised) == (len(encoded), sum(supervised))
        answers = [span.text for span in seen.spans if span.supervised]
        assert answers == [f"{turn.assistant}<|end|>\n<|endoftext|>" for turn in sample.conversation.turns]
        for k, image in enumerate(seen.images):
            span = next(span for span in seen.spans if span.image == k)
            assert (span.start, span.stop) == (image.start, image.start + image.tokens)
            assert set(span.ids) == {PROCESSOR.image_id}
            assert image.tokens == num_image_tokens(image.width, image.height, PROCESSOR)
            assert image.path == sample.conversation.image_paths[k]


@given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=20))
def test_text_is_shown_without_loss(text: str) -> None:
    ids = [PROCESSOR.control_ids["<|user|>"], *PROCESSOR.tokenizer.encode(text)]
    assert PROCESSOR.text(ids) == f"<|user|>{text}"
    pieces = PROCESSOR.pieces(ids[1:])
    if text.isascii():
        assert "".join(pieces) == (f" {text}" if text else "")


def test_a_row_for_people(phiv_inspect: Any, folder: Path) -> None:
    code, out, said = phiv_inspect(folder, "train-0000000001", "--family", "tiny")
    assert (code, said) == (0, [])
    assert "\x1b" not in out  # not a terminal
    lines = out.splitlines()
    seen = inspect_row(ConversationDataset(folder, "train")[1], FAMILY, tiny_processor())
    assert lines[0] == "train-0000000001  row 1 of 11 in train  source toy"
    n, supervised = seen.tokens, seen.supervised
    assert lines[1].startswith("tiny  num_crops 1  tiny  spec ")
    assert lines[2] == f"{n} tokens: 26 of 2 images, {n - 26} of text, {supervised} supervised"
    assert lines[4] == "image 0  turn 0  40x40 -> 56x56 in 1x1 tiles  13 tokens from 4  train/001.0.0.png"
    marked = [line for line in lines if line.startswith(">")]
    assert marked == [f'> {n - supervised:6} +{supervised:<6} "Red<|end|>\\n<|endoftext|>"']
    assert f'"<s>\\n{ASK}<|end|>\\n<|assistant|>"' in out


def test_supervised_text_is_green_on_a_terminal(
    phiv_inspect: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for variable, coloured in (("PHIV_UNUSED", True), ("NO_COLOR", False)):
        monkeypatch.setenv(variable, "1")
        monkeypatch.setattr(sys, "stdout", terminal := Terminal())
        phiv_inspect(folder, "0", "--family", "tiny")
        assert ('\x1b[1;32m"Red<|end|>\\n<|endoftext|>"\x1b[0m' in terminal.getvalue()) is coloured


def test_json_holds_everything(phiv_inspect: Any, folder: Path) -> None:
    code, out, _ = phiv_inspect(
        folder, -1, "--split", "train", "--family", "tiny", "--num_crops", 4, "--format", "json"
    )
    shown = json.loads(out)
    sample = ConversationDataset(folder, "train")[-1]
    seen = inspect_row(sample, FAMILY, PROCESSOR)
    assert code == 0
    assert (shown["id"], shown["row"]) == (sample.id, 10)
    assert (shown["tokens"], shown["supervised"]) == (seen.tokens, seen.supervised)
    assert (shown["num_crops"], shown["spec_hash"]) == (4, PROCESSOR.spec_hash)
    assert [s["ids"] for s in shown["spans"] if s["image"] is None] == [
        list(s.ids) for s in seen.spans if s.image is None
    ]
    assert [i["start"] for i in shown["images"]] == [i.start for i in seen.images]


@pytest.mark.parametrize(
    ("row", "flags", "shown"),
    [
        ("2", [], "train-0000000002  row 2 of 11 in train"),
        ("-1", ["--split", "val"], "val-0000000012  row 1 of 2 in val"),
        ("val-0000000011", [], "val-0000000011  row 0 of 2 in val"),
    ],
)
def test_a_row_is_found_by_number_and_by_id(phiv_inspect: Any, folder: Path, row: str, flags: Any, shown: str) -> None:
    code, out, _ = phiv_inspect(folder, *flags, "--family", "tiny", "--", row)
    assert code == 0
    assert out.startswith(shown)


def test_of_an_unlabeled_row_the_prompt_is_shown(phiv_inspect: Any, folder: Path) -> None:
    code, out, _ = phiv_inspect(folder, "val-0000000012", "--family", "tiny")
    assert code == 0
    assert "0 supervised  (unlabeled: the prompt alone)" in out
    assert out.rstrip().endswith("<|assistant|>")


def test_images_are_saved_as_stored_and_as_cut(phiv_inspect: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, lines = phiv_inspect(folder, 1, "--family", "tiny", "--save_images", tmp_path / "file")
    assert (code, lines[0].split("(")[0]) == (2, f"phiv-inspect: --save_images: '{tmp_path}/file' cannot be a folder ")
    code, _, _ = phiv_inspect(folder, 1, "--family", "tiny", "--num_crops", 4, "--save_images", tmp_path / "seen")
    sample = ConversationDataset(folder, "train")[1]
    encoded = FAMILY.encode(sample.conversation, [image.open() for image in sample.images], PROCESSOR)
    assert code == 0
    assert len(list((tmp_path / "seen").iterdir())) == 4
    crops = iter(encoded.media["crops"])
    for k, (height, width) in enumerate(encoded.media["image_sizes"].tolist()):
        assert (tmp_path / "seen" / f"{k:02d}_source.png").read_bytes() == sample.images[k].data
        canvas = np.asarray(Image.open(tmp_path / "seen" / f"{k:02d}_canvas.png"))
        assert canvas.shape == (height, width, 3)
        for y in range(0, height, 56):
            for x in range(0, width, 56):
                assert (canvas[y : y + 56, x : x + 56] == next(crops)).all()
    assert tuple(canvas[height // 2, width // 2]) == COLOURS["Red"]


def test_a_canvas_is_its_crops_laid_row_by_row() -> None:
    ramp = np.arange(112 * 168 * 3, dtype=np.uint32).reshape(112, 168, 3)
    out = io.BytesIO()
    Image.fromarray((ramp % 251).astype(np.uint8)).save(out, "PNG")
    image = encoded_image("train/ramp.png", out.getvalue(), size=(168, 112), format="PNG")
    turn = Turn(images=("train/ramp.png",), user=ASK, assistant="No")
    sample = Sample(Conversation(id="train-0", source="toy", conversations=(turn,)), (image,))
    processor = tiny_processor(num_crops=6)  # 3 x 2 crops of 56: the image needs no resizing
    seen = inspect_row(sample, FAMILY, processor)
    assert seen.images[0].tiles == (3, 2)
    (preview,) = seen.previews
    assert (np.asarray(preview.image) == ramp % 251).all()


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["11", "--family", "tiny"], 2, "11: split 'train' has 11 rows. Rows are counted from 0"),
        (["train-9", "--family", "tiny"], 2, "train-9: no row with this id in split 'train'"),
        (["0", "--split", "dev", "--family", "tiny"], 2, "no split 'dev' (found: train, val, test)"),
        (["0", "--family", "tiny", "--num_crops", "0"], 2, "--num_crops: must be 1 to 16 (found 0)"),
        (["0", "--family", "tiny", "--image_option", "num_crops"], 2, "'num_crops' is not KEY=VALUE"),
        (
            ["0", "--family", "tiny", "--image_option", "size=9"],
            2,
            "family tiny has no such image option. It has num_crops",
        ),
        (
            ["0", "--family", "tiny", "--image_option", "num_crops=99"],
            2,
            "--image_option num_crops: input should be less",
        ),
        (["0", "--model_name_or_path", "."], 2, "has no config.json with a model_type"),
    ],
)
def test_what_is_wrong_is_one_line(
    phiv_inspect: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: Any,
    code: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, said = phiv_inspect(folder, *arguments)
    assert (found, out, len(said)) == (code, "", 1)
    assert line in said[0]


def test_the_real_tokenizer_shows_the_recipes_ids(phiv_inspect: Any, folder: Path, shared: Path) -> None:
    real = shared / "phi-3.5-vision"
    code, out, _ = phiv_inspect(folder, 1, "--model_name_or_path", real, "--format", "json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["family"], shown["num_crops"]) == ("phi3_vision", 4)
    assert shown["images"][0]["tokens"] == 757
    assert shown["spans"][0]["ids"] == [1, 32010, 29871, 13]
    assert shown["spans"][-1]["ids"][-4:] == [32007, 29871, 13, 32000]
