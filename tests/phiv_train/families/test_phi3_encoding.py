"""Ids, labels and lengths: the official processor's ids, the recipe's labels, text as data, exact lengths."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phiv_schemas import Conversation, Turn
from phiv_schemas.errors import RecordError, UsageError
from phiv_train.families.base import IGNORE, get_family
from phiv_train.families.phi3_vision.encoding import encode, measure, num_image_tokens, official_ids
from phiv_train.families.phi3_vision.processor import CONTROL_TOKENS, Processor
from phiv_train.families.tiny import control_ids, tiny_processor

MARKERS = ["<|end|>", "<|image_1|>", "<s>", "</s>", "<|endoftext|>", "<|user|>\n", "<|assistant|>", "<0x0A>", "<image>"]
# U+2581 is the tokenizer's own mark for a blank: it comes back as one.
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=12)
# hypothesis also draws string constants of the code under test: "<s>" controls in an official prompt.
UNMARKED = TEXTS.filter(lambda text: "<" not in text)
DATA = st.lists(st.one_of(TEXTS, st.sampled_from(MARKERS)), max_size=4).map("".join)


class GoldenTokenizer:
    """The toy tokenizer of the golden data: one id per character."""

    def encode(self, text: str) -> Sequence[int]:
        return [3 + ord(character) % 480 for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 3) for i in ids)


@pytest.fixture(scope="session")
def real(shared: Path) -> Processor:
    return Processor.from_folder(shared / "phi-3.5-vision")


@pytest.fixture(scope="session", params=["tiny", "real"])
def processor(request: pytest.FixtureRequest) -> Processor:
    return request.getfixturevalue("real") if request.param == "real" else tiny_processor()


@st.composite
def turns(draw: st.DrawFn) -> tuple[Turn, list[tuple[int, int]]]:
    sizes = draw(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=3))
    user, assistant = draw(DATA), draw(DATA)
    offsets = None
    if sizes and draw(st.booleans()):
        offsets = tuple(sorted(draw(st.integers(0, len(user))) for _ in sizes))
    names = tuple(f"{i}.png" for i in range(len(sizes)))
    return Turn(images=names, user=user, assistant=assistant, image_offsets=offsets), sizes


@st.composite
def dialogues(draw: st.DrawFn) -> tuple[Conversation, list[tuple[int, int]]]:
    dialogue = draw(st.lists(turns(), min_size=1, max_size=3))
    system = draw(st.none() | DATA)
    talk = Conversation(id="row", source="s", conversations=tuple(t for t, _ in dialogue), system=system)
    return talk, [size for _, sizes in dialogue for size in sizes]


def blank(sizes: Sequence[tuple[int, int]]) -> list[Any]:
    return [np.zeros((height, width, 3), np.uint8) for width, height in sizes]


def simple(*turns: Turn, system: str | None = None) -> Conversation:
    return Conversation(id="row", source="s", conversations=turns, system=system)


def answers(labels: Any, processor: Processor) -> list[str]:
    """The texts of the labelled spans."""
    spans: list[list[int]] = []
    for before, label in zip([IGNORE, *labels], labels, strict=False):
        if label != IGNORE:
            if before in (IGNORE, processor.pad_id):
                spans.append([])
            spans[-1].append(int(label))
    return [processor.decode(span) for span in spans]


def test_golden_ids_of_the_official_processor(shared: Path, real: Processor) -> None:
    golden = json.loads((shared / "golden" / "real_tokenizer_ids.json").read_text())
    for row in golden["rows"]:
        here = replace(real, num_crops=row["num_crops"])
        counts = [int(num_image_tokens(w, h, here)) for w, h in row["image_sizes_wh"] or []]
        expected: list[int] = []
        for item in row["input_ids_runlength"]:
            expected += [item[0]] * item[1] if isinstance(item, list) else [item]
        assert official_ids(row["text"], counts, here) == expected, row["text"]
    for text, ids in golden["plain"].items():
        assert official_ids(text, [], real)[1:] == ids


@pytest.mark.parametrize("case", ["a_single", "b_two", "c_frames8", "e_doc16"])
def test_golden_ids_of_the_model_cases(shared: Path, case: str) -> None:
    ids = {name: id_ - 31504 for name, id_ in _real_ids().items()} | {"<s>": 1}
    toy = Processor(GoldenTokenizer(), ids, rstrip=frozenset())
    facts = json.loads((shared / "golden" / "meta.json").read_text())["cases"][case]
    expected = np.load(shared / "golden" / f"{case}.npz")["input_ids"][0].tolist()
    assert official_ids(facts["text"], facts["num_img_tokens"], toy) == expected


def _real_ids() -> dict[str, int]:
    return dict(zip(CONTROL_TOKENS, [1, 32010, 32001, 32006, 32007, 32000, 32044], strict=True))


def test_ids_of_the_facts(real: Processor) -> None:
    turn = Turn(images=("a", "b"), user="Classify the video", assistant="BabyCrawling")
    sample = encode(simple(turn), blank([(320, 240)] * 2), real)
    text = [int(i) for i in sample.input_ids if i != 32044]
    assert text[:6] == [1, 32010, 29871, 13, 1, 1]
    assert text[6:] == [
        *(29871, 13, 2385, 1598, 278, 4863, 32007, 29871, 13, 32001),
        *(26835, 29907, 1610, 1847, 32007, 29871, 13, 32000),
    ]
    assert sample.labels[sample.labels != IGNORE].tolist() == text[-8:]
    assert int((sample.input_ids == 32044).sum()) == 2 * 757


def test_ucf_prompt_has_the_length_of_the_facts(real: Processor) -> None:
    names = "ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball"
    user = f"Classify the video into one of the following classes: {', '.join(names.split())}, "
    user += "BasketballDunk, BenchPress."
    talk = simple(Turn(images=tuple("abcdefgh"), user=user, assistant="Archery"))
    assert measure(talk, [(320, 240)] * 8, real, generation=True).tokens == 6131
    assert measure(talk, [(320, 240)] * 8, replace(real, num_crops=1), generation=True).tokens == 2579
    assert measure(talk, [(320, 240)] * 8, replace(real, num_crops=16), generation=True).tokens == 15443


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=UNMARKED, assistant=UNMARKED, count=st.integers(0, 3))
def test_a_turn_is_the_recipe_s_prompt_by_the_official_rules(
    processor: Processor, user: str, assistant: str, count: int
) -> None:
    tags = "".join(f"<|image_{i + 1}|>" for i in range(count))
    prompt = f"<|user|>\n{tags}\n{user}" if count else f"<|user|>\n{user}"
    talk = simple(Turn(images=tuple(map(str, range(count))), user=user, assistant=assistant))
    sample = encode(talk, blank([(20, 30)] * count), processor)
    slots = [int(num_image_tokens(20, 30, processor))] * count
    ids = official_ids(prompt + "<|end|>\n<|assistant|>\n", slots, processor)
    answer = official_ids(f"{assistant}<|end|>\n<|endoftext|>", [], processor)[1:]
    assert sample.input_ids.tolist() == [processor.image_id if i < 0 else i for i in ids + answer]


@settings(max_examples=60, deadline=None)
@given(dialogue=dialogues())
def test_measuring_needs_no_image_and_is_exact(
    processor: Processor, dialogue: tuple[Conversation, list[tuple[int, int]]]
) -> None:
    talk, sizes = dialogue
    for num_crops in (1, 4):
        here = replace(processor, num_crops=num_crops)
        if any(num_image_tokens(w, h, here) == 0 for w, h in sizes):
            with pytest.raises(RecordError, match="too thin"):
                measure(talk, sizes, here)
            continue
        for generation in (False, True):
            sample = encode(talk, blank(sizes), here, generation=generation)
            assert len(sample) == measure(talk, sizes, here, generation=generation).tokens


@settings(max_examples=80, deadline=None)
@given(dialogue=dialogues())
def test_text_is_data_and_answers_come_back(
    processor: Processor, dialogue: tuple[Conversation, list[tuple[int, int]]]
) -> None:
    talk = dialogue[0]
    sample = encode(talk, blank([(30, 30)] * len(dialogue[1])), processor)
    assert answers(sample.labels.tolist(), processor) == [turn.assistant for turn in talk.turns]
    ids = sample.input_ids.tolist()
    count = len(talk.turns)
    assert ids.count(processor.control_ids["<|user|>"]) == count
    assert ids.count(processor.control_ids["<|assistant|>"]) == count
    assert ids.count(processor.control_ids["<|endoftext|>"]) == count
    assert ids.count(processor.control_ids["<|end|>"]) == 2 * count + (talk.system is not None)
    assert ids.count(processor.control_ids["<s>"]) == count + len(dialogue[1])


@settings(max_examples=60, deadline=None)
@given(text=DATA)
def test_plain_text_comes_back_and_never_holds_a_control_token(processor: Processor, text: str) -> None:
    ids = processor.tokenizer.encode(text)
    assert processor.tokenizer.decode(ids) == text
    assert not set(ids) & set(processor.control_ids.values())


@settings(max_examples=40, deadline=None)
@given(dialogue=dialogues(), data=st.data())
def test_the_prompt_of_turn_t_is_the_prefix_the_model_was_trained_on(
    dialogue: tuple[Conversation, list[tuple[int, int]]], data: st.DataObject
) -> None:
    processor, talk = tiny_processor(), dialogue[0]
    stop = data.draw(st.integers(1, len(talk.turns)))
    asked = Conversation(id="row", source="s", conversations=talk.turns[:stop], system=talk.system)
    whole = encode(talk, blank([(30, 30)] * len(talk.image_paths)), processor)
    prompt = encode(asked, blank([(30, 30)] * len(asked.image_paths)), processor, generation=True)
    assert prompt.input_ids.tolist() == whole.input_ids[: len(prompt)].tolist()
    assert (prompt.labels == IGNORE).all()
    assert whole.labels[len(prompt)] != IGNORE
    assert whole.labels[len(prompt) - 1] == IGNORE


def test_a_dialogue_is_its_turns_one_after_another() -> None:
    processor = tiny_processor()
    first = Turn(images=("a",), user="What is it?", assistant="A")
    second = Turn(images=("b", "c"), user="And these?", assistant="B")
    whole = encode(simple(first, second), blank([(9, 9), (99, 20), (20, 99)]), processor)
    parts = [
        encode(simple(first), blank([(9, 9)]), processor),
        encode(simple(second), blank([(99, 20), (20, 99)]), processor),
    ]
    for field in ("input_ids", "labels"):
        assert np.array_equal(getattr(whole, field), np.concatenate([getattr(p, field) for p in parts]))
    assert np.array_equal(whole.media["crops"], np.concatenate([p.media["crops"] for p in parts]))


def test_offsets_place_images_inside_the_text(real: Processor) -> None:
    turn = Turn(images=("a", "b"), user="Text first  then text", assistant="", image_offsets=(11, 21))
    sample = encode(simple(turn), blank([(640, 480)] * 2), real, generation=True)
    prompt = "<|user|>\nText first <|image_1|> then text<|image_2|><|end|>\n<|assistant|>\n"
    expected = official_ids(prompt, [757, 757], real)
    assert sample.input_ids.tolist() == [32044 if i < 0 else i for i in expected]


def test_a_system_prompt_is_the_official_one(real: Processor) -> None:
    talk = simple(Turn(images=(), user="Hello there", assistant=None), system="You are helpful.")
    text = "<|system|>\nYou are helpful.<|end|>\n<|user|>\nHello there<|end|>\n<|assistant|>\n"
    assert encode(talk, [], real, generation=True).input_ids.tolist() == official_ids(text, [], real)


def test_an_answer_that_is_null_cannot_be_supervised_but_can_be_asked_for() -> None:
    talk = simple(Turn(images=(), user="a", assistant="b"), Turn(images=(), user="c", assistant=None))
    with pytest.raises(RecordError, match=r"row: \$\.conversations\[1\]\.assistant: is null"):
        encode(talk, [], tiny_processor())
    assert len(encode(talk, [], tiny_processor(), generation=True)) > 0


def test_another_number_of_images_than_named_is_refused() -> None:
    talk = simple(Turn(images=("a",), user="a", assistant="b"))
    with pytest.raises(RecordError, match="row: names 1 images, 2 were given"):
        encode(talk, blank([(9, 9)] * 2), tiny_processor())
    with pytest.raises(RecordError, match="row: names 1 images, 0 were given"):
        measure(talk, [], tiny_processor())


@pytest.mark.parametrize("text", ["<|image_2|>", "<|image_1|><|image_1|>", "none"])
def test_official_prompts_number_their_images_from_1_once_each(text: str) -> None:
    with pytest.raises(RecordError, match="Number them"):
        official_ids(text, [13], tiny_processor())


def test_decoding_stops_at_the_first_stop_id_and_skips_control_tokens(processor: Processor) -> None:
    ids = processor.tokenizer.encode("two words")
    control = processor.control_ids
    noisy = [control["<|user|>"], *ids, control["<|end|>"], *processor.tokenizer.encode("more")]
    assert processor.decode(noisy) == "two words"
    assert processor.decode([*ids, control["<|endoftext|>"]]) == "two words"
    assert processor.decode(ids) == "two words"


def test_saved_and_loaded_it_is_the_same(processor: Processor, tmp_path: Path) -> None:
    changed = replace(processor, num_crops=7)
    changed.save(tmp_path)
    loaded = Processor.from_folder(tmp_path)
    assert loaded.num_crops == 7
    assert loaded.spec_hash == changed.spec_hash != processor.spec_hash
    text = "zażółć 你好 🙂 <|end|>"
    assert list(loaded.tokenizer.encode(text)) == list(processor.tokenizer.encode(text))
    assert Processor.from_folder(tmp_path, num_crops=processor.num_crops).spec_hash == processor.spec_hash


def test_saved_files_are_the_official_ones_with_pointers_to_the_hub(
    real: Processor, shared: Path, tmp_path: Path
) -> None:
    real.save(tmp_path)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (shared / "phi-3.5-vision" / name).read_bytes()
    for name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        saved, official = (json.loads((f / name).read_text()) for f in (tmp_path, shared / "phi-3.5-vision"))
        hub = "microsoft/Phi-3.5-vision-instruct--"
        assert saved.pop("auto_map") == {k: hub + v for k, v in official.pop("auto_map").items()}
        assert saved == official


def test_a_worker_gets_the_same_processor(processor: Processor) -> None:
    copy = pickle.loads(pickle.dumps(processor))
    assert copy.spec_hash == processor.spec_hash
    assert list(copy.tokenizer.encode("a <|end|>")) == list(processor.tokenizer.encode("a <|end|>"))


def test_a_folder_without_a_tokenizer_and_a_external_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        Processor.from_folder(tmp_path)
    with pytest.raises(UsageError, match=r"has no <\|user\|>"):
        Processor(GoldenTokenizer(), {k: v for k, v in control_ids().items() if k != "<|user|>"})
    with pytest.raises(UsageError, match="at least 1"):
        tiny_processor(0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("preprocessor_config.json", b'{"num_crops": "four"}', "num_crops is 'four', not a whole number"),
        ("preprocessor_config.json", b'{"num_crops": 4.5}', "num_crops is 4.5, not a whole number"),
        ("preprocessor_config.json", b'{"num_img_tokens": null}', "num_img_tokens is None, not a whole number"),
        ("preprocessor_config.json", b'{"num_img_tokens": -1}', "num_img_tokens is -1, not a whole number"),
        ("preprocessor_config.json", b'{"crop_size": [336]}', r"crop_size is \[336\], not a whole number"),
        ("preprocessor_config.json", b"[]", "is not a JSON object"),
        ("preprocessor_config.json", b"\xff\xfe", "is not UTF-8"),
        ("tokenizer.json", b"{}", "is not a tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "is not UTF-8"),
        ("tokenizer.json", b'{"added_tokens": [{}]}', "is not a tokenizer"),
        ("tokenizer.json", b'{"added_tokens": 3}', "is not a tokenizer"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    tiny_processor().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name}: {message}"):
        Processor.from_folder(tmp_path)


def test_another_tokenizer_is_another_hash_also_when_built_from_parts() -> None:
    class Shifted(GoldenTokenizer):
        def __init__(self, by: int) -> None:
            self.by = by

        def encode(self, text: str) -> Sequence[int]:
            return [self.by + i for i in super().encode(text)]

    hashes = [Processor(Shifted(by), control_ids()).spec_hash for by in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


# -- tokens that users add ---------------------------------------------------------------------------------------------
def with_tokens(processor: Processor, *tokens: dict[str, Any], config: dict[str, Any] | None = None) -> Processor:
    """The processor of files whose tokenizer.json has these added tokens too, and this tokenizer_config.json."""
    spec = json.loads(processor.files["tokenizer.json"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    spec["added_tokens"] += [flags | token for token in tokens]
    files = {**processor.files, "tokenizer.json": json.dumps(spec)}
    if config is not None:
        files["tokenizer_config.json"] = json.dumps(json.loads(files["tokenizer_config.json"]) | config)
    return Processor.from_files(files)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", ["<loc_1>", "<|grounding|>", "[IMG]"])
def test_a_token_that_was_added_is_one_position_in_a_text(name: str, special: bool) -> None:
    processor = with_tokens(tiny_processor(), {"content": name, "id": 597, "special": special})
    ids = list(processor.tokenizer.encode(f"at {name} or {name}<|end|>"))
    assert ids.count(597) == 2
    assert control_ids()["<|end|>"] not in ids
    assert processor.decode(ids) == f"at {name} or {name}<|end|>"
    assert processor.text([597, 1]) == f"{name}<s>"
    assert processor.spec_hash != tiny_processor().spec_hash


def test_a_token_of_the_configuration_alone_is_one_position_too() -> None:
    token = {"content": "<loc_1>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    processor = with_tokens(tiny_processor(), config={"added_tokens_decoder": {"630": token | {"special": False}}})
    assert 630 in processor.tokenizer.encode("at <loc_1>")


def test_two_tokens_of_one_id_are_refused() -> None:
    with pytest.raises(UsageError, match=r"gives the id 300 to '.+' and '<loc_1>'"):
        with_tokens(tiny_processor(), {"content": "<loc_1>", "id": 300})


def test_a_token_beyond_the_embedding_is_refused_before_training(tmp_path: Path) -> None:
    family = get_family("tiny")
    family.save(*family.load("tiny"), tmp_path)
    with_tokens(tiny_processor(), {"content": "<loc_1>", "id": 639}).save(tmp_path)
    family.load(str(tmp_path))
    with_tokens(tiny_processor(), {"content": "<loc_2>", "id": 640}).save(tmp_path)
    with pytest.raises(UsageError, match=r"the id 640 of '<loc_2>' has no row in the model's embedding \(640 rows\)"):
        family.load(str(tmp_path))


def test_a_tokenizer_saved_again_by_another_version_is_the_same_processor(processor: Processor) -> None:
    """Other versions write merges as text or pairs, and add keys at their defaults."""
    spec = json.loads(processor.files["tokenizer.json"])
    spec["model"]["merges"] = [
        " ".join(pair) if isinstance(pair, list) else pair.split(" ") for pair in spec["model"]["merges"]
    ]
    spec["model"] |= {"ignore_merges": False, "dropout": None}
    spec["post_processor"] = None
    again = Processor.from_files({**processor.files, "tokenizer.json": json.dumps(spec)})
    assert again.spec_hash == processor.spec_hash
    spec["normalizer"] = None
    other = Processor.from_files({**processor.files, "tokenizer.json": json.dumps(spec)})
    assert other.spec_hash != processor.spec_hash


def test_other_readers_of_a_saved_tiny_tokenizer_give_its_ids(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    ours = tiny_processor()
    ours.save(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    for text in ("<|user|>\nWhat is  in é🙂 image?<|end|>\n<|assistant|>\nBouncing Ball<|end|>\n<|endoftext|>", "a"):
        expected = official_ids(text, [], ours)
        assert Tokenizer.from_file(file).encode(text).ids == expected
        assert PreTrainedTokenizerFast(tokenizer_file=file)(text).input_ids == expected
