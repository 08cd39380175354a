"""Whole data sets through an export and back by its converter: the same splits, rows, ids, texts and images."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from data_builders import encoded, image_bytes, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_data import shared_folder

from phiv_converters.cauldron.options import CauldronOptions
from phiv_converters.chat_json import options as chat_json
from phiv_converters.hub.options import HubOptions
from phiv_converters.nlvr2.options import Nlvr2Options
from phiv_converters.webdataset.options import WebDatasetOptions
from phiv_data.convert.engine import convert
from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.engine import export
from phiv_data.export.hub import Hub
from phiv_data.export.webdataset import WebDataset
from phiv_data.storage.dataset import ConversationDataset, read_manifest
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.utils.plugins import CONVERTERS, load_plugins
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


LOSSLESS: list[tuple[Any, Any]] = [(Hub(), HubOptions), (WebDataset(), WebDatasetOptions)]
both = pytest.mark.parametrize(("writer", "options"), LOSSLESS, ids=lambda value: getattr(value, "name", ""))


@both
@given(splits=data_sets())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_everything_comes_back_from_the_hub_and_from_tars(
    writer: Any, options: Any, splits: dict[str, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    data = write_dataset(folder / "data", splits | {"extra": []}, max_shard_bytes=500)
    export(writer, data, folder / "out")
    result = convert(options(source=folder / "out"), folder / "back", num_workers=0)
    assert rows_by_split(folder / "back", as_written) == rows_by_split(data, as_written)
    assert read_manifest(folder / "back").name == read_manifest(data).name
    assert not result.warnings


@both
def test_what_is_known_of_an_image_comes_back(writer: Any, options: Any, tmp_path: Path) -> None:
    image = encoded("dev/a.png", image_bytes(1))
    known = ImageMeta(**(dict(image.meta) | {"source": "a.avi", "frame_index": 3, "timestamp": 0.5, "decoder": "av"}))
    turn = Turn(images=("dev/a.png",), user="?", assistant="!", answers=("!", "?"), image_offsets=(0,))
    row = Sample(
        Conversation(id="x", source="mine", conversations=(turn,), system=""), (EncodedImage(known, image.data),)
    )
    data = write_dataset(tmp_path / "data", {"val": [], "dev": [row]})
    export(writer, data, tmp_path / "out")
    one_file = next(path for path in sorted((tmp_path / "out").rglob("dev-*")))
    for number, source in enumerate((tmp_path / "out", one_file)):
        convert(options(source=source), tmp_path / f"back-{number}", num_workers=0)
        assert list(ConversationDataset(tmp_path / f"back-{number}", "dev")) == [row]


def test_the_shards_of_a_converted_dataset_are_tables_of_the_hub(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"dev": [text_row("x")]})
    convert(HubOptions(source=data / "arrow/dev"), tmp_path / "back", num_workers=0)
    assert rows_by_split(tmp_path / "back", as_written) == rows_by_split(data, as_written)


def test_tars_of_split_names_with_dots_come_back(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"val.unseen-1": [text_row("x")], "Train_2": [text_row("y")]})
    export(WebDataset(), data, tmp_path / "out")
    convert(WebDatasetOptions(source=tmp_path / "out"), tmp_path / "back", num_workers=0)
    assert rows_by_split(tmp_path / "back", as_written) == {"Train_2": [text_row("y")], "val.unseen-1": [text_row("x")]}


SHARED = shared_folder()
WAYS: list[tuple[Any, Any]] = [(writer, OPTIONS[writer.name]) for writer in CHAT] + LOSSLESS
WAYS += [(CauldronExport(), CauldronOptions)]


@pytest.fixture(scope="module")
def official_nlvr2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of the official dev set, the first 34 as dev, 35 as train with directories; stand-ins for images."""
    if SHARED is None:
        pytest.skip("needs the shared samples (set PHIV_SHARED to their folder)")
    folder = tmp_path_factory.mktemp("nlvr2")
    source = folder / "source"
    (source / "images").mkdir(parents=True)
    with (SHARED / "samples/nlvr2/data/dev.json").open(encoding="utf-8") as file:
        rows = [json.loads(next(file)) for _ in range(69)]
    for i, row in enumerate(rows[34:]):  # the five highest directories become val
        row |= {"identifier": row["identifier"].replace("dev-", f"train-{i}0"), "directory": i}
    for name, found in (("dev", rows[:34]), ("train", rows[34:])):
        (source / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    for pair in {row["identifier"].rpartition("-")[0] for row in rows}:
        for side in (0, 1):
            data = image_bytes(zlib.crc32(pair.encode()) % 10**6 + side, kind="JPEG")  # PNG by name only
            (source / f"images/{pair}-img{side}.png").write_bytes(data)
    convert(Nlvr2Options(source), folder / "data", num_workers=0)
    return folder / "data"


@pytest.mark.parametrize(("writer", "options"), WAYS, ids=lambda value: getattr(value, "name", ""))
def test_official_nlvr2_comes_back_from_every_export(
    writer: Any, options: Any, official_nlvr2: Path, tmp_path: Path
) -> None:
    def kept(sample: Sample) -> tuple[Any, ...]:
        turns = [(len(turn.images), turn.user, turn.assistant) for turn in sample.conversation.turns]
        return sample.conversation.id, sample.conversation.source, turns, [image.data for image in sample.images]

    export(writer, official_nlvr2, tmp_path / "out")
    convert(options(tmp_path / "out"), tmp_path / "back", num_workers=0)
    back = rows_by_split(tmp_path / "back", kept)
    assert {split: len(rows) for split, rows in back.items()} == {"train": 30, "val": 5, "dev": 34}
    assert back == rows_by_split(official_nlvr2, kept)


def text_row(id: str) -> Sample:
    return Sample(Conversation(id=id, source="s", conversations=(Turn(images=(), user="u", assistant="a"),)), ())


@both
def test_a_missing_file_of_an_export_is_an_error(writer: Any, options: Any, tmp_path: Path) -> None:
    image = encoded("train/a.png", image_bytes(1))
    turn = Turn(images=("train/a.png",), user="u", assistant="a")
    rows = [Sample(Conversation(id=f"{i}", source="s", conversations=(turn,)), (image,)) for i in range(3)]
    data = write_dataset(tmp_path / "data", {"train": rows, "val": rows[:1]}, max_shard_bytes=1)
    export(writer, data, tmp_path / "out")
    next((tmp_path / "out").rglob("train-00001-of-00003.*")).unlink()
    with pytest.raises(SourceError, match=r"1 files are not there, the first is train-00001-of-00003\."):
        convert(options(source=tmp_path / "out"), tmp_path / "back", num_workers=0)
    for file in (tmp_path / "out").rglob("train-*"):
        file.unlink()
    result = convert(options(source=tmp_path / "out"), tmp_path / "back", num_workers=0)
    assert result.warnings == ("split 'train' has 0 rows of the 3 that were exported",)


@pytest.mark.parametrize("format", ["webdataset", "cauldron"])
def test_auto_takes_the_converter_that_an_export_comes_back_by(format: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": [text_row("x")]})
    writers: dict[str, Any] = {"webdataset": WebDataset(), "cauldron": CauldronExport()}
    export(writers[format], data, tmp_path / "out")
    options = load_plugins(CONVERTERS).loaded["auto"](source=tmp_path / "out")
    assert type(options.chosen()) is load_plugins(CONVERTERS).loaded[format]


@pytest.mark.parametrize("name", sorted(load_plugins(CONVERTERS).loaded.keys() - {"auto"}))
def test_every_converter_names_the_one_that_an_export_comes_back_by(name: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": [text_row("x")]})
    writers: dict[str, Any] = {"webdataset": WebDataset(), "cauldron": CauldronExport()}
    (other,) = sorted(writers.keys() - {name})[:1]
    export(writers[other], data, tmp_path / "out")
    options = load_plugins(CONVERTERS).loaded[name](source=tmp_path / "out")
    with pytest.raises(SourceError, match=f"is an export of phiv in another format. phiv-convert {other} --source"):
        convert(options, tmp_path / "back", num_workers=0)


def test_tables_of_other_rows_are_named(tmp_path: Path) -> None:
    export(CauldronExport(), write_dataset(tmp_path / "data", {"train": [text_row("x")]}), tmp_path / "out")
    (tmp_path / "out/.phiv-export.json").unlink()
    with pytest.raises(SourceError, match=r"has no column id and source and .* reads what phiv-export hub wrote"):
        convert(HubOptions(source=tmp_path / "out"), tmp_path / "back", num_workers=0)
    with pytest.raises(SourceError, match="no tables in"):
        convert(HubOptions(source=tmp_path / "data/rejects.jsonl"), tmp_path / "back", num_workers=0)
