"""Whole data sets through an export and back by its converter: the same splits, rows, ids, texts and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_builders import encoded, image_bytes, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phiv_converters.cauldron.options import CauldronOptions
from phiv_converters.chat_json import options as chat_json
from phiv_converters.hub.options import HubOptions
from phiv_data.convert.engine import convert
from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.engine import export
from phiv_data.export.hub import Hub
from phiv_data.storage.dataset import ConversationDataset, read_manifest
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_schemas import Conversation, ImageMeta, SourceError, Turn

OPTIONS: dict[str, Any] = {
    "llava": chat_json.LlavaOptions,
    "sharegpt": chat_json.SharegptOptions,
    "swift": chat_json.SwiftOptions,
    "trl": chat_json.TrlOptions,
}
CHAT: list[Any] = [type_(layout=layout) for type_ in (Llava, ShareGpt, Swift, Trl) for layout in ("json", "jsonl")]
WORDS = ["<image>", r"<\image>", "<video>", "\n", " ", "What is it?", "é", "]", ",", "{}", "\u2028", "</s>"]
texts = st.lists(st.sampled_from(WORDS), max_size=4).map("".join)


@st.composite
def image_lists(draw: st.DrawFn, split: str, row: int) -> list[EncodedImage]:
    """Images that decode, some of which several rows show."""
    found = []
    for _ in range(draw(st.integers(0, 3))):
        number, kind = draw(st.integers(0, 3)), draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
        own = draw(st.booleans())
        name = f"{split}/{row if own else 'shared'}-{number}.{kind.lower()}"
        found.append(encoded(name, image_bytes(number + (row * 10 if own else 0), kind=kind), kind=kind))
    return found


@st.composite
def rows_of(draw: st.DrawFn, split: str) -> list[Sample]:
    """Rows of which the chat formats lose nothing."""
    rows = []
    for number in range(draw(st.integers(1, 4))):
        turns, images = [], []
        for _ in range(draw(st.integers(1, 2))):
            shown, user = draw(image_lists(split, number)), draw(texts)
            places = st.lists(st.integers(1, len(user)), min_size=len(shown), max_size=len(shown)).map(sorted)
            offsets = draw(places) if shown and user and draw(st.booleans()) else None
            paths = tuple(image.meta.path for image in shown)
            turns.append(Turn(images=paths, user=user, assistant=draw(texts), image_offsets=offsets))
            images += shown
        id, system = f"{split}.{number}/é", draw(st.sampled_from([None, "Be brief.", "<image>"]))
        rows.append(
            Sample(Conversation(id=id, source="mine", conversations=tuple(turns), system=system), tuple(images))
        )
    return rows


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, list[Sample]]:
    names = draw(st.lists(st.sampled_from(["train", "val", "test"]), min_size=1, max_size=3, unique=True))
    return {name: draw(rows_of(name)) for name in sorted(names, key=["train", "val", "test"].index)}


def contents(sample: Sample) -> tuple[Any, ...]:
    """All of a row but the names of its images."""
    c = sample.conversation
    turns = [(len(turn.images), turn.user, turn.assistant, turn.image_offsets) for turn in c.turns]
    return c.id, c.source, c.system, turns, [image.data for image in sample.images]


def rows_by_split(folder: Path, contents: Any) -> dict[str, list[Any]]:
    names = [split.name for split in read_manifest(folder).splits]
    return {name: [contents(sample) for sample in ConversationDataset(folder, name)] for name in names}


@pytest.mark.parametrize("writer", CHAT, ids=lambda writer: f"{writer.name}-{writer.layout}")
@given(splits=data_sets())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_data_set_comes_back_from_a_chat_export(
    writer: Any, splits: dict[str, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    data = write_dataset(folder / "data", splits)
    done = export(writer, data, folder / "out")
    assert done.rows == {name: len(rows) for name, rows in splits.items()}
    options = OPTIONS[writer.name](source=folder / "out", keep_ids=True)
    result = convert(options, folder / "back", num_workers=0)
    assert not sum(result.manifest.accounting.rejected.values())
    assert rows_by_split(folder / "back", contents) == rows_by_split(data, contents)


@given(splits=data_sets())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_texts_and_images_come_back_from_the_cauldron(
    splits: dict[str, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def kept(sample: Sample) -> tuple[Any, ...]:
        turns = [(turn.user, turn.assistant) for turn in sample.conversation.turns]
        return sample.conversation.source, turns, [image.data for image in sample.images]

    folder = tmp_path_factory.mktemp("x")
    data = write_dataset(folder / "data", splits)
    export(CauldronExport(), data, folder / "out")
    convert(CauldronOptions(source=folder / "out"), folder / "back", num_workers=0)
    assert rows_by_split(folder / "back", kept) == rows_by_split(data, kept)


def as_written(sample: Sample) -> Sample:
    return sample


@given(splits=data_sets())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_everything_comes_back_from_the_hub(
    splits: dict[str, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    data = write_dataset(folder / "data", splits, max_shard_bytes=500)
    export(Hub(), data, folder / "out")
    convert(HubOptions(source=folder / "out"), folder / "back", num_workers=0)
    assert rows_by_split(folder / "back", as_written) == rows_by_split(data, as_written)
    assert read_manifest(folder / "back").name == read_manifest(data).name


def test_what_is_known_of_an_image_comes_back_from_the_hub(tmp_path: Path) -> None:
    image = encoded("dev/a.png", image_bytes(1))
    known = ImageMeta(**(dict(image.meta) | {"source": "a.avi", "frame_index": 3, "timestamp": 0.5, "decoder": "av"}))
    turn = Turn(images=("dev/a.png",), user="?", assistant="!", answers=("!", "?"), image_offsets=(0,))
    row = Sample(
        Conversation(id="x", source="mine", conversations=(turn,), system=""), (EncodedImage(known, image.data),)
    )
    data = write_dataset(tmp_path / "data", {"val": [], "dev": [row]})
    export(Hub(), data, tmp_path / "out")
    for source in (tmp_path / "out", tmp_path / "data/arrow/dev"):
        convert(HubOptions(source=source), tmp_path / f"back-{source.name}", num_workers=0)
        assert list(ConversationDataset(tmp_path / f"back-{source.name}", "dev")) == [row]


def text_row(id: str) -> Sample:
    return Sample(Conversation(id=id, source="s", conversations=(Turn(images=(), user="u", assistant="a"),)), ())


def test_a_missing_file_of_the_hub_is_an_error(tmp_path: Path) -> None:
    image = encoded("train/a.png", image_bytes(1))
    turn = Turn(images=("train/a.png",), user="u", assistant="a")
    rows = [Sample(Conversation(id=f"{i}", source="s", conversations=(turn,)), (image,)) for i in range(3)]
    export(Hub(), write_dataset(tmp_path / "data", {"train": rows}, max_shard_bytes=1), tmp_path / "out")
    (tmp_path / "out/data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(SourceError, match=r"1 files are not there, the first is train-00001-of-00003\.parquet"):
        convert(HubOptions(source=tmp_path / "out"), tmp_path / "back", num_workers=0)


def test_tables_of_other_rows_are_named(tmp_path: Path) -> None:
    export(CauldronExport(), write_dataset(tmp_path / "data", {"train": [text_row("x")]}), tmp_path / "out")
    with pytest.raises(SourceError, match=r"has no column id and source and .* reads what phiv-export hub wrote"):
        convert(HubOptions(source=tmp_path / "out"), tmp_path / "back", num_workers=0)
    with pytest.raises(SourceError, match="no tables in"):
        convert(HubOptions(source=tmp_path / "data/rejects.jsonl"), tmp_path / "back", num_workers=0)
