"""`datasets.load_dataset` on every export, over rows that differ: in number and format of images, with and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from data_builders import encoded, image_bytes, write_dataset

from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.engine import export
from phiv_data.export.hub import Hub
from phiv_data.export.webdataset import WebDataset
from phiv_data.storage.sample import Sample
from phiv_schemas import Conversation, Turn, UsageError

datasets = pytest.importorskip("datasets")

CHAT: list[Any] = [type_(layout=layout) for type_ in (Llava, ShareGpt, Swift, Trl) for layout in ("json", "jsonl")]
WRITERS: list[Any] = [CauldronExport(), Hub(), *CHAT, WebDataset()]


def name_of(writer: Any) -> str:
    """`trl-jsonl`, `hub`."""
    return f"{writer.name}-{getattr(writer, 'layout', '')}".strip("-")


each_writer = pytest.mark.parametrize("writer", WRITERS, ids=name_of)
each_chat_writer = pytest.mark.parametrize("writer", CHAT, ids=name_of)

TEXT_BYTES = 1000


def row(split: str, number: int, kinds: Sequence[str] = (), system: str | None = None, text: str = "Which?") -> Sample:
    """A row of one turn with an image of each of these formats."""
    images = [
        encoded(f"{split}/{number}-{k}.{kind.lower()}", image_bytes(number * 7 + k, kind=kind), kind=kind)
        for k, kind in enumerate(kinds)
    ]
    turn = Turn(images=tuple(image.meta.path for image in images), user=text, assistant="That one.")
    conversation = Conversation(id=f"{split}-{number}", source="mixed", conversations=(turn,), system=system)
    return Sample(conversation, tuple(images))


def mixed_rows() -> dict[str, list[Sample]]:
    """Splits that differ: formats mixed in train, text alone in val, PNG alone in dev."""
    kinds = [(), ("JPEG",), ("PNG", "JPEG"), ("PNG",), (), ("WEBP", "PNG", "JPEG"), ("JPEG",)]
    train = [row("train", i, kind, system="Be brief." if i == 3 else None) for i, kind in enumerate(kinds)]
    return {"train": train, "val": [row("val", i) for i in range(3)], "dev": [row("dev", i, ["PNG"]) for i in range(4)]}


def load(folder: Path, tmp_path: Path, **options: Any) -> Any:
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


def num_images(loaded: Any, folder: Path) -> int:
    """How many images a row has when it is loaded; each must open."""
    if "json" in loaded:  # webdataset: columns 0.png, 0.jpg, 1.png, ...
        found = [value for name, value in loaded.items() if name[0].isdigit() and value is not None]
    else:
        value = loaded["images"] if "images" in loaded else loaded["image"]
        found = [value] if isinstance(value, str) else value or []
    assert all((folder / "images" / one).is_file() if isinstance(one, str) else one.size == (24, 16) for one in found)
    return len(found)


@each_writer
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_datasets_opens_rows_that_differ(writer: Any, streaming: bool, tmp_path: Path) -> None:
    rows = mixed_rows()
    export(writer, write_dataset(tmp_path / "data", rows), tmp_path / "out")
    loaded = load(tmp_path / "out", tmp_path, streaming=streaming)
    assert {split: [num_images(one, tmp_path / "out") for one in part] for split, part in loaded.items()} == {
        split: [len(sample.images) for sample in samples] for split, samples in rows.items()
    }


@each_writer
@pytest.mark.parametrize("order", [("val", "train"), ("train", "val")], ids="-".join)
def test_datasets_opens_a_split_of_text_alone_before_and_after_others(
    writer: Any, order: tuple[str, ...], tmp_path: Path
) -> None:
    rows = {split: mixed_rows()[split] for split in order}
    export(writer, write_dataset(tmp_path / "data", rows), tmp_path / "out")
    loaded = load(tmp_path / "out", tmp_path)
    assert {split: len(part) for split, part in loaded.items()} == {"train": 7, "val": 3}
    assert [num_images(one, tmp_path / "out") for one in loaded["train"]] == [0, 1, 2, 1, 0, 3, 1]


@each_writer
def test_datasets_opens_text_alone(writer: Any, tmp_path: Path) -> None:
    export(writer, write_dataset(tmp_path / "data", {"val": mixed_rows()["val"]}), tmp_path / "out")
    (part,) = load(tmp_path / "out", tmp_path).values()
    assert len(part) == 3


@each_chat_writer
def test_images_after_more_text_than_datasets_reads_at_once(writer: Any, tmp_path: Path) -> None:
    text = "x" * TEXT_BYTES
    many = [*(row("train", i, text=text) for i in range(11_500)), *(row("train", i, ["PNG"]) for i in (20_000, 20_001))]
    data = write_dataset(tmp_path / "data", {"train": many}, max_shard_bytes=2**28)
    done = export(writer, data, tmp_path / "out")
    loaded = load(tmp_path / "out", tmp_path)["train"]
    files = str(tmp_path / f"out/train.{writer.layout}")
    alone = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    moved = bool(done.warnings)
    assert moved == (writer.layout == "jsonl")
    assert [one["id"] for one in alone.select(range(2))] == (
        ["train-20000", "train-0"] if moved else ["train-0", "train-1"]
    )
    assert sorted(alone["id"]) == sorted(loaded["id"]) == sorted(sample.id for sample in many)
    assert num_images(loaded[-1], tmp_path / "out") == 1
    if moved:
        assert done.warnings == (
            "train.jsonl: row 11501, the first with images, is written first: `datasets` takes the types of columns "
            "from the first 10 MiB",
        )


@each_writer
def test_the_card_names_the_splits_and_is_of_the_record(writer: Any, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    export(writer, write_dataset(tmp_path / "data", mixed_rows()), tmp_path / "out")
    card = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    assert [entry["split"] for entry in card["configs"][0]["data_files"]] == ["train", "val", "dev"]
    datasets.Features._from_yaml_list(card["dataset_info"]["features"])
    assert card["license"] == "unknown"


@pytest.mark.parametrize("writer", [*CHAT, WebDataset()], ids=name_of)
def test_a_split_name_that_datasets_refuses_is_changed_for_it(writer: Any, tmp_path: Path) -> None:
    splits = {"val": [row("val", 0)], "val-unseen": [row("u", 0, ["PNG"]), row("u", 1)], "a [b]": [row("b", 0)]}
    export(writer, write_dataset(tmp_path / "data", splits), tmp_path / "out")
    loaded = load(tmp_path / "out", tmp_path)
    assert {split: len(part) for split, part in loaded.items()} == {"val": 1, "val_unseen": 2, "a_b_": 1}


@pytest.mark.parametrize("writer", [Swift(), WebDataset()], ids=name_of)
def test_two_splits_that_would_be_one_are_an_error(writer: Any, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"dev.x": [row("dev", 0)], "dev_x": [row("dev", 1)]})
    with pytest.raises(UsageError, match=r"the splits 'dev\.x' and 'dev_x' would both be 'dev_x' in the export"):
        export(writer, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
