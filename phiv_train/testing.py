"""Does a model family keep the interface? Load a small model of it, and the checks compare what it promises with it.

    @pytest.fixture(scope="module")
    def loaded() -> LoadedFamily:
        return load_family("smolvlm_toy")                      # or load_family("phi3_vision", "toy/checkpoint")

    @pytest.mark.parametrize("check", family_checks(), ids=lambda check: check.__name__)
    def test_it_keeps_the_interface(check: Check, loaded: LoadedFamily) -> None:
        check(loaded)                                          # AssertionError: what is wrong

The model should be a toy (a few layers, random weights, float32 on the CPU): every check runs it, some backwards.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from phiv_schemas import Conversation, Turn
from phiv_schemas.errors import RecordError
from phiv_train.families.base import IGNORE, Encoded, Family, Layout, Measured, Size, get_family, training_inputs
from phiv_train.training.loss import TokenLoss

__all__ = ["Check", "LoadedFamily", "family_checks", "load_family"]


@dataclass(frozen=True)
class LoadedFamily:
    """A family with a model and a processor of it."""

    family: Family
    model: Any
    processor: Any

    def encode(self, conversation: Conversation, *, generation: bool = False) -> Encoded:
        """The sample, with noise for images."""
        return self.family.encode(conversation, noise(conversation), self.processor, generation=generation)

    def loss(self, samples: Sequence[Encoded], layout: Layout = "packed") -> Tensor:
        """The mean loss of a batch, as the trainer computes it."""
        batch = self.family.collate(samples, self.processor, layout=layout)
        labels = batch.pop("labels")
        outputs = self.model(**training_inputs(self.family, batch))
        return TokenLoss(self.model.get_output_embeddings(), self.family.hidden_states)(outputs, labels)


Check = Callable[[LoadedFamily], None]


def load_family(name: str, path: str | None = None) -> LoadedFamily:
    """The installed family `name` with the model at `path`, by default the family's own."""
    family = get_family(name)
    return LoadedFamily(family, *family.load(path or family.default_model))


def family_checks() -> list[Check]:
    """All checks, one idea each."""
    return [
        check_name,
        check_components_cover_the_model,
        check_components_name_what_exists,
        check_measure_equals_encode,
        check_image_sizes,
        check_image_spans,
        check_labels,
        check_prompt_is_a_prefix,
        check_wrong_input_is_refused,
        check_packed_batch,
        check_padded_batches,
        check_layouts_agree,
        check_hidden_states,
        check_gradients,
        check_text_only_batches,
        check_generation,
        check_processor,
        check_skeleton,
        check_preview,
        check_saving,
    ]


# What is tried -------------------------------------------------------------------------------------------------------


def turn(user: str, assistant: str | None, count: int = 0) -> Turn:
    """A turn with `count` images before its text."""
    return Turn(images=tuple(f"{user}/{i}.png" for i in range(count)), user=user, assistant=assistant)


def conversation(*turns: Turn, system: str | None = None) -> Conversation:
    """A conversation whose id is its first question."""
    return Conversation(id=turns[0].user, source="s", system=system, conversations=turns)


def sizes(talk: Conversation) -> list[Size]:
    """(width, height) of its images, by their names."""
    return [(20 + 7 * len(path), 30 + 40 * (i % 2)) for i, path in enumerate(talk.image_paths)]


def noise(talk: Conversation) -> list[Image.Image]:
    """Images of these sizes, the same ones every time."""
    rng = np.random.default_rng(len(talk.id))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes(talk)]


TALKS = (
    conversation(turn("one image", "Yes", 1)),
    conversation(turn("text only", "No"), system="Be brief"),
    conversation(turn("images in later turns", "A"), turn("b", "B", 2), turn("c", "C, and D")),
    conversation(turn("three", "a long answer, with commas", 3)),
    conversation(
        Turn(images=("in/0.png", "in/1.png"), image_offsets=(0, 5), user="First and second?", assistant="Both")
    ),
)
TEXTS = (conversation(turn("text only", "No")), conversation(turn("nor here", "An answer")))


def count_supervised(samples: Sequence[Encoded]) -> int:
    """Labelled tokens of all samples."""
    return sum(int((sample.labels != IGNORE).sum()) for sample in samples)


def is_below(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a parameter is one of `prefixes`, or below one that ends in a dot."""
    return any(name == prefix or (prefix.endswith(".") and name.startswith(prefix)) for prefix in prefixes)


# Checks --------------------------------------------------------------------------------------------------------------


def check_name(loaded: LoadedFamily) -> None:
    """The entry point's name is the family's, and it survives the way to a worker."""
    assert get_family(loaded.family.name) is loaded.family
    assert pickle.loads(pickle.dumps(loaded.family)).name == loaded.family.name


def check_components_cover_the_model(loaded: LoadedFamily) -> None:
    """Every parameter is in one component; `vision` and `projector` are among them."""
    components = loaded.family.components(loaded.model)
    assert {"vision", "projector"} <= components.keys()
    for name, _ in loaded.model.named_parameters():
        owners = [key for key, component in components.items() if is_below(name, component.parameters)]
        assert len(owners) == 1, f"{name} is in the components {owners}, not in one"


def check_components_name_what_exists(loaded: LoadedFamily) -> None:
    """Linear modules are linear and of their component; every pattern matches a parameter."""
    names = [name for name, _ in loaded.model.named_parameters()]
    for component in loaded.family.components(loaded.model).values():
        for name in component.linear:
            assert isinstance(loaded.model.get_submodule(name), nn.Linear), name
            assert is_below(f"{name}.weight", component.parameters), name
        for prefix in (*component.parameters, *component.unused):
            assert any(is_below(name, [prefix]) for name in names), prefix


def check_measure_equals_encode(loaded: LoadedFamily) -> None:
    """`measure` gives the numbers of the encoded sample, for training and for generation."""
    for talk in TALKS:
        for generation in (False, True):
            check_measured(loaded, talk, noise(talk), generation=generation)


def check_measured(
    loaded: LoadedFamily, talk: Conversation, images: Sequence[Image.Image], *, generation: bool = False
) -> Measured:
    """What `measure` gives for the sizes of `images`, which must be what `encode` makes of them."""
    sample = loaded.family.encode(talk, images, loaded.processor, generation=generation)
    measured = loaded.family.measure(talk, [image.size for image in images], loaded.processor, generation=generation)
    found = (measured.tokens, measured.supervised, measured.image_tokens)
    spans = sample.image_spans
    assert found == (len(sample), count_supervised([sample]), int((spans[:, 1] - spans[:, 0]).sum())), talk.id
    assert (measured.vision_cost > 0) == bool(images), talk.id
    return measured


def check_image_sizes(loaded: LoadedFamily) -> None:
    """Of images of any size, also very thin ones: exact, or refused by both `measure` and `encode`."""
    for width, height in ((1, 1), (400, 3), (3, 400), (57, 56), (200, 311), (640, 480)):
        check_image_size(loaded, width, height)


def check_image_size(loaded: LoadedFamily, width: int, height: int) -> None:
    """An image of this size takes what its size says; a second one takes as much, and at most 8 tokens between them."""
    one, two = (conversation(turn("x", "y", count)) for count in (1, 2))
    image = Image.new("RGB", (width, height))
    try:
        first = check_measured(loaded, one, [image])
    except RecordError:
        for attempt in (loaded.family.measure, loaded.family.encode):
            given: Any = [(width, height)] if attempt == loaded.family.measure else [image]
            try:
                attempt(one, given, loaded.processor)
            except RecordError:
                continue
            raise AssertionError(f"{width}x{height} is refused by one of measure and encode only") from None
        return
    second = check_measured(loaded, two, [image, image])
    assert second.image_tokens == 2 * first.image_tokens
    assert first.image_tokens <= second.tokens - first.tokens <= first.image_tokens + 8


def check_image_spans(loaded: LoadedFamily) -> None:
    """One span per image, in order, without overlap and without labels."""
    for talk in TALKS:
        sample = loaded.encode(talk)
        assert sample.image_spans.dtype == np.int64
        assert sample.image_spans.shape == (len(talk.image_paths), 2), talk.id
        ends = [0, *sample.image_spans.flatten().tolist(), len(sample)]
        assert ends == sorted(ends), talk.id
        for start, stop in sample.image_spans.tolist():
            assert stop > start
            assert (sample.labels[start:stop] == IGNORE).all(), talk.id


def check_labels(loaded: LoadedFamily) -> None:
    """Answers alone are labelled, with their own ids; the sample survives the way from a worker."""
    for talk in TALKS:
        sample = loaded.encode(talk)
        assert sample.id == talk.id
        assert sample.input_ids.dtype == sample.labels.dtype == np.int64
        is_supervised = sample.labels != IGNORE
        assert np.array_equal(sample.labels[is_supervised], sample.input_ids[is_supervised])
        assert not is_supervised[0]
        assert int((np.diff(is_supervised.astype(int)) == 1).sum()) == len(talk.turns)
        first = int(np.flatnonzero(is_supervised)[0])
        assert loaded.processor.decode(sample.labels[first:].tolist()) == talk.turns[0].assistant
        copy = pickle.loads(pickle.dumps(sample))
        assert np.array_equal(copy.input_ids, sample.input_ids)


def check_prompt_is_a_prefix(loaded: LoadedFamily) -> None:
    """What is asked in evaluation is, id for id, what the answer follows in training."""
    for talk in TALKS:
        whole, prompt = loaded.encode(talk), loaded.encode(talk, generation=True)
        assert np.array_equal(whole.input_ids[: len(prompt)], prompt.input_ids), talk.id
        assert (prompt.labels == IGNORE).all()
        assert whole.labels[len(prompt)] != IGNORE


def check_wrong_input_is_refused(loaded: LoadedFamily) -> None:
    """Another number of images, or no answer, is a RecordError with the record's id."""
    family, processor = loaded.family, loaded.processor
    null = conversation(turn("unlabeled", None))
    attempts: list[tuple[str, Callable[[], Any]]] = [
        ("one image", lambda: family.encode(TALKS[0], [], processor)),
        ("one image", lambda: family.measure(TALKS[0], [], processor)),
        ("one image", lambda: family.encode(TALKS[0], noise(TALKS[3]), processor)),
        ("unlabeled", lambda: family.encode(null, [], processor)),
        ("unlabeled", lambda: family.measure(null, [], processor)),
    ]
    for expected, attempt in attempts:
        message = "nothing was refused"
        try:
            attempt()
        except RecordError as error:
            message = str(error)
        assert expected in message, f"no error that names the record {expected!r}: {message}"


def check_packed_batch(loaded: LoadedFamily) -> None:
    """One row of all ids and labels, without a mask, all torch tensors."""
    samples = [loaded.encode(talk) for talk in TALKS]
    batch = loaded.family.collate(samples, loaded.processor, layout="packed")
    assert all(isinstance(value, Tensor) for value in batch.values())
    assert "attention_mask" not in batch
    assert batch["input_ids"].tolist() == [[i for s in samples for i in s.input_ids.tolist()]]
    assert batch["labels"].tolist() == [[i for s in samples for i in s.labels.tolist()]]


def check_padded_batches(loaded: LoadedFamily) -> None:
    """A row per sample, padded on the right or the left, with a mask from the lengths."""
    samples = [loaded.encode(talk) for talk in TALKS]
    longest = max(map(len, samples))
    layouts: tuple[Layout, ...] = ("left", "right")
    for layout in layouts:
        batch = loaded.family.collate(samples, loaded.processor, layout=layout)
        assert batch["attention_mask"].sum(1).tolist() == [len(s) for s in samples]
        for row, sample in enumerate(samples):
            kept = slice(longest - len(sample), None) if layout == "left" else slice(len(sample))
            assert batch["attention_mask"][row, kept].all()
            assert batch["input_ids"][row, kept].tolist() == sample.input_ids.tolist()
            assert batch["labels"][row, kept].tolist() == sample.labels.tolist()
            assert int((batch["labels"][row] != IGNORE).sum()) == count_supervised([sample])


def check_layouts_agree(loaded: LoadedFamily) -> None:
    """Packed or padded, a sample has the hidden states and the loss it has alone, whatever config.use_cache says.

    A leak between packed samples changes the fourth digit of a toy's loss.
    """
    samples = [loaded.encode(talk) for talk in TALKS]
    configs = [loaded.model.config, loaded.model.config.get_text_config()]
    before = [config.use_cache for config in configs]
    try:
        for config in configs:
            config.use_cache = True  # as transformers has it by default
        with torch.no_grad():
            alone = sum(float(loaded.loss([s])) * count_supervised([s]) for s in samples) / count_supervised(samples)
            layouts: tuple[Layout, ...] = ("packed", "left", "right")
            for layout in layouts:
                found = float(loaded.loss(samples, layout))
                assert abs(found - alone) < 2e-5, f"loss {found:.7f} {layout}, {alone:.7f} alone: samples see others"
            single = torch.cat([_run_model(loaded, [sample])[0] for sample in samples])
            difference = float((_run_model(loaded, samples)[0] - single).abs().max())
            assert difference < 1e-4, f"hidden states of a pack differ by {difference:.1e}: samples see others"
    finally:
        for config, value in zip(configs, before, strict=True):
            config.use_cache = value


def check_hidden_states(loaded: LoadedFamily) -> None:
    """The head makes of the hidden states what the model's forward pass gives as logits."""
    sample = loaded.encode(TALKS[2])
    batch = loaded.family.collate([sample], loaded.processor)
    del batch["labels"]
    with torch.no_grad():
        logits = loaded.model(**batch, use_cache=False).logits
        found = loaded.model.get_output_embeddings()(_run_model(loaded, [sample]))
    assert torch.allclose(found, logits, atol=1e-5)


def check_gradients(loaded: LoadedFamily) -> None:
    """Every parameter that is not declared unused gets a gradient, and no other."""
    _demand_gradients(loaded, [loaded.encode(talk) for talk in TALKS], "packed")


def check_text_only_batches(loaded: LoadedFamily) -> None:
    """With `run_vision_on_text` the same holds for batches without an image, and the loss is what it was."""
    samples = [loaded.encode(talk) for talk in TEXTS]
    with torch.no_grad():
        plain = float(loaded.loss(samples))
    assert loaded.family.run_vision_on_text(loaded.model, True) is False, "on in a loaded model"
    try:
        layouts: tuple[Layout, ...] = ("packed", "right")
        for layout in layouts:
            _demand_gradients(loaded, samples, layout)
        with torch.no_grad():
            assert float(loaded.loss(samples)) == plain
        check_gradients(loaded)
    finally:
        assert loaded.family.run_vision_on_text(loaded.model, False) is True


def check_generation(loaded: LoadedFamily) -> None:
    """A question of a left-padded batch gets the answer it gets alone."""

    def ask(samples: list[Encoded]) -> list[str]:
        batch = loaded.family.collate(samples, loaded.processor, layout="left")
        inputs, stop = loaded.family.generation_inputs(batch), list(loaded.processor.stop_ids)
        out = loaded.model.generate(
            **inputs, max_new_tokens=5, do_sample=False, eos_token_id=stop, pad_token_id=loaded.processor.pad_id
        )
        return [loaded.processor.decode(row) for row in out[:, batch["input_ids"].shape[1] :].tolist()]

    samples = [loaded.encode(talk, generation=True) for talk in TALKS]
    assert ask(samples) == [ask([sample])[0] for sample in samples]


def check_processor(loaded: LoadedFamily) -> None:
    """It names its image options, shows every id, survives the way to a worker, and is read back as it was saved."""
    family, processor = loaded.family, loaded.processor
    assert dict(processor.image_options).keys() == family.image_options.model_fields.keys()
    ids = loaded.encode(TALKS[1]).input_ids.tolist()
    assert len(processor.pieces(ids)) == len(ids)
    assert all(text in processor.text(ids) for text in ("text only", "No"))
    assert pickle.loads(pickle.dumps(processor)).spec_hash == processor.spec_hash
    with tempfile.TemporaryDirectory() as folder:
        processor.save(Path(folder))
        read = family.load_processor(folder)
        assert any((Path(folder) / f"{name}_config.json").is_file() for name in ("preprocessor", "processor"))
    assert (read.spec_hash, dict(read.image_options)) == (processor.spec_hash, dict(processor.image_options))


def check_skeleton(loaded: LoadedFamily) -> None:
    """It has the names and shapes of the model, and no memory."""
    with tempfile.TemporaryDirectory() as folder:
        loaded.family.save(loaded.model, loaded.processor, Path(folder) / "saved")
        skeleton = loaded.family.skeleton(str(Path(folder) / "saved"))
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (skeleton, loaded.model)]
    assert shapes[0] == shapes[1]
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def check_preview(loaded: LoadedFamily) -> None:
    """A preview for each image, or none at all."""
    for talk in TALKS:
        assert len(loaded.family.preview(loaded.encode(talk), loaded.processor)) in (0, len(talk.image_paths))


def check_saving(loaded: LoadedFamily) -> None:
    """Saved and loaded again, model and processor are the same, to the last bit; config.json names the family."""
    batch = loaded.family.collate([loaded.encode(TALKS[2])], loaded.processor)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        loaded.family.save(loaded.model, loaded.processor, Path(folder) / "saved")
        model, processor = loaded.family.load(str(Path(folder) / "saved"))
        assert processor.spec_hash == loaded.processor.spec_hash
        assert not model.training
        inputs = training_inputs(loaded.family, {k: v for k, v in batch.items() if k != "labels"})
        found, expected = (loaded.family.hidden_states(one(**inputs)) for one in (model, loaded.model))
    assert torch.equal(found, expected)


def _run_model(loaded: LoadedFamily, samples: Sequence[Encoded]) -> Tensor:
    batch = loaded.family.collate(samples, loaded.processor)
    del batch["labels"]
    return loaded.family.hidden_states(loaded.model(**training_inputs(loaded.family, batch)))


def _demand_gradients(loaded: LoadedFamily, samples: Sequence[Encoded], layout: Layout) -> None:
    loaded.model.zero_grad()
    loaded.loss(samples, layout).backward()  # type: ignore[no-untyped-call]  # torch's
    unused = [name for component in loaded.family.components(loaded.model).values() for name in component.unused]
    wrong = [n for n, p in loaded.model.named_parameters() if (p.grad is None) != is_below(n, unused)]
    loaded.model.zero_grad()
    assert not wrong, f"{len(wrong)} parameters with a gradient but declared unused, or the reverse: {wrong[:4]}"
