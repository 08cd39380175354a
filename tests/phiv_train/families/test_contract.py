"""What every installed family must do for the trainer: the checks of `phiv_train.testing`, and random samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_schemas import Turn
from phiv_schemas.errors import PhivError
from phiv_train.families.base import family_names, get_family
from phiv_train.testing import (
    Check,
    LoadedFamily,
    check_image_size,
    check_layouts_agree,
    check_measured,
    check_text_only_batches,
    conversation,
    family_checks,
    noise,
)

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@pytest.fixture(scope="module", params=family_names())
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    family, path = get_family(request.param), request.param
    if request.param == "phi3_vision":  # the real family on a toy checkpoint
        path = str(tmp_path_factory.mktemp("toy") / "checkpoint")
        tiny = get_family("tiny")
        tiny.save(*tiny.load("tiny"), Path(path))
    try:
        return LoadedFamily(family, *family.load(path))
    except PhivError as error:
        pytest.skip(f"{request.param} cannot be loaded offline: {error}")


@pytest.mark.parametrize("check", family_checks(), ids=lambda check: check.__name__)
def test_it_keeps_the_interface(check: Check, loaded: LoadedFamily) -> None:
    check(loaded)


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400))
def test_an_image_takes_what_its_size_says(loaded: LoadedFamily, width: int, height: int) -> None:
    check_image_size(loaded, width, height)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT, st.integers(0, 2)), min_size=1, max_size=4),
    st.none() | TEXT,
    st.booleans(),
)
def test_measure_equals_encode_for_any_dialogue(
    loaded: LoadedFamily, turns: list[tuple[str, str, int]], system: str | None, generation: bool
) -> None:
    made = [
        Turn(images=tuple(f"{number}/{i}.png" for i in range(count)), user=f"{number}: {user}?", assistant=f"{answer}!")
        for number, (user, answer, count) in enumerate(turns)
    ]
    talk = conversation(*made, system=f"{system}." if system else None)
    check_measured(loaded, talk, noise(talk), generation=generation)


# The checks can fail ------------------------------------------------------------------------------------------------


def test_a_model_whose_packed_samples_see_each_other_fails(loaded: LoadedFamily) -> None:
    """As with a cache: a mask that knows no samples."""

    class Leaky(type(loaded.family)):  # type: ignore[misc]  # the family's own class
        def collate(self, samples: Any, processor: Any, *, layout: Any = "packed") -> Any:
            batch = super().collate(samples, processor, layout=layout)
            if layout == "packed":
                batch["position_ids"] = batch["input_ids"].new_tensor([range(batch["input_ids"].shape[1])])
            return batch

    with pytest.raises(AssertionError, match="samples see others"):
        check_layouts_agree(replace(loaded, family=Leaky()))


def test_a_family_that_does_not_run_vision_on_text_fails(loaded: LoadedFamily) -> None:
    class Idle(type(loaded.family)):  # type: ignore[misc]  # the family's own class
        def run_vision_on_text(self, model: Any, enabled: bool) -> bool:
            return not enabled

    with pytest.raises(AssertionError, match="parameters with a gradient but declared unused, or the reverse"):
        check_text_only_batches(replace(loaded, family=Idle()))
