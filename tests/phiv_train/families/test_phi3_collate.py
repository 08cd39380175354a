"""Batches: the invariant between image slots and crops, ragged crops, masks from lengths; tiny's own loading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_schemas import Conversation, Turn
from phiv_schemas.errors import RecordError, UsageError
from phiv_train.families.base import IGNORE, Encoded, Layout
from phiv_train.families.phi3_vision.collate import collate
from phiv_train.families.phi3_vision.encoding import encode
from phiv_train.families.tiny import FAMILY, build_tiny, tiny_processor

PROCESSOR = tiny_processor(4)


def sample(name: str, sizes: list[tuple[int, int]]) -> Encoded:
    images = tuple(f"{i}.png" for i in range(len(sizes)))
    talk = Conversation(id=name, source="s", conversations=(Turn(images=images, user="What is it?", assistant=name),))
    return encode(talk, [np.full((h, w, 3), w % 256, np.uint8) for w, h in sizes], PROCESSOR)


SIZES = st.lists(st.tuples(st.integers(20, 99), st.integers(20, 99)), max_size=3)


@settings(max_examples=40, deadline=None)
@given(layout=st.sampled_from(["packed", "left", "right"]), image_sizes=st.lists(SIZES, min_size=1, max_size=5))
def test_any_mix_of_images_stays_in_order(layout: str, image_sizes: list[list[tuple[int, int]]]) -> None:
    samples = [sample(f"row-{i}", sizes) for i, sizes in enumerate(image_sizes)]
    batch = collate(samples, PROCESSOR, layout=layout)
    assert batch["crops"].dtype == torch.uint8
    assert np.array_equal(batch["crops"], np.concatenate([s.media["crops"] for s in samples]))
    assert batch["image_sizes"].tolist() == [list(z) for s in samples for z in s.media["image_sizes"].tolist()]
    slots = batch["input_ids"] == PROCESSOR.image_id
    assert int(slots.sum()) == sum(int((s.input_ids == PROCESSOR.image_id).sum()) for s in samples)
    assert (batch["labels"][slots] == IGNORE).all()


def test_a_batch_without_images_has_empty_media() -> None:
    batch = collate([sample("a", []), sample("b", [])], PROCESSOR)
    assert batch["crops"].shape == (0, 56, 56, 3)
    assert batch["image_sizes"].shape == (0, 2)


def test_end_of_text_inside_a_sample_is_attended_although_it_is_the_pad_id() -> None:
    short, long = sample("a", []), sample("b" * 30, [])
    batch = collate([short, long], PROCESSOR, layout="right")
    assert short.input_ids[-1] == PROCESSOR.pad_id
    assert batch["attention_mask"][0, len(short) - 1] == 1
    assert batch["attention_mask"][0, len(short) :].sum() == 0
    assert (batch["input_ids"][0, len(short) :] == PROCESSOR.pad_id).all()


def test_a_sample_cut_in_the_middle_of_an_image_is_refused_with_its_id() -> None:
    whole = sample("row-17", [(50, 50)])
    cut = replace(whole, input_ids=whole.input_ids[:20], labels=whole.labels[:20])
    with pytest.raises(RecordError, match=r"row-17: has 16 image slots for 27 image features"):
        collate([sample("fine", []), cut], PROCESSOR)


def test_no_samples_and_unknown_layouts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^samples: a batch of none"):
        collate([], PROCESSOR)
    unknown: Any = "centre"
    with pytest.raises(UsageError, match=r"^layout: 'centre' is unknown\. Pass packed, right or left"):
        collate([sample("a", [])], PROCESSOR, layout=unknown)


@pytest.mark.parametrize("layout", ["packed", "right"])
def test_labels_of_another_length_are_refused_with_the_id(layout: Layout) -> None:
    whole = sample("row-17", [(50, 50)])
    short = replace(whole, labels=whole.labels[:-1])
    with pytest.raises(RecordError, match=rf"^row-17: has {len(whole)} ids and {len(whole) - 1} labels"):
        collate([sample("fine", []), short], PROCESSOR, layout=layout)


def test_a_sample_without_ids_is_refused_with_the_id() -> None:
    empty = replace(sample("row-17", []), input_ids=np.empty(0, np.int64), labels=np.empty(0, np.int64))
    with pytest.raises(RecordError, match=r"^row-17: has no ids"):
        collate([empty], PROCESSOR)


def test_a_lost_crop_is_refused_with_the_id() -> None:
    whole = sample("row-17", [(50, 50)])
    lost = replace(whole, media={**whole.media, "crops": whole.media["crops"][:-1]})
    with pytest.raises(RecordError, match=r"row-17: has 3 crops, its image sizes need 4"):
        collate([lost], PROCESSOR)


def test_a_labelled_image_slot_is_refused() -> None:
    whole = sample("row-17", [(50, 50)])
    with pytest.raises(RecordError, match="row-17: labels an image slot"):
        collate([replace(whole, labels=whole.input_ids)], PROCESSOR)


def test_tiny_is_the_same_for_the_same_seed_and_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    states = [build_tiny(seed)[0].state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert not torch.equal(states[0]["lm_head.weight"], states[2]["lm_head.weight"])


def test_tiny_loads_by_name_seed_and_folder(tmp_path: Path) -> None:
    model, processor = FAMILY.load("tiny:3", image_options={"num_crops": 4}, attn_implementation="eager")
    assert processor.num_crops == 4
    assert model.config._attn_implementation == "eager"
    FAMILY.save(model, processor, tmp_path / "out")
    again, loaded = FAMILY.load(str(tmp_path / "out"))
    assert loaded.num_crops == 4
    assert torch.equal(again.lm_head.weight, build_tiny(3)[0].lm_head.weight)
    with pytest.raises(UsageError, match="tiny:x: is not tiny"):
        FAMILY.load("tiny:x")
