"""Files of external chat formats, validated as they are: the rows' own lines and paths, and no false findings."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_builders import conversations, image_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phiv_data.cli.validate import main
from phiv_data.formats import FORMATS
from phiv_data.validation import validate
from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.inputs.chat_dataset import ChatFile, find_chat_files, split_chat_file
from phiv_data.validation.inputs.chat_rows import full_record, read_chat_rows
from phiv_data.validation.partial_result import IssueCollector
from phiv_schemas import Conversation, UsageError, ValidationReport

NAMES = sorted(FORMATS)


def chat(user: Any, assistant: Any = "a fox", **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": user}, {"from": "gpt", "value": assistant}]} | more


def put(path: Path, rows: Any, **how: Any) -> Path:
    """Rows as a JSON array, or as lines by the suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, **how), encoding="utf-8")
    return path


def reported(report: ValidationReport) -> list[tuple[str, int | None, str | None]]:
    return [(issue.code, issue.line, issue.json_path) for issue in report.issues]


# Real files ---------------------------------------------------------------------------------------------------------

REAL = [  # every finding was looked at: the images are not among the samples, or the rows are video or pre-training
    ("llava_lmms_finetune", "", 4, {"PV101": 6}),
    ("llava_official/playground/data/coco2014_val_qa_eval/qa90_questions.jsonl", "", 90, {"PV101": 90, "PV403": 1}),
    ("qwen_vl_finetune/single_images.json", "", 3, {"PV101": 3}),
    ("qwen_vl_finetune/video.json", "", 3, {"PV504": 3}),
    ("sharegpt_llamafactory", "", 6, {}),
    ("mantis/train.json", "", 100, {"PV101": 320}),
    ("ms_swift/data", "", 15, {"PV505": 2}),
    ("xtuner/resource/mllm_sft_multi_image_example_data.jsonl", "xtuner", 11, {}),
    ("xtuner/resource/mllm_sft_single_image_example_data.jsonl", "xtuner", 22, {}),
    ("xtuner/resource/mllm_pretrain_image_example_data.jsonl", "xtuner", 12, {"PV502": 12}),
    ("xtuner/resource/openai_sft.jsonl", "", 128, {}),
]
OWN = ("PV0", "PV101", "PV4", "PV5")  # the tests of the rules about texts and images cover those


@pytest.mark.parametrize(("name", "root", "rows", "counts"), REAL, ids=[one[0] for one in REAL])
def test_real_files_of_other_tools(shared: Path, name: str, root: str, rows: int, counts: dict[str, int]) -> None:
    folder = shared / "samples" / "formats"
    report = validate(folder / name, images_root=folder / root if root else None)
    assert report.rows == rows
    assert {code: count for code, count in report.counts().items() if code.startswith(OWN)} == counts


# Properties -------------------------------------------------------------------------------------------------------


def renderings(name: str, some: list[Conversation]) -> list[Any]:
    return [json.loads(json.dumps(FORMATS[name].render(one))) for one in some]


def read(path: Path, name: str, piece_bytes: int) -> Iterator[Any]:
    for rows in split_chat_file(ChatFile(path, name), piece_bytes, IssueCollector()):
        for line in read_chat_rows(rows):
            record = line.conversation and full_record(line.conversation)
            yield line.number, record and record.to_wire()["conversations"], line.issues


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@given(some=st.lists(conversations(), min_size=1, max_size=4), indent=st.sampled_from([None, 1]))
def test_rendered_rows_are_rows_without_findings_however_the_file_is_cut(
    name: str, suffix: str, some: list[Conversation], indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = put(tmp_path_factory.mktemp("rows") / f"rows{suffix}", renderings(name, some), indent=indent)
    whole, parts = list(read(path, name, 2**20)), list(read(path, name, 1))
    assert whole == parts
    assert len(whole) == len(some)
    assert not any(issues for _, _, issues in whole)
    numbers = [number for number, _, _ in whole]
    assert numbers == sorted(set(numbers))
    if suffix == ".jsonl" or indent is None:
        assert numbers == list(range(1, len(some) + 1))
    else:
        lines = path.read_text(encoding="utf-8").split("\n")
        assert all(lines[number - 1] == " {" for number in numbers)


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations())
def test_the_detected_format_reads_the_same(
    name: str, conversation: Conversation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = FORMATS[name].render(conversation)
    path = put(tmp_path_factory.mktemp("rows") / "rows.jsonl", [record])
    (file,) = find_chat_files(path)
    said = json.loads(json.dumps(record))
    assert FORMATS[file.format].parse(said, "row").turns == FORMATS[name].parse(said, "row").turns


@given(conversation=conversations())
def test_a_file_of_phiv_itself_is_never_an_external_format(
    conversation: Conversation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text(conversation.to_line() + "\n", encoding="utf-8")
    assert find_chat_files(path) == []


# Lines, numbers, broken files ---------------------------------------------------------------------------------------


def test_blank_lines_a_mark_and_carriage_returns_do_not_shift_lines(tmp_path: Path) -> None:
    good, bad = json.dumps(chat("What?")).encode(), json.dumps(chat(7)).encode()
    (tmp_path / "rows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + good + b"\r\n\n  \n" + bad + b"\r\n" + good.replace(b"?", b"!")
    )
    report = validate(tmp_path / "rows.jsonl")
    assert (report.rows, reported(report)) == (3, [("PV006", 1, None), ("PV503", 4, "$.conversations[0].value")])


def test_elements_have_the_line_they_begin_on_or_their_number_where_lines_are_shared(tmp_path: Path) -> None:
    rows = [chat("Who?"), chat(7), chat("What?"), chat(8)]
    assert [line for _, line, _ in reported(validate(put(tmp_path / "flat.json", rows)))] == [2, 4]
    text = put(tmp_path / "long.json", rows, indent=2).read_text(encoding="utf-8").split("\n")
    lines = [line for _, line, _ in reported(validate(tmp_path / "long.json"))]
    assert [text[line - 1] for line in lines if line] == ["  {", "  {"]
    assert '"value": 7' in "".join(text[lines[0] or 0 :][:6])


@pytest.mark.parametrize(
    ("end", "code", "what"),
    [
        (b"", "PV004", "the file ends before the array does"),
        (b', {"conversations": [', "PV001", "not valid JSON"),
        (b", nonsense]", "PV001", "not valid JSON"),
        (b', "\xff"]', "PV005", "is not UTF-8"),
        (b"] []", "PV001", "continues after the end of its array"),
    ],
)
def test_of_a_broken_array_the_rows_before_are_checked(tmp_path: Path, end: bytes, code: str, what: str) -> None:
    path = put(tmp_path / "rows.json", [chat("Who?"), chat(7)], indent=1)
    path.write_bytes(path.read_bytes().rstrip().removesuffix(b"]").rstrip() + end)
    report = validate(path)
    (broken,) = [issue for issue in report.issues if issue.code == code]
    assert report.rows == 2
    assert what in broken.message
    assert "rows after it were not checked" in broken.message
    assert [issue.code for issue in report.issues if issue.code != code] == ["PV503"]


def test_lines_that_are_not_json_have_the_codes_of_any_jsonl(tmp_path: Path) -> None:
    good = json.dumps(chat("What?")).encode()
    twice = good.replace(b'"from": "gpt"', b'"from": "gpt", "from": "human"')
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([good, b"{oops", twice, good.replace(b"W", b"\xff"), good[:-9]]))
    report = validate(tmp_path / "rows.jsonl")
    assert reported(report) == [
        ("PV001", 2, None), ("PV003", 3, "$.conversations[1]"), ("PV005", 4, None), ("PV004", 5, None),
    ]  # fmt: skip
    assert report.rows == 5


def test_a_key_that_stands_twice_in_an_array_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([chat("What?")]).replace('"gpt"', '"gpt", "from": "human"'), encoding="utf-8")
    assert reported(validate(path)) == [("PV003", 1, "$.conversations[1]")]


def test_utf16_and_empty_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(chat("What?")) + "\n", encoding="utf-16")
    report = validate(tmp_path / "rows.jsonl", input_format="llava")
    assert ("PV005", 1, None) in reported(report)
    (tmp_path / "rows.json").write_text("[ ]")
    assert reported(validate(tmp_path / "rows.json", input_format="llava")) == [("PV202", None, None)]


# Paths --------------------------------------------------------------------------------------------------------------


def everything(row: RowContext) -> Iterator[Finding]:
    """A finding at every text of a row."""
    if row.conversation.system is not None:
        yield Finding("PV401", "$.system", row.conversation.system)
    for t, turn in enumerate(row.conversation.turns):
        yield Finding("PV401", f"$.conversations[{t}].user", turn.user)
        if turn.assistant is not None:
            yield Finding("PV401", f"$.conversations[{t}].assistant", turn.assistant)
        for i, path in enumerate(turn.images):
            yield Finding("PV401", f"$.conversations[{t}].images[{i}]", path)


OWN_PLACES = [
    (
        {"image": ["a", "b"], "system_prompt": "s", **chat("x<image>y<image>", "z")},
        {"s": "$.system_prompt", "xy": "$.conversations[0].value", "z": "$.conversations[1].value"}
        | {"a": "$.image[0]", "b": "$.image[1]"},
    ),
    (
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]},
        {"s": "$.messages[0].content", "q": "$.messages[1].content"},
    ),
    (
        {"query": "q", "response": "r", "history": [["a", "b"]], "system": "s"},
        {"q": "$.query", "r": "$.response", "a": "$.history[0][0]", "b": "$.history[0][1]", "s": "$.system"},
    ),
    (
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": "a"}]}], "completion": "r"},
        {"": "$.prompt[0].content", "a": "$.prompt[0].content[0]", "r": "$.completion"},
    ),
    (
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}],
        {"q": "$[0].content", "r": "$[1].content"},
    ),
]


@pytest.mark.parametrize(("row", "places"), OWN_PLACES)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_findings_of_every_rule_stand_at_the_rows_own_places(
    tmp_path: Path, row: Any, places: dict[str, str], suffix: str
) -> None:
    path = put(tmp_path / f"rows{suffix}", [row, row], indent=1)
    issues = [one for one in validate(path, images=False, row_rules=[everything]).issues if one.code == "PV401"]
    lines = {issue.line for issue in issues}
    assert len(lines) == 2
    for line in lines:
        assert {issue.message: issue.json_path for issue in issues if issue.line == line} == places


def test_ids_that_repeat_and_files_with_the_same_lines_are_fine(tmp_path: Path) -> None:
    for name in ("train.json", "val.jsonl"):
        put(tmp_path / name, [chat(f"Who is {i} of {name}?", str(i), id="7") for i in range(3)])
    assert validate(tmp_path).counts() == {}


# Images -------------------------------------------------------------------------------------------------------------


def test_images_are_searched_where_the_converter_searches(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "images"
    for path in (data / "a.png", data / "images" / "b.png", root / "c.png", tmp_path / "d.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_bytes(1))
    refs = ["a.png", "b.png", "./c.png", "../d.png", str(tmp_path / "d.png"), (root / "c.png").as_uri()]
    rows = put(data / "train.json", [chat("<image>" * len(refs) + "\nWhich?", image=refs)])
    assert reported(validate(rows, images_root=root)) == []
    assert reported(validate(rows)) == [("PV101", 1, "$.image[2]")]
    assert reported(validate(rows, images=False)) == []


def test_every_kind_of_bad_image_is_reported_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(image_bytes(1)[:60])
    (tmp_path / "folder.png").mkdir()
    uri = "data:image/png;base64," + base64.b64encode(image_bytes(2)).decode()
    refs = ["cut.png", "folder.png", "no.png", "x" * 5000, "nul\0.png", uri, uri[:-60], "data:image/png;base64,&"]
    rows = put(tmp_path / "train.json", [chat("<image>" * len(refs) + "\nWhich?", image=refs)])
    expected = ["PV102", "PV101", "PV101", "PV101", "PV101", "", "PV102", "PV102"]
    assert sorted(reported(validate(rows))) == sorted((c, 1, f"$.image[{i}]") for i, c in enumerate(expected) if c)
    assert sorted(reported(validate(rows, deep=False))) == [("PV101", 1, f"$.image[{i}]") for i in (1, 2, 3, 4)]


# Which files, which format ------------------------------------------------------------------------------------------


def test_a_folder_is_read_file_by_file_and_other_json_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "a.json", [chat("<image>", image="x")])
    put(tmp_path / "b.jsonl", [{"query": "q", "response": "r"}])
    put(tmp_path / "config.json", {"epochs": 3}, indent=1)
    assert [(file.path.name, file.format) for file in find_chat_files(tmp_path)] == [
        ("a.json", "llava"),
        ("b.jsonl", "swift"),
    ]


def test_names_of_dataset_info_are_read(tmp_path: Path) -> None:
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "talk"}}
    entry["tags"] = {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "you"}
    put(tmp_path / "dataset_info.json", {"mine": entry}, indent=1)
    put(
        tmp_path / "rows.json",
        [{"talk": [{"who": "me", "what": "q"}, {"who": "you", "what": "r"}]}, {"talk": [{"who": "it", "what": 1}]}],
    )
    assert reported(validate(tmp_path)) == [("PV502", 2, "$.talk[0]")]


def test_what_goes_wrong_before_the_rows_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be one of"):
        validate(put(tmp_path / "rows.json", [chat("q")]), input_format="coco")
    with pytest.raises(UsageError, match=r"holds rows of no format that phiv reads \(keys bbox\)"):
        validate(put(tmp_path / "coco.json", [{"bbox": [1, 2]}]))


def test_a_jsonl_that_no_tool_knows_is_named_or_read_as_phivs(tmp_path: Path) -> None:
    rows = put(tmp_path / "rows.jsonl", [{"text": "The sky is blue."}])
    with pytest.raises(UsageError, match=r"holds rows of no format that phiv reads \(keys text\)"):
        validate(rows)
    assert "PV002" in validate(rows, input_format="phiv").counts()
    assert "PV002" in validate(put(tmp_path / "rows.jsonl", [chat("q")]), input_format="phiv").counts()


def test_any_number_of_workers_gives_the_same_report(tmp_path: Path) -> None:
    rows = put(tmp_path / "rows.json", [chat(f"Who is {i}?" * 500, 7 if i % 50 == 0 else str(i)) for i in range(300)])
    assert validate(rows, num_workers=2) == validate(rows)


def test_the_command_says_what_it_takes_the_rows_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = put(tmp_path / "rows.json", [chat("<image>\nWhat?", image="x.png")])
    html = tmp_path / "report.html"
    monkeypatch.setattr(sys, "argv", ["phiv-validate", str(rows), "--format", "html", "--output", str(html)])
    assert main() == 1
    assert "rows.json: read as llava rows (change it with --input_format)" in capsys.readouterr().err
    assert "What?" in html.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["phiv-validate", str(rows), "--input_format", "llava", "--no_images"])
    assert main() == 0
    assert "read as" not in capsys.readouterr().err


# What was read wrongly once -----------------------------------------------------------------------------------------


def talk(user: str, images: Any = None) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": "a"}], "images": images}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (json.dumps(talk("u"), indent=1) * 2, "objects one after another"),
        (json.dumps(talk("u"), indent=1), "one row over several lines"),
        (json.dumps({"a": talk("u"), "b": talk("u")}), "one object of rows by key ('a', 'b', ...)"),
        (json.dumps({"data": [talk("u")]}), "one object, with rows under 'data'"),
        (json.dumps(talk("u")["messages"], indent=1), "one row, a list of messages over several lines"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_json_of_another_shape_is_named(name: str, text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        find_chat_files(tmp_path / name)
    assert what in str(error.value)
    assert "jq -c" in str(error.value)
    put(tmp_path / "good.jsonl", [talk("u")])
    named = [issue.message for issue in validate(tmp_path).issues if issue.code == "PV504"]
    assert [what in message for message in named] == [True]


def test_the_byte_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b'[\n"\xc4\xe3"]')
    with pytest.raises(UsageError, match=r"byte 0xc4 at byte \d+ \(line 2\) is not UTF-8"):
        find_chat_files(tmp_path / "rows.json")


def test_lines_of_bare_lists_may_begin_with_a_long_one(tmp_path: Path) -> None:
    rows = [talk("x" * 2**20)["messages"], talk("short")["messages"]]
    for count in (1, 2):
        report = validate(put(tmp_path / "rows.jsonl", rows[:count]))
        assert (report.rows, [issue.code for issue in report.issues]) == (count, [])


def test_a_missing_image_comes_with_what_was_likely_meant(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "img/a.jpg")
    rows = [talk("<image>u", [ref]) for ref in ("IMG/a.JPG", "old/img/a.jpg", "x" * 3000)]
    first, second, third = [
        issue for issue in validate(put(tmp_path / "rows.jsonl", rows)).issues if issue.code == "PV101"
    ]
    assert first.hint == "Did you mean 'img/a.jpg'?"
    assert second.hint == "Did you mean 'img/a.jpg'?"
    assert len(third.message) < 200


def test_an_image_in_the_row_is_never_printed_whole(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 5)).save(buffer, "PNG")
    bare = base64.b64encode(buffer.getvalue()).decode()
    rows = [talk("<image>u", [form]) for form in (bare, f"data:image/jpeg;base64,{bare}", bare[:80] + "\u00e9" * 4000)]
    report = validate(put(tmp_path / "rows.jsonl", rows))
    assert {issue.line for issue in report.issues if issue.code == "PV101"} == {3}
    assert all(len(issue.message) < 250 for issue in report.issues)


def test_a_name_with_a_colon_is_no_address(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "10:00:00.jpg")
    Image.new("RGB", (40, 40)).save(tmp_path / "img-10:00.jpg")
    rows = [talk(f"<image>{ref}", [ref]) for ref in ("10:00:00.jpg", "img-10:00.jpg", "https://x.org/a.jpg")]
    assert [
        issue.message
        for issue in validate(put(tmp_path / "rows.jsonl", rows)).issues
        if issue.code in ("PV101", "PV505")
    ] == ["1 image is an address, and not checked"]
