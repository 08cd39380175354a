"""Rows in tokens: the trainer's numbers, wherever the sizes come from; what cannot be measured is reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from data_builders import encoded, image_bytes, samples, write_dataset

from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.engine import convert
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import Sample
from phiv_data.validation import validate
from phiv_data.validation.core.finding import ImageFacts, RowContext
from phiv_data.validation.core.row_stats import histograms
from phiv_data.validation.inputs.fast_parse import fast_record
from phiv_data.validation.rules.token_budget import TokenBudget
from phiv_schemas import Conversation, EnvironmentProblem, Turn, UsageError, ValidationReport
from phiv_train.batching.lengths import Lengths, measure
from phiv_train.families.base import Measured, get_family

OVER_BUDGET = re.compile(r"^(\d+) tokens(?: \(\d+ images?: (\d+)\))?, over the budget of (\d+)$")


def reported(report: ValidationReport) -> list[tuple[int, int]]:
    """(tokens, image tokens) of each row, in order: with a budget of 1 token every row is over it."""
    found = [OVER_BUDGET.match(issue.message) for issue in report.issues if issue.code == "PV250"]
    return [(int(match[1]), int(match[2] or 0)) for match in found if match]


def trained(folder: Path, split: str, family: str, tokenizer: str | None = None) -> Lengths:
    """What the trainer plans with."""
    one = get_family(family)
    processor = one.load_processor(tokenizer or family)
    return measure(ConversationDataset(folder, split), one, processor)


def rows_with(turns: list[tuple[Turn, ...]], size: tuple[int, int] = (24, 16)) -> list[Sample]:
    """Rows of these turns, each image of the same size."""
    rows = []
    for number, of_row in enumerate(turns):
        paths = [path for turn in of_row for path in turn.images]
        images = [encoded(p, image_bytes(number, size), width=size[0], height=size[1]) for p in paths]
        conversation = Conversation(id=f"val-{number}", source="synthetic", conversations=of_row)
        rows.append(Sample(conversation, tuple(images)))
    return rows


DIALOGUES = [
    (Turn(images=("a.png",), user="What is it?", assistant="a fox"),),
    (
        Turn(
            images=("b.png", "c.png"),
            user="What are  <|image_1|> these?\n",
            assistant="ż 你好 🙂",
            image_offsets=(5, 9),
        ),
        Turn(images=(), user="", assistant="True"),
    ),
    (Turn(images=(), user="No image <|end|> at all", assistant="none", answers=("", "none")),),
]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("budget") / "synthetic", {"val": rows_with(DIALOGUES, (150, 70))})


def test_lengths_are_the_trainers(synthetic: Path) -> None:
    lengths = trained(synthetic, "val", "tiny")
    report = validate(synthetic, row_rules=[TokenBudget("tiny", 1)])
    assert reported(report) == list(zip(lengths.tokens.tolist(), lengths.image_tokens.tolist(), strict=True))
    bins = Counter(int(n).bit_length() for n in lengths.tokens)
    assert report.stats.splits["val"].tokens_per_row == histograms({"val": bins})["val"]
    assert "PV251" not in report.counts()


def test_only_rows_over_the_budget_are_reported(synthetic: Path) -> None:
    longest = int(trained(synthetic, "val", "tiny").tokens.max())
    assert validate(synthetic, row_rules=[TokenBudget("tiny", longest)]).ok
    over = validate(synthetic, row_rules=[TokenBudget("tiny", longest - 1)])
    assert [(issue.code, issue.line) for issue in over.errors] == [("PV250", 2)]
    assert not over.ok
    assert validate(synthetic, row_rules=[TokenBudget("tiny")]).ok  # rows are measured only


@pytest.mark.parametrize("what", ["", "ucf101_val.jsonl", "arrow/val", "arrow/val/data-00000-of-00001.arrow"])
@pytest.mark.parametrize("deep", [True, False])
def test_sizes_come_from_images_from_headers_or_from_shards(synthetic: Path, what: str, deep: bool) -> None:
    whole = validate(synthetic, row_rules=[TokenBudget("tiny", 1)])
    root = None if what.startswith("arrow") else synthetic / "images"
    report = validate(synthetic / what, deep=deep, row_rules=[TokenBudget("tiny", 1, images_root=root)])
    assert reported(report) == reported(whole)
    assert report.stats.total("tokens_per_row") == whole.stats.total("tokens_per_row")


def test_images_lying_on_their_side_count_upright(tmp_path: Path) -> None:
    from PIL import Image

    tall = tmp_path / "images" / "tall.jpg"
    tall.parent.mkdir()
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn: 200x90 on disk, 90x200 to look at
    Image.new("RGB", (200, 90)).save(tall, exif=exif)
    line = {"id": "a", "source": "b", "conversations": [{"images": ["tall.jpg"], "user": "?", "assistant": "!"}]}
    (tmp_path / "val.jsonl").write_text(json.dumps(line) + "\n")
    found = {deep: reported(validate(tmp_path, deep=deep, row_rules=[TokenBudget("tiny", 1, num_crops=8,
             images_root=tmp_path / "images")])) for deep in (True, False)}  # fmt: skip
    processor = get_family("tiny").load_processor("tiny", image_options={"num_crops": 8})
    turn = Turn(images=("tall.jpg",), user="?", assistant="!")
    row = Conversation(id="a", source="b", conversations=(turn,))
    upright, lying = (
        get_family("tiny").measure(row, [size], processor).image_tokens for size in ((90, 200), (200, 90))
    )
    assert upright != lying
    assert [images for _, images in found[True]] == [upright]
    assert found[True] == found[False]


def test_workers_make_no_difference(synthetic: Path) -> None:
    budget = TokenBudget("tiny", 1)
    assert validate(synthetic, row_rules=[budget], num_workers=2) == validate(synthetic, row_rules=[budget])


def test_records_of_the_fast_path_measure_as_pydantics() -> None:
    budget = TokenBudget("tiny")
    for number, turns in enumerate(DIALOGUES):
        record = Conversation(id=f"v-{number}", source="s", conversations=turns)
        fast = fast_record(record.to_line().encode())
        assert fast is not None
        facts = (ImageFacts((150, 70)),) * len(record.image_paths)
        slow_length, fast_length = (budget.measure(RowContext("f", 1, "val", one, facts)) for one in (record, fast))
        assert isinstance(slow_length, Measured)
        assert slow_length == fast_length


def test_rows_that_wait_for_an_answer_count_as_prompts() -> None:
    family, budget = get_family("tiny"), TokenBudget("tiny")
    processor = family.load_processor("tiny")
    answered = Turn(images=("a.png",), user="What is it?", assistant="a fox")
    asked = Turn(images=("b.png",), user="And this?", assistant=None)
    prompt = Conversation(id="v", source="s", conversations=(answered, asked))
    twice = Conversation(id="v", source="s", conversations=(answered, asked, asked))
    wanted = family.measure(prompt, [(24, 16)] * 2, processor, generation=True)
    for record in (prompt, twice):  # the second question waits for the first one's answer
        facts = (ImageFacts((24, 16)),) * len(record.image_paths)
        assert budget.measure(RowContext("f", 1, "val", record, facts)) == wanted
        fast = fast_record(record.to_line().encode())
        assert fast is not None
        assert budget.measure(RowContext("f", 1, "val", fast, facts)) == wanted


def test_a_row_the_family_cannot_encode_is_a_warning(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"val": rows_with(DIALOGUES[:1], (1, 60))})
    report = validate(tmp_path, row_rules=[TokenBudget("tiny", 1)], ignore=["PV112"])
    assert [str(issue) for issue in report.issues] == [
        "ucf101_val.jsonl:1: tiny cannot encode it: an image of 1x60 is too thin for num_crops 1"
    ]
    assert report.ok
    assert report.stats.total("tokens_per_row") == {}


def test_rows_without_sizes_are_counted_never_left_out_silently(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"val": samples("val", 3)})
    first, second = sorted((tmp_path / "images/val/Archery").glob("*.0.png"))[:2]
    first.unlink()
    second.write_bytes(b"no image")
    deep = validate(tmp_path / "ucf101_val.jsonl", row_rules=[TokenBudget("tiny")])
    assert deep.counts() == {"PV101": 1, "PV102": 1, "PV251": 1}
    assert "2 rows were not measured" in deep.issues[0].message
    assert sum(deep.stats.total("tokens_per_row").values()) == 1
    budget = TokenBudget("tiny", images_root=tmp_path / "images")
    shallow = validate(tmp_path / "ucf101_val.jsonl", deep=False, row_rules=[budget])
    reported = {issue.json_path: issue.message for issue in shallow.issues if issue.code == "PV251"}
    assert "1 row was not measured" in reported[None]
    assert "no size of image" in reported["$.conversations[0].images[0]"]
    blind = validate(tmp_path / "ucf101_val.jsonl", images=False, row_rules=[TokenBudget("tiny")])
    assert [issue.message for issue in blind.issues] == [
        "3 rows were not measured in tokens: sizes of images are not known"
    ]


def test_unknown_families_tokenizers_and_numbers_are_usage_errors(synthetic: Path, tmp_path: Path) -> None:
    for wrong in (
        lambda: TokenBudget("tiny", 0),
        lambda: TokenBudget("tiny", num_crops=0),
        lambda: validate(synthetic, row_rules=[TokenBudget("nobody")]),
        lambda: validate(synthetic, row_rules=[TokenBudget("phi3_vision", tokenizer=str(tmp_path))]),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_a_family_without_the_members_needed_is_reported_with_all_of_them(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phiv_data.utils.plugins import Plugins
    from phiv_data.validation.rules import token_budget as budget

    monkeypatch.setattr(budget, "load_plugins", lambda *_: Plugins({"whole": object()}, {}))
    lacks = "missing: default_model, image_options, load_processor, measure, name"
    with pytest.raises(EnvironmentProblem, match=lacks):
        validate(synthetic, row_rules=[TokenBudget("whole")])
    monkeypatch.setattr(budget, "load_plugins", lambda *_: Plugins({}, {"torn": "torn (x:y): ImportError: no z"}))
    with pytest.raises(EnvironmentProblem, match="no z"):
        validate(synthetic, row_rules=[TokenBudget("torn")])


COMMAND = """
import sys
{before}
from phiv_data.cli.validate import main
sys.argv = ["phiv-validate", {path!r}, "--family", {family!r}, "--max_tokens", "100000", "--num_workers", "0"]
code = main()
assert "torch" not in sys.modules and "transformers" not in sys.modules
raise SystemExit(code)
"""


def run(path: Path, family: str = "tiny", before: str = "") -> tuple[int, str, str]:
    code = COMMAND.format(path=str(path), family=family, before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_the_command_needs_no_torch(synthetic: Path) -> None:
    code, out, err = run(synthetic)
    assert (code, err) == (0, "")
    assert ": valid" in out


@pytest.mark.parametrize("missing", ["tokenizers", "phiv_train"])
def test_a_missing_package_is_one_line_and_code_3(synthetic: Path, missing: str) -> None:
    code, out, err = run(synthetic, before=f"sys.modules[{missing!r}] = None")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert missing in err
    assert err.endswith('[train]"\n')
    assert " -m pip install " in err


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_tokens", "9"],
        ["--tokenizer", "x"],
        ["--num_crops", "1"],
        ["--image_option", "a=1"],
        ["--family", "tiny", "--no_images"],
    ],
)
def test_flags_that_do_not_go_together(
    synthetic: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from phiv_data.cli.validate import main

    monkeypatch.setattr(sys, "argv", ["phiv-validate", str(synthetic), *flags])
    assert main() == 2
    assert "--family" in capsys.readouterr().err


# Real data --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "ucf101"
    convert(Ucf101Options(shared / "samples/ucf101/UCF101_subset", num_frames=2), out, num_workers=0)
    return out


@pytest.fixture(scope="module")
def pages(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "docvqa"
    convert(DocvqaOptions(shared / "samples/docvqa/val"), out, num_workers=0)
    return out


@pytest.mark.parametrize("family", ["tiny", "phi3_vision"])
@pytest.mark.parametrize("data", ["clips", "pages"])
def test_real_rows_have_the_trainers_lengths(
    data: str, family: str, shared: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(data)
    tokenizer = str(shared / "phi-3.5-vision") if family == "phi3_vision" else None
    for split in ("train", "val") if data == "clips" else ("val",):
        lengths = trained(folder, split, family, tokenizer)
        report = validate(folder / f"{folder.name}_{split}.jsonl", row_rules=[TokenBudget(family, 1, tokenizer)])
        assert reported(report) == list(zip(lengths.tokens.tolist(), lengths.image_tokens.tolist(), strict=True))
