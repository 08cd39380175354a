"""Lengths from stored sizes equal the lengths of what is encoded; rows that are too long or teach nothing are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixed_data import Exchange, any_rows, converted

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas.errors import RecordError
from phiv_train.batching.lengths import Fitted, Lengths, fit, keep_images, measure, spread_rows
from phiv_train.families.base import IGNORE, get_family
from phiv_train.families.tiny import tiny_processor

TINY = get_family("tiny")
PROCESSOR = tiny_processor(4)
FRAME = Exchange(((60, 40),) * 32, "Which class?", "Archery")
LIKE: list[Any] = [((60, 40), None), ((120, 40), None), ((60, 40), (5,)), ((60, 40), (12,))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ConversationDataset:
    """Rows of every shape; two that differ in names only, two in one image's size, two in where an image stands."""
    similar = [Exchange((size,), "Left, right?", "Left.", place) for size, place in LIKE]
    return converted(tmp_path_factory.mktemp("lengths") / "data", *any_rows(36), *similar, FRAME, FRAME)


@pytest.fixture(scope="module")
def lengths(data: ConversationDataset) -> Lengths:
    """What is under test, over all rows."""
    return measure(data, TINY, PROCESSOR)


def test_every_number_equals_that_of_the_encoded_row(data: ConversationDataset, lengths: Lengths) -> None:
    for row, sample in enumerate(data):
        encoded = TINY.encode(sample.conversation, [image.open() for image in sample.images], PROCESSOR)
        assert lengths.tokens[row] == len(encoded)
        assert lengths.supervised[row] == (encoded.labels != IGNORE).sum()
        assert lengths.image_tokens[row] == (encoded.input_ids == PROCESSOR.image_id).sum()
        assert lengths.images[row] == len(sample.images)
        assert lengths.vision_cost[row] == lengths.image_tokens[row]


def test_no_image_is_opened(data: ConversationDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiv_data.media.images.open_image", lambda *_, **__: pytest.fail("opened an image"))
    monkeypatch.setattr(ConversationDataset, "__getitem__", lambda *_: pytest.fail("read image bytes"))
    assert len(measure(data, TINY, PROCESSOR)) == len(data)


def test_only_the_chosen_rows_are_measured_and_kept(data: ConversationDataset, lengths: Lengths) -> None:
    some = measure(data, TINY, PROCESSOR, num_rows=5)
    assert some.rows.tolist() == spread_rows(len(data), 5).tolist()
    assert some.tokens[some.rows].tolist() == lengths.tokens[some.rows].tolist()
    assert np.flatnonzero(some.tokens).tolist() == some.rows.tolist()
    assert fit(data, some, TINY, PROCESSOR, max_length=10**6).rows.tolist() == some.rows.tolist()


@given(st.integers(1, 3000), st.none() | st.integers(1, 4000))
def test_chosen_rows_are_one_of_each_stretch(total: int, count: int | None) -> None:
    rows = spread_rows(total, count)
    assert len(rows) == min(total, count or total)
    assert (np.diff(rows) > 0).all()
    wanted = len(rows)
    assert ((rows + 1) * wanted > np.arange(wanted) * total).all()
    assert (rows * wanted < (np.arange(wanted) + 1) * total).all()
    assert rows.tolist() == spread_rows(total, count).tolist()


def test_chosen_rows_of_classes_in_order_and_of_alternating_answers_are_mixed() -> None:
    rows = spread_rows(1010, 101)
    assert np.bincount(rows // 10).max() <= 2
    alternating = spread_rows(1000, 100)
    assert 30 < (alternating % 2).sum() < 70


def test_a_cache_is_used_for_the_same_data_and_processor_only(
    data: ConversationDataset, lengths: Lengths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(data, TINY, PROCESSOR, cache_dir=tmp_path)
    monkeypatch.setattr("phiv_train.batching.lengths._measure", lambda *_: None)
    again = measure(data, TINY, PROCESSOR, cache_dir=tmp_path)
    for name in ("tokens", "image_tokens", "supervised", "images", "vision_cost"):
        assert getattr(first, name).tolist() == getattr(again, name).tolist() == getattr(lengths, name).tolist()
    for other in ({"processor": tiny_processor(1)}, {"num_rows": 3}):
        with pytest.raises(AttributeError):  # not found in the cache: measured again, which is broken here
            measure(data, TINY, **{"processor": PROCESSOR, "cache_dir": tmp_path} | other)


def test_a_damaged_cache_is_made_again(data: ConversationDataset, lengths: Lengths, tmp_path: Path) -> None:
    measure(data, TINY, PROCESSOR, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert measure(data, TINY, PROCESSOR, cache_dir=tmp_path).tokens.tolist() == lengths.tokens.tolist()


def test_unlabeled_rows_are_an_error_that_counts_and_names_them(tmp_path: Path) -> None:
    rows = [FRAME, Exchange((), "?", None), FRAME, Exchange((), "?", None)]
    data = converted(tmp_path / "data", *rows, include_unlabeled=True)
    with pytest.raises(RecordError) as caught:
        measure(data, TINY, PROCESSOR)
    assert "2 of 4 rows of 'train' cannot be trained on: 2 without an answer, first 'train-0000000001'" in str(
        caught.value
    )
    lengths = measure(data, TINY, PROCESSOR, on_bad="skip")
    assert dict(lengths.bad) == {1: "without an answer", 3: "without an answer"}
    selection = fit(data, lengths, TINY, PROCESSOR, max_length=10_000)
    assert selection.rows.tolist() == [0, 2]
    assert str(selection) == "2 rows; left out: 2 without an answer"


def test_a_image_too_thin_to_show_is_reported(tmp_path: Path) -> None:
    data = converted(tmp_path / "data", FRAME, Exchange(((4000, 3),), "?", "a"))
    with pytest.raises(RecordError, match=r"1 that cannot be encoded .*too thin.*, first 'train-0000000001'"):
        measure(data, TINY, PROCESSOR)


# -- too long ----------------------------------------------------------------------------------------------------------


def test_a_row_that_is_too_long_is_named_with_its_length_and_images(
    data: ConversationDataset, lengths: Lengths
) -> None:
    tokens, images = int(lengths.tokens[40]), int(lengths.image_tokens[40])
    with pytest.raises(RecordError) as caught:
        fit(data, lengths, TINY, PROCESSOR, max_length=tokens - 1)
    over = int((lengths.tokens > tokens - 1).sum())
    first = int(np.flatnonzero(lengths.tokens > tokens - 1)[0])
    assert (first, over) == (40, 2)
    assert str(caught.value) == (
        f"phiv-train: 'train-0000000040' is {tokens} tokens, over max_length {tokens - 1} "
        f"(32 images take {images}; 1 more row is too long). Raise --max_length, use fewer images, or leave such rows "
        "out with --on_too_long skip (trim_images drops some of their images)"
    )


def test_a_long_text_has_a_hint_of_its_own_and_is_left_out_where_asked(tmp_path: Path) -> None:
    data = converted(tmp_path / "data", Exchange((), "word " * 90), FRAME, Exchange())
    lengths = measure(data, TINY, PROCESSOR)
    limit = int(lengths.tokens[0]) - 1
    with pytest.raises(RecordError) as caught:
        fit(data, lengths, TINY, PROCESSOR, max_length=limit)
    assert str(caught.value).endswith(
        "(all of them text; 1 more row is too long). Raise --max_length, shorten its text, or leave such rows out with "
        "--on_too_long skip"
    )
    with pytest.raises(
        RecordError, match=r"\(all of them text\)\. Raise .*, or leave such .*--on_too_long trim_or_skip$"
    ):
        fit(data, lengths, TINY, PROCESSOR, max_length=limit, on_too_long="trim_images")
    both = fit(data, lengths, TINY, PROCESSOR, max_length=limit, on_too_long="trim_or_skip")
    assert str(both) == "2 rows; 1 with fewer images; left out: 1 too long"
    assert (both.rows.tolist(), both.skipped) == ([1, 2], {"too long": (0,)})


def test_skipped_rows_are_counted(data: ConversationDataset, lengths: Lengths) -> None:
    selection = fit(data, lengths, TINY, PROCESSOR, max_length=int(lengths.tokens[40]) - 1, on_too_long="skip")
    assert selection.rows.tolist() == list(range(40))
    assert selection.skipped == {"too long": (40, 41)}
    assert str(selection) == "40 rows; left out: 2 too long"


def test_trimming_keeps_as_many_images_as_fit_evenly_spread(data: ConversationDataset, lengths: Lengths) -> None:
    limit = int(lengths.tokens[40]) - 1
    selection = fit(data, lengths, TINY, PROCESSOR, max_length=limit, on_too_long="trim_images")
    assert selection.rows.tolist() == list(range(42))
    assert selection.kept_images == {40: tuple(i * 32 // 31 for i in range(31)), 41: tuple(range(31))}
    assert str(selection) == "42 rows; 2 with fewer images"
    half = fit(data, lengths, TINY, PROCESSOR, max_length=limit // 2, on_too_long="trim_images")
    count = len(half.kept_images[40])
    assert 12 < count < 18
    assert half.kept_images[40] == tuple(i * 32 // count for i in range(count))
    assert_trimmed_exactly(data, lengths, half, limit // 2)


def assert_trimmed_exactly(data: ConversationDataset, lengths: Lengths, selection: Fitted, limit: int) -> None:
    """Every trimmed row has the length it is said to have, within the limit; the others are untouched."""
    for row in range(len(lengths)):
        if (kept := selection.kept_images.get(row)) is None:
            assert selection.lengths.tokens[row] == lengths.tokens[row] <= limit
            continue
        sample = data[row]
        conversation = keep_images(sample.conversation, kept)
        encoded = TINY.encode(conversation, [sample.images[i].open() for i in kept], PROCESSOR)
        assert len(encoded) == selection.lengths.tokens[row] <= limit
        assert (encoded.input_ids == PROCESSOR.image_id).sum() == selection.lengths.image_tokens[row]
        assert (encoded.labels != IGNORE).sum() == selection.lengths.supervised[row]


def test_the_image_budget_trims_too(data: ConversationDataset, lengths: Lengths) -> None:
    limit = int(lengths.image_tokens[40]) // 2
    selection = fit(data, lengths, TINY, PROCESSOR, max_length=10**6, max_image_tokens=limit, on_too_long="trim_images")
    assert selection.lengths.image_tokens.max() <= limit
    with pytest.raises(RecordError, match=f"image tokens, over max_image_tokens {limit}"):
        fit(data, lengths, TINY, PROCESSOR, max_length=10**6, max_image_tokens=limit)


def test_a_row_too_long_without_its_images_stays_an_error(tmp_path: Path) -> None:
    data = converted(tmp_path / "data", Exchange(((60, 40),) * 2, "why " * 400, "so"))
    lengths = measure(data, TINY, PROCESSOR)
    with pytest.raises(RecordError, match=r"over max_length 300 even with one image \(2 images take"):
        fit(data, lengths, TINY, PROCESSOR, max_length=300, on_too_long="trim_images")


def test_keeping_images_keeps_their_places_in_the_text(data: ConversationDataset) -> None:
    for row in range(40):
        conversation = data.conversation(row)
        paths = conversation.image_paths
        kept = tuple(range(0, len(paths), 2))
        less = keep_images(conversation, kept)
        assert less.image_paths == tuple(paths[i] for i in kept)
        assert type(less).model_validate_json(less.to_line()) == less  # still within the contract
        assert [turn.user for turn in less.turns] == [turn.user for turn in conversation.turns]
        assert keep_images(conversation, range(len(paths))) == conversation


def test_supervised_tokens_of_a_dialogue_are_those_of_all_its_answers(data: ConversationDataset) -> None:
    conversation: Any = data.conversation(40)
    once = TINY.measure(conversation, [(60, 40)] * 32, PROCESSOR)
    twice = conversation.model_copy(update={"conversations": conversation.turns * 2})
    measured = TINY.measure(twice, [(60, 40)] * 64, PROCESSOR)
    assert (measured.tokens, measured.supervised) == (2 * once.tokens, 2 * once.supervised)
