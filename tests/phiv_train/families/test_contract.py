"""The law of the seam: what every family must do for the trainer. Runs for each installed family it can load offline.

A family's own package may run it too: a family whose `load(<its own name>)` works without the network is picked up.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from phiv_schemas import Conversation, Turn
from phiv_schemas.errors import PhivError, RecordError
from phiv_train.families.base import IGNORE, Encoded, Family, Part, family_names, get_family


@dataclass(frozen=True)
class Loaded:
    family: Family
    model: Any
    processor: Any

    def encode(self, talk: Conversation, *, generation: bool = False) -> Encoded:
        return self.family.encode(talk, images(talk), self.processor, generation=generation)


@pytest.fixture(scope="module", params=family_names())
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    family, path = get_family(request.param), request.param
    if request.param == "phi3_vision":  # the real family on a toy checkpoint
        path = str(tmp_path_factory.mktemp("toy") / "checkpoint")
        tiny = get_family("tiny")
        tiny.save(*tiny.load("tiny"), Path(path))
    try:
        model, processor = family.load(path)
    except PhivError as error:
        pytest.skip(f"{request.param} cannot be loaded offline: {error}")
    return Loaded(family, model, processor)


def turn(user: str, assistant: str | None, count: int = 0) -> Turn:
    return Turn(images=tuple(f"{user}/{i}.png" for i in range(count)), user=user, assistant=assistant)


def talk(*turns: Turn) -> Conversation:
    return Conversation(id=turns[0].user, source="s", conversations=turns)


def sizes(conversation: Conversation) -> list[tuple[int, int]]:
    return [(20 + 7 * len(path), 30 + 40 * (i % 2)) for i, path in enumerate(conversation.image_paths)]


def images(conversation: Conversation) -> list[Image.Image]:
    rng = np.random.default_rng(len(conversation.id))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes(conversation)]


TALKS = (
    talk(turn("one image", "Yes", 1)),
    talk(turn("text only", "No")),
    talk(turn("images in later turns", "A"), turn("b", "B", 2), turn("c", "C, and D")),
    talk(turn("three", "a long answer, with commas", 3)),
)
CASES = pytest.mark.parametrize("conversation", TALKS, ids=lambda c: c.id.replace(" ", "_"))


def loss(loaded: Loaded, samples: Sequence[Encoded], layout: Any) -> torch.Tensor:
    batch = loaded.family.collate(samples, loaded.processor, layout=layout)
    return loaded.model(**batch).loss


def supervised(samples: Sequence[Encoded]) -> int:
    return sum(int((s.labels != IGNORE).sum()) for s in samples)


def owner(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == p or (p.endswith(".") and name.startswith(p)) for p in prefixes)


def test_it_is_a_family_under_its_own_name(loaded: Loaded) -> None:
    assert isinstance(loaded.family, Family)
    assert get_family(loaded.family.name) is loaded.family


def test_parts_cover_the_model_without_overlap(loaded: Loaded) -> None:
    parts = loaded.family.parts(loaded.model)
    for name, _ in loaded.model.named_parameters():
        assert [p for p, part in parts.items() if owner(name, part.parameters)], name
        assert sum(owner(name, part.parameters) for part in parts.values()) == 1, name


def test_parts_name_linear_modules_and_idle_parameters_that_exist(loaded: Loaded) -> None:
    names = [name for name, _ in loaded.model.named_parameters()]
    for part in loaded.family.parts(loaded.model).values():
        assert isinstance(part, Part)
        for name in part.linear:
            assert isinstance(loaded.model.get_submodule(name), nn.Linear), name
            assert owner(f"{name}.weight", part.parameters), name
        for prefix in (*part.parameters, *part.idle):
            assert any(owner(name, [prefix]) for name in names), prefix


@CASES
@pytest.mark.parametrize("generation", [False, True])
def test_length_is_exact(loaded: Loaded, conversation: Conversation, generation: bool) -> None:
    expected = len(loaded.encode(conversation, generation=generation))
    found = loaded.family.length(conversation, sizes(conversation), loaded.processor, generation=generation)
    assert found == expected


@CASES
def test_labels_are_answers_only_and_survive_a_worker(loaded: Loaded, conversation: Conversation) -> None:
    sample = loaded.encode(conversation)
    assert sample.id == conversation.id
    assert sample.input_ids.dtype == sample.labels.dtype == np.int64
    learnt = sample.labels != IGNORE
    assert np.array_equal(sample.labels[learnt], sample.input_ids[learnt])
    assert not learnt[0]
    starts = int((np.diff(learnt.astype(int)) == 1).sum())
    assert starts == len(conversation.turns)
    first = int(np.flatnonzero(learnt)[0])
    assert loaded.processor.decode(sample.labels[first:].tolist()) == conversation.turns[0].assistant
    copy = pickle.loads(pickle.dumps(sample))
    assert np.array_equal(copy.input_ids, sample.input_ids)


@CASES
def test_the_question_is_a_prefix_of_what_was_learnt(loaded: Loaded, conversation: Conversation) -> None:
    whole, asked = loaded.encode(conversation), loaded.encode(conversation, generation=True)
    assert np.array_equal(whole.input_ids[: len(asked)], asked.input_ids)
    assert (asked.labels == IGNORE).all()
    assert whole.labels[len(asked)] != IGNORE


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400))
def test_an_image_takes_the_positions_its_size_says(loaded: Loaded, width: int, height: int) -> None:
    count = int(loaded.family.num_image_tokens(width, height, loaded.processor))
    one, other = talk(turn("x", "y", 1)), talk(turn("x", "y", 2))
    if not count:
        with pytest.raises(RecordError):
            loaded.family.length(one, [(width, height)], loaded.processor)
        return
    image = Image.new("RGB", (width, height))
    lengths = [len(loaded.family.encode(c, [image] * n, loaded.processor)) for n, c in ((1, one), (2, other))]
    assert count <= lengths[1] - lengths[0] <= count + 8


def test_many_sizes_are_counted_at_once(loaded: Loaded) -> None:
    widths, heights = np.array([10, 300, 77]), np.array([90, 20, 77])
    together = loaded.family.num_image_tokens(widths, heights, loaded.processor)
    assert together.shape == (3,)
    each = [int(loaded.family.num_image_tokens(w, h, loaded.processor)) for w, h in zip(widths, heights, strict=True)]
    assert together.tolist() == each


def test_what_does_not_fit_is_refused_with_the_id(loaded: Loaded) -> None:
    with pytest.raises(RecordError, match="one image"):
        loaded.family.encode(TALKS[0], [], loaded.processor)
    with pytest.raises(RecordError, match="unlabeled"):
        loaded.encode(talk(turn("unlabeled", None)))


def test_a_packed_batch_is_one_row_with_restarting_positions(loaded: Loaded) -> None:
    samples = [loaded.encode(c) for c in TALKS]
    batch = loaded.family.collate(samples, loaded.processor, layout="packed")
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    assert "attention_mask" not in batch
    assert batch["input_ids"].tolist() == [[i for s in samples for i in s.input_ids.tolist()]]
    assert batch["labels"].tolist() == [[i for s in samples for i in s.labels.tolist()]]
    assert batch["position_ids"].tolist() == [[i for s in samples for i in range(len(s))]]


@pytest.mark.parametrize("layout", ["left", "right"])
def test_a_padded_batch_has_a_mask_from_lengths(loaded: Loaded, layout: Any) -> None:
    samples = [loaded.encode(c) for c in TALKS]
    batch = loaded.family.collate(samples, loaded.processor, layout=layout)
    longest = max(map(len, samples))
    assert batch["attention_mask"].sum(1).tolist() == [len(s) for s in samples]
    for row, sample in enumerate(samples):
        kept = slice(longest - len(sample), None) if layout == "left" else slice(len(sample))
        assert batch["attention_mask"][row, kept].all()
        assert batch["input_ids"][row, kept].tolist() == sample.input_ids.tolist()
        assert batch["position_ids"][row, kept].tolist() == list(range(len(sample)))
        assert int((batch["labels"][row] != IGNORE).sum()) == supervised([sample])


def test_layouts_and_single_samples_agree_on_the_loss(loaded: Loaded) -> None:
    samples = [loaded.encode(c) for c in TALKS]
    with torch.no_grad():
        alone = sum(loss(loaded, [s], "packed") * supervised([s]) for s in samples) / supervised(samples)
        for layout in ("packed", "left", "right"):
            assert float(loss(loaded, samples, layout)) == pytest.approx(float(alone), abs=2e-5)


def test_every_parameter_but_the_idle_gets_a_gradient(loaded: Loaded) -> None:
    loaded.model.zero_grad()
    loss(loaded, [loaded.encode(c) for c in TALKS], "packed").backward()
    idle = [name for part in loaded.family.parts(loaded.model).values() for name in part.idle]
    for name, parameter in loaded.model.named_parameters():
        assert (parameter.grad is None) == owner(name, idle), name
    loaded.model.zero_grad()


def test_answers_of_a_left_padded_batch_equal_those_asked_alone(loaded: Loaded) -> None:
    samples = [loaded.encode(c, generation=True) for c in TALKS]

    def ask(batch: list[Encoded]) -> list[str]:
        inputs = loaded.family.collate(batch, loaded.processor, layout="left")
        del inputs["labels"], inputs["position_ids"]
        stop = list(loaded.processor.stop_ids)
        out = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=stop)
        return [loaded.processor.decode(row) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]

    assert ask(samples) == [ask([sample])[0] for sample in samples]


def test_saved_and_loaded_it_answers_the_same(loaded: Loaded, tmp_path: Path) -> None:
    loaded.family.save(loaded.model, loaded.processor, tmp_path / "out")
    model, processor = loaded.family.load(str(tmp_path / "out"))
    assert processor.spec_hash == loaded.processor.spec_hash
    batch = loaded.family.collate([loaded.encode(TALKS[2])], loaded.processor)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, loaded.model(**batch).logits)
