"""Exports: whole or not there, the same bytes twice; every format reads back as what went in, less what is declared."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from data_builders import any_samples, encoded, image_bytes, samples, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phiv_data.convert.engine import convert
from phiv_data.export.base import PROVENANCE
from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.cauldron import losses as cauldron_losses
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.engine import RECORD, Exported, export
from phiv_data.export.hub import Hub
from phiv_data.export.webdataset import WebDataset
from phiv_data.formats import FORMATS, LOSSES
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.storage.shards import to_sample
from phiv_schemas import Conversation, EnvironmentProblem, ImageMeta, ShardError, Turn, UsageError

WRITERS: list[Any] = [CauldronExport(), Hub(), Llava(), ShareGpt(), Swift(), Trl(), WebDataset()]
named = pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    splits = {"train": samples("train", 5), "val": samples("val", 2, 5)}
    return write_dataset(tmp_path / "data", splits, max_shard_bytes=500)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rich_sample() -> Sample:
    """A row that has all there is: two turns with images, answers, offsets, system, provenance."""
    images = [encoded(f"val/p{i}.png", image_bytes(i)) for i in range(2)]
    meta = ImageMeta(**(dict(images[0].meta) | {"source": "a.avi", "frame_index": 3}))
    turns = (
        Turn(images=("val/p0.png",), user="What is <image>?", assistant="A", answers=("A", "B"), image_offsets=(4,)),
        Turn(images=("val/p1.png",), user="And this?", assistant="C"),
    )
    conversation = Conversation(id="x/1.a", source="mine", conversations=turns, system="Be brief.")
    return Sample(conversation, (EncodedImage(meta, images[0].data), images[1]))


# Whole or not there -----------------------------------------------------------------------------------------------


@named
def test_the_same_export_twice_has_the_same_bytes(writer: Any, data: Path, tmp_path: Path) -> None:
    export(writer, data, tmp_path / "one")
    export(writer, data, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@named
def test_the_record_vouches_for_every_file_but_images(writer: Any, data: Path, tmp_path: Path) -> None:
    export(writer, data, tmp_path / "out")
    found = {name: digest for name, digest in tree(tmp_path / "out").items() if not name.startswith("images/")}
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert {file["path"]: file["sha256"] for file in record["files"]} == {k: v for k, v in found.items() if k != RECORD}
    assert record["rows"] == {"train": 5, "val": 2}


@named
def test_only_the_named_split_is_exported(writer: Any, data: Path, tmp_path: Path) -> None:
    done = export(writer, data, tmp_path / "out", splits=("val",))
    assert done.rows == {"val": 2}
    assert not [name for name in tree(tmp_path / "out") if "train" in name]


def test_an_unknown_split_is_named_with_those_there_are(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--split: no split 'dev' \(found: train, val\)"):
        export(Hub(), data, tmp_path / "out", splits=("dev",))
    assert not (tmp_path / "out").exists()


def test_a_finished_export_is_left_alone(data: Path, tmp_path: Path) -> None:
    first = export(CauldronExport(), data, tmp_path / "out")
    before = (tmp_path / "out" / RECORD).stat().st_mtime_ns
    again = export(CauldronExport(), data, tmp_path / "out")
    assert (first.found_finished, again.found_finished) == (False, True)
    assert again.losses == first.losses
    assert (tmp_path / "out" / RECORD).stat().st_mtime_ns == before


@named
def test_a_damaged_export_is_not_left_alone(writer: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(writer, data, out)
    before = tree(out)
    lost = json.loads((out / RECORD).read_text())["files"][0]["path"]
    (out / lost).unlink()
    with pytest.raises(ShardError, match=rf"a finished export is damaged: {lost} is missing\. --overwrite"):
        export(writer, data, out)
    export(writer, data, out, overwrite=True)
    assert tree(out) == before


@pytest.mark.parametrize(
    ("writer", "splits", "differs"),
    [(Hub(license="mit"), (), "options"), (Hub(), ("val",), "splits"), (CauldronExport(), (), "format, options")],
)
def test_another_export_is_replaced_only_when_asked(
    writer: Any, splits: tuple[str, ...], differs: str, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(Hub(), data, out)
    before = tree(out)
    with pytest.raises(UsageError, match=f"has another export, which differs in {differs}. Pass --overwrite"):
        export(writer, data, out, splits=splits)
    assert tree(out) == before
    export(writer, data, out, splits=splits, overwrite=True)
    export(writer, data, tmp_path / "fresh", splits=splits)
    assert tree(out) == tree(tmp_path / "fresh")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "fresh", "out"]


def test_changed_data_are_not_taken_for_exported(data: Path, tmp_path: Path) -> None:
    export(Hub(), data, tmp_path / "out")
    write_dataset(data, {"train": samples("train", 4), "val": samples("val", 2, 5)})
    with pytest.raises(UsageError, match="differs in the converted data"):
        export(Hub(), data, tmp_path / "out")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_files_is_never_touched(overwrite: bool, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="already exists, and is not an export of phiv"):
        export(Hub(), data, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_an_export_into_the_dataset_is_refused(data: Path, tmp_path: Path) -> None:
    before = tree(data)
    (tmp_path / "link").symlink_to(data)
    for out in (data / "export", data / "images" / "export", tmp_path / "link" / "export"):
        with pytest.raises(UsageError, match="in the dataset's own folder"):
            export(Llava(), data, out)
    assert tree(data) == before


def test_an_empty_folder_will_do(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert not export(Hub(), data, tmp_path / "out").found_finished


@named
def test_a_damaged_shard_leaves_nothing_behind(writer: Any, data: Path, tmp_path: Path) -> None:
    shard = sorted((data / "arrow" / "val").glob("*.arrow"))[-1]
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(ShardError, match="its sha256 is not the manifest's"):
        export(writer, data, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_an_interrupted_export_keeps_the_old_one(data: Path, tmp_path: Path) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    export(Hub(), data, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        export(WebDataset(), data, tmp_path / "out", overwrite=True, on_rows=stop)
    assert tree(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]


def test_the_old_export_comes_back_when_the_new_one_cannot_take_its_place(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(Hub(), data, out)
    before, rename = tree(out), Path.rename

    def fails_into_place(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith("-old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_into_place)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        export(CauldronExport(), data, out, overwrite=True)
    assert tree(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]


# Parquet ----------------------------------------------------------------------------------------------------------


def test_hub_rows_are_phivs_own(data: Path, tmp_path: Path) -> None:
    done = export(Hub(), data, tmp_path / "out")
    for split in ("train", "val"):
        files = sorted((tmp_path / "out/data").glob(f"{split}-*-of-{len(shards(data, split)):05d}.parquet"))
        assert len(files) == len(shards(data, split)) > 1 or split == "val"
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        assert [to_sample(row) for row in rows] == list(ConversationDataset(data, split))
    assert done.losses == {}


def shards(data: Path, split: str) -> list[Path]:
    return sorted((data / "arrow" / split).glob("*.arrow"))


@pytest.mark.parametrize("writer", [Hub(), CauldronExport()], ids=["hub", "cauldron"])
def test_parquet_has_page_index_checksums_and_small_row_groups(writer: Any, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": samples("train", 230)}, max_shard_bytes=2**28)
    export(writer, data, tmp_path / "out")
    path = tmp_path / "out/data/train-00000-of-00001.parquet"
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        assert [group.num_rows for group in groups] == [100, 100, 30]
        assert all(column.has_offset_index for column in columns)
        assert {c.compression for c in columns if c.path_in_schema.endswith(".bytes")} == {"UNCOMPRESSED"}
        assert b'"_type": "Image"' in file.schema_arrow.metadata[b"huggingface"]
    raw = bytearray(path.read_bytes())
    raw[raw.index(image_bytes(0)) + 40] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize(("writer", "columns"), [(Hub(), 6), (CauldronExport(), 2)], ids=["hub", "cauldron"])
def test_datasets_opens_the_folder(
    writer: Any, columns: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    export(writer, data, tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 5, "val": 2}
    assert len(loaded["train"].column_names) == columns
    assert loaded["train"].features["images"] == datasets.List(datasets.Image())
    assert loaded["val"][1]["images"][0].size == (24, 16)


def test_the_card_agrees_with_the_features_of_the_files(data: Path, tmp_path: Path) -> None:
    datasets, yaml = pytest.importorskip("datasets"), pytest.importorskip("yaml")
    export(Hub(), data, tmp_path / "out")
    card = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    file = next((tmp_path / "out/data").glob("*.parquet"))
    wanted = datasets.Features.from_arrow_schema(pq.read_schema(file))
    assert datasets.Features._from_yaml_list(card["dataset_info"]["features"]) == wanted
    assert card["dataset_info"]["splits"][1]["num_examples"] == 2
    assert card["license"] == "unknown"


def test_what_phiv_cannot_know_is_asked_for(data: Path, tmp_path: Path) -> None:
    done = export(Hub(url="https://example.org", license="mit"), data, tmp_path / "out")
    (line,) = done.warnings
    assert "pass --creator, --date_published before" in line
    complete = Hub(url="https://example.org", license="mit", creator="Me", date_published="2026-01-31")
    assert export(complete, data, tmp_path / "complete").warnings == ()
    with pytest.raises(UsageError, match="--date_published"):
        Hub(date_published="yesterday")


def test_croissant_has_what_the_specification_requires(data: Path, tmp_path: Path) -> None:
    complete = Hub(url="https://example.org", license="mit", creator="Me", date_published="2026-01-31")
    export(complete, data, tmp_path / "out")
    value = json.loads((tmp_path / "out/croissant.json").read_text())
    required = {"@context", "@type", "conformsTo", "description", "license", "name", "url", "creator", "datePublished"}
    assert required | {"distribution", "recordSet"} <= value.keys()
    assert value["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    files = [part for part in value["distribution"] if part["@type"] == "cr:FileObject"]
    found = tree(tmp_path / "out")
    assert {f["contentUrl"]: f["sha256"] for f in files} == {k: v for k, v in found.items() if k.startswith("data/")}
    ids = [part["@id"] for part in value["distribution"]] + list(_field_ids(value["recordSet"]))
    assert len(ids) == len(set(ids))
    known = {"name", "description", *value["@context"]}
    assert {key for key in _keys(value["recordSet"]) if key[0] != "@"} <= known


def _field_ids(fields: list[dict[str, Any]]) -> Iterator[str]:
    for field in fields:
        yield field["@id"]
        yield from _field_ids([*field.get("field", []), *field.get("subField", [])])


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(inner)


def test_mlcroissant_reads_the_rows(data: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    export(Hub(), data, tmp_path / "out")
    (first, *_) = mlcroissant.Dataset(str(tmp_path / "out/croissant.json")).records("val")
    assert first["val/id"] == b"val-0000000005"
    assert first["val/images"][0].size == (24, 16)


def test_a_split_the_hub_cannot_name_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"dev-unseen": samples("dev-unseen", 1)})
    for writer in (Hub(), CauldronExport()):
        with pytest.raises(UsageError, match="no split named 'dev-unseen'"):
            export(writer, data, tmp_path / "out")


# The Cauldron -----------------------------------------------------------------------------------------------------


def test_cauldron_rows_hold_texts_sources_and_bytes(tmp_path: Path) -> None:
    sample = rich_sample()
    data = write_dataset(tmp_path / "data", {"val": [sample]})
    done = export(CauldronExport(), data, tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out/data/val-00000-of-00001.parquet").to_pylist()
    assert row == {
        "images": [{"bytes": image_bytes(0), "path": "val/p0.png"}, {"bytes": image_bytes(1), "path": "val/p1.png"}],
        "texts": [
            {"user": "What is <image>?", "assistant": "A", "source": "mine"},
            {"user": "And this?", "assistant": "C", "source": "mine"},
        ],
    }
    assert done.losses == dict.fromkeys(
        (
            "accepted answers beside the chosen one",
            "image positions inside the text",
            "record ids",
            "system prompts",
            "where images come from (input file, frame, time)",
            "which turn shows which image",
        ),
        1,
    )


@given(st.lists(any_samples(), min_size=1, max_size=4, unique_by=lambda sample: sample.id))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cauldron_loses_only_what_it_declares(tmp_path_factory: pytest.TempPathFactory, rows: list[Sample]) -> None:
    done, out = exported(CauldronExport(), rows, tmp_path_factory.mktemp("x"))
    table = pq.read_table(out / "data/val-00000-of-00001.parquet").to_pylist()
    assert done.losses == dict(sorted(Counter(loss for row in rows for loss in set(cauldron_losses(row))).items()))
    for row, sample in zip(table, rows, strict=True):
        turns = sample.conversation.turns
        texts = [(turn.user, turn.assistant, sample.conversation.source) for turn in turns]
        assert [(t["user"], t["assistant"], t["source"]) for t in row["texts"]] == texts
        assert [(i["path"], i["bytes"]) for i in row["images"]] == [(i.meta.path, i.data) for i in sample.images]
        plain = all(turn.answers is None and turn.image_offsets is None for turn in turns)
        if set(cauldron_losses(sample)) == {"record ids"}:  # nothing else may differ then
            assert plain
            assert sample.conversation.system is None
            assert not any(turn.images for turn in turns[1:])


def exported(writer: Any, rows: list[Sample], folder: Path) -> tuple[Exported, Path]:
    """An export of rows, whose images need be none: shards alone are written."""
    from data_builders import write_manifest

    from phiv_data.storage.jsonl import write_jsonl
    from phiv_data.storage.shards import write_shard
    from phiv_schemas import SplitInfo

    data = folder / "data"
    shard = write_shard(data / "arrow/val/data-00000-of-00001.arrow", rows, root=data)
    jsonl = write_jsonl(data / "ucf101_val.jsonl", (row.conversation for row in rows))
    (data / "rejects.jsonl").write_bytes(b"")
    (data / "images.sha256").write_bytes(b"")
    num_images = sum(len(row.images) for row in rows)
    write_manifest(data, [SplitInfo(name="val", rows=len(rows), num_images=num_images, jsonl=jsonl, shards=[shard])])
    return export(writer, data, folder / "out"), folder / "out"


# WebDataset -------------------------------------------------------------------------------------------------------


@given(st.lists(any_samples(), min_size=1, max_size=4, unique_by=lambda sample: sample.id))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_webdataset_loses_nothing(tmp_path_factory: pytest.TempPathFactory, rows: list[Sample]) -> None:
    done, out = exported(WebDataset(), rows, tmp_path_factory.mktemp("x"))
    assert done.losses == {}
    assert read_tars(sorted(out.glob("*.tar"))) == rows


def read_tars(paths: list[Path]) -> list[Sample]:
    """Samples as the webdataset library groups members: by what stands before the first dot."""
    groups: dict[str, dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                assert groups.setdefault(key, {}).setdefault(field, content := file.read()) is content
    return [_sample_of(fields) for fields in groups.values()]


def _sample_of(fields: dict[str, bytes]) -> Sample:
    record = json.loads(fields["json"])
    media, files = record.pop("media"), record.pop("files")
    images = tuple(EncodedImage(ImageMeta(**m), fields[name]) for m, name in zip(media, files, strict=True))
    return Sample(Conversation.model_validate(record), images)


def test_tar_members_hold_no_clock_and_no_owner(data: Path, tmp_path: Path) -> None:
    export(WebDataset(), data, tmp_path / "out")
    names = []
    for path in sorted((tmp_path / "out").glob("train-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
                names.append(member.name)
    first = [f"train-0000000000.{end}" for end in ("json", "0.png", "1.png")]
    assert names[:4] == [*first, "train-0000000001.json"]
    assert len(names) == len(set(names)) == 5 * 3


def test_the_suffix_is_that_of_the_real_format(tmp_path: Path) -> None:
    data = image_bytes(1, kind="JPEG")
    image = encoded("val/lies.png", data, kind="JPEG")
    turn = Turn(images=("val/lies.png",), user="?", assistant="!")
    sample = Sample(Conversation(id="a.b", source="s", conversations=(turn,)), (image,))
    _, out = exported(WebDataset(), [sample], tmp_path)
    with tarfile.open(out / "val-00000-of-00001.tar") as tar:
        assert tar.getnames() == ["val-0000000000.json", "val-0000000000.0.jpg"]


def test_datasets_reads_the_tars(data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export(WebDataset(), data, tmp_path / "out")
    files = {"val": str(tmp_path / "out/val-*.tar")}
    loaded = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))["val"]
    assert [row["json"]["id"] for row in loaded] == ["val-0000000005", "val-0000000006"]
    assert loaded[0]["0.png"].size == (24, 16)


# Rows of other trainers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "sharegpt", "swift", "trl"])
@pytest.mark.parametrize("layout", ["json", "jsonl"])
def test_rows_are_those_of_the_format_and_images_lie_beside(name: str, layout: Any, data: Path, tmp_path: Path) -> None:
    writer = {w.name: type(w) for w in WRITERS}[name](layout=layout)
    export(writer, data, tmp_path / "out")
    for split in ("train", "val"):
        text = (tmp_path / f"out/{split}.{layout}").read_text()
        rows = json.loads(text) if layout == "json" else [json.loads(line) for line in text.splitlines()]
        wanted = list(ConversationDataset(data, split))
        assert rows == [FORMATS[name].render(sample.conversation) for sample in wanted]
        for sample in wanted:
            assert all((tmp_path / "out/images" / i.meta.path).read_bytes() == i.data for i in sample.images)


@pytest.mark.parametrize("name", ["llava", "sharegpt", "swift", "trl"])
def test_the_converter_reads_the_folder_back(name: str, data: Path, tmp_path: Path) -> None:
    from phiv_converters.chat_json import options as chat_json

    export({w.name: w for w in WRITERS}[name], data, tmp_path / "out")
    options = getattr(chat_json, f"{name.capitalize()}Options")
    there = options(source=tmp_path / "out", images=tmp_path / "out/images", keep_ids=True)
    convert(there, tmp_path / "back", num_workers=0)
    for split in ("train", "val"):
        before, after = (ConversationDataset(folder, split) for folder in (data, tmp_path / "back"))
        assert [_without_paths(sample) for sample in after] == [_without_paths(sample) for sample in before]


def _without_paths(sample: Sample) -> tuple[Any, ...]:
    c = sample.conversation
    turns = [(len(turn.images), turn.user, turn.assistant, turn.image_offsets) for turn in c.turns]
    return c.id, c.source, c.system, turns, [image.data for image in sample.images]


@pytest.mark.parametrize("name", ["llava", "sharegpt", "swift", "trl"])
def test_the_losses_of_a_format_are_counted_in_words(name: str, tmp_path: Path) -> None:
    writer = {w.name: w for w in WRITERS}[name]
    rows = [rich_sample(), _one_image()]  # nobody loses anything of the second
    done, _ = exported(writer, rows, tmp_path)
    words = [LOSSES[code] for code in FORMATS[name].losses(rows[0].conversation)]
    assert words
    assert done.losses == dict.fromkeys(sorted([*words, PROVENANCE]), 1)


def test_a_prefix_stands_before_every_path(data: Path, tmp_path: Path) -> None:
    export(Trl(image_prefix="/pics/"), data, tmp_path / "trl", splits=("val",))
    row = json.loads((tmp_path / "trl/val.jsonl").read_text().splitlines()[0])
    assert row["images"][0] == "/pics/val/Archery/v_0005.0.png"
    single, _ = exported(Llava(image_prefix="/pics/"), [_one_image()], tmp_path / "one")
    assert json.loads((tmp_path / "one/out/val.json").read_text())[0]["image"] == "/pics/val/a.png"
    assert single.losses == {}


def _one_image() -> Sample:
    turn = Turn(images=("val/a.png",), user="?", assistant="!")
    return Sample(Conversation(id="a", source="s", conversations=(turn,)), (encoded("val/a.png", image_bytes(1)),))


def test_llama_factory_gets_an_entry_per_file(data: Path, tmp_path: Path) -> None:
    export(ShareGpt(), data, tmp_path / "out")
    info = json.loads((tmp_path / "out/dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {
        "ucf101_train": "train.json",
        "ucf101_val": "val.json",
    }


def test_two_images_of_one_path_are_an_error(tmp_path: Path) -> None:
    def row(id: str, number: int) -> Sample:
        turn = Turn(images=("a.png",), user="?", assistant="!")
        return Sample(Conversation(id=id, source="s", conversations=(turn,)), (encoded("a.png", image_bytes(number)),))

    with pytest.raises(ShardError, match="two images have this path"):
        exported(Llava(), [row("a", 1), row("b", 2)], tmp_path)


def test_a_split_without_rows_is_an_empty_file_or_a_warning(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": samples("train", 1), "val": []})
    for writer in WRITERS:
        export(writer, data, tmp_path / writer.name)
    assert json.loads((tmp_path / "llava/val.json").read_text()) == []
    assert (tmp_path / "trl/val.jsonl").read_bytes() == b""
    assert read_tars([tmp_path / "webdataset/val-00000-of-00001.tar"]) == []
    loaded = pytest.importorskip("datasets").load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 1}
    warnings = json.loads((tmp_path / "cauldron" / RECORD).read_text())["warnings"]
    assert warnings == ["split 'val' has no rows, so no file: `datasets` opens no empty split"]
