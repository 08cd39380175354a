"""The Cauldron's and FineVision's tables: rows become dialogues, bytes are copied, exports come back."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_converters.cauldron.options import CauldronOptions
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.engine import Outcome, convert
from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.engine import export
from phiv_data.export.hub import Hub
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import Draft, Sample
from phiv_data.testing import Case, Check, conformance_checks
from phiv_data.validation import validate
from phiv_schemas import SourceError, UsageError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(number: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 8), (number % 256, number // 256, 9)).save(out, kind)
    return out.getvalue()


def row(number: int, *, pairs: int = 2, images: int = 1, source: str | None = "vqav2") -> dict[str, Any]:
    texts = [{"user": f"q{number}.{k}", "assistant": f"a{number}.{k}", "source": source} for k in range(pairs)]
    cells = [{"bytes": image(number * 10 + k), "path": None} for k in range(images)]
    return {"images": cells, "texts": texts}


def write(path: Path, rows: list[dict[str, Any]], image: pa.DataType = IMAGE, **more: pa.DataType) -> Path:
    keys = sorted({key for r in rows for t in r["texts"] or [] for key in t}) or ["user", "assistant"]
    texts = pa.struct([(key, pa.string()) for key in keys])
    columns = {"images": pa.list_(image), "texts": pa.list_(texts), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns.items())), path)
    return path.parent


def run(options: CauldronOptions, out: Path) -> Outcome:
    return convert(options, out, num_workers=0)


def read(out: Path, split: str = "train") -> list[Sample]:
    return list(ConversationDataset(out, split))


# Rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_dialogue_with_its_images_in_the_first_turn(tmp_path: Path) -> None:
    source = write(tmp_path / "in/train-00000-of-00001.parquet", [row(1, images=2), row(2, images=0, pairs=1)])
    run(CauldronOptions(source), tmp_path / "out")
    first, second = read(tmp_path / "out")
    assert [(t.user, t.assistant) for t in first.conversation.turns] == [("q1.0", "a1.0"), ("q1.1", "a1.1")]
    assert [len(t.images) for t in first.conversation.turns] == [2, 0]
    assert [i.data for i in first.images] == [image(10), image(11)]
    assert (first.conversation.source, second.images) == ("vqav2", ())
    assert validate(tmp_path / "out").ok


def test_only_the_first_pair_when_asked(tmp_path: Path) -> None:
    source = write(tmp_path / "in/train.parquet", [row(1, pairs=3)])
    run(CauldronOptions(source, turns="first"), tmp_path / "out")
    (only,) = read(tmp_path / "out")
    assert [t.user for t in only.conversation.turns] == ["q1.0"]


def test_finevision_has_the_source_beside_the_texts_and_ratings_nobody_reads(tmp_path: Path) -> None:
    record = row(1) | {"source": "ai2d", "relevance_min": 4}
    record["texts"] = [{"user": "q", "assistant": "a"}]
    more = {"source": pa.string(), "relevance_min": pa.int64()}
    source = write(tmp_path / "in/ai2d_merged/train-00000-of-00001.parquet", [record], **more)
    outcome = run(CauldronOptions(source), tmp_path / "out")
    assert read(tmp_path / "out")[0].conversation.source == "ai2d"
    assert outcome.warnings == ("columns that are not read: relevance_min",)


@pytest.mark.parametrize(("named", "wanted"), [(None, "nlvr2"), ("  ", "nlvr2"), ("a", "a")])
def test_a_row_without_a_source_has_that_of_its_config(named: str | None, wanted: str, tmp_path: Path) -> None:
    write(tmp_path / "in/nlvr2/train-00000-of-00001.parquet", [row(1, source=named)])
    write(tmp_path / "in/vqav2/train-00000-of-00001.parquet", [row(2)])
    run(CauldronOptions(tmp_path / "in", config="nlvr2"), tmp_path / "out")
    (only,) = read(tmp_path / "out")
    assert only.conversation.source == wanted


def test_all_configs_unless_one_is_named(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a")):
        write(tmp_path / f"in/{name}/train-00000-of-00001.parquet", [row(number, source=name)])
    outcome = run(CauldronOptions(tmp_path / "in"), tmp_path / "out")
    assert [s.conversation.source for s in read(tmp_path / "out")] == ["a", "b"]
    assert "2 parquet files of a, b" in outcome.manifest.source
    with pytest.raises(UsageError, match=r"--config: no config 'c' \(found: a, b\)"):
        run(CauldronOptions(tmp_path / "in", config="c"), tmp_path / "other")


def test_images_keep_their_names_and_equal_ones_are_stored_once(tmp_path: Path) -> None:
    rows = [row(1), row(1), row(2)]
    for r, name in zip(rows, ("dir/page.png", "dir/page.png", "other/page.png"), strict=True):
        r["images"][0]["path"] = name
    source = write(tmp_path / "in/train.parquet", rows)
    run(CauldronOptions(source), tmp_path / "out")
    files = sorted(p for p in (tmp_path / "out/images").rglob("*") if p.is_file())
    assert [p.name.partition("-")[2] for p in files] == ["page.png", "page.png"]


@pytest.mark.parametrize("name", [None, "", "bad\x00name", "x" * 250 + ".png"])
def test_an_invented_name_has_the_suffix_of_the_real_format(name: str | None, tmp_path: Path) -> None:
    record = row(1)
    record["images"] = [{"bytes": image(3, "JPEG"), "path": name}]
    source = write(tmp_path / "in/train.parquet", [record])
    run(CauldronOptions(source), tmp_path / "out")
    path = read(tmp_path / "out")[0].images[0].meta.path
    digest = hashlib.sha256(image(3, "JPEG")).hexdigest()
    assert path == f"train/{digest[:2]}/{digest[2:22]}.jpg"


def test_what_cannot_be_used_is_rejected_with_its_code(tmp_path: Path) -> None:
    rows = [row(n) for n in range(8)]
    rows[0]["images"][0]["bytes"] = image(0, "JPEG")[:-60]
    rows[1]["images"][0]["bytes"] = b"no image"
    rows[2]["images"][0] = {"bytes": None, "path": "gone.png"}
    rows[3]["texts"] = []
    rows[4]["texts"][0]["user"] = None
    rows[5]["texts"][0]["assistant"] = None
    rows[6]["texts"][1]["assistant"] = None
    source = write(tmp_path / "in/train.parquet", rows)
    a = run(CauldronOptions(source), tmp_path / "out").manifest.accounting
    codes = {"bad-row": 1, "bad-turns": 2, "missing-image": 1, "not-an-image": 1, "truncated": 1}
    assert (a.inputs, a.written, a.rejected, a.unlabeled) == (8, 1, codes, 1)


def test_plain_bytes_and_saved_folders_give_the_same_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row(n) for n in range(5)]
    one = write(tmp_path / "parquet/train-00000-of-00001.parquet", rows)
    plain = [r | {"images": [cell["bytes"] for cell in r["images"]]} for r in rows]
    two = write(tmp_path / "plain/train-00000-of-00001.parquet", plain, image=pa.binary())
    table = pq.read_table(one / "train-00000-of-00001.parquet")
    datasets.DatasetDict(train=datasets.Dataset(table)).save_to_disk(str(tmp_path / "saved"))
    for name, source in (("a", one), ("b", two), ("c", tmp_path / "saved")):
        run(CauldronOptions(source), tmp_path / name)
    assert read(tmp_path / "a") == read(tmp_path / "b") == read(tmp_path / "c")


# Splits -----------------------------------------------------------------------------------------------------------


def test_validation_becomes_val(tmp_path: Path) -> None:
    write(tmp_path / "in/validation-00000-of-00001.parquet", [row(1)])
    source = write(tmp_path / "in/train-00000-of-00001.parquet", [row(2)])
    outcome = run(CauldronOptions(source), tmp_path / "out")
    assert [(s.name, s.rows) for s in outcome.manifest.splits] == [("train", 1), ("val", 1)]
    with pytest.raises(UsageError, match="the source has a val split of its own"):
        run(CauldronOptions(source, val_fraction=0.1), tmp_path / "other")


def test_val_is_the_same_rows_however_they_are_cut_into_files(tmp_path: Path) -> None:
    rows = [row(n // 2, pairs=1 + n % 2) for n in range(200)]  # each image in two rows of other texts
    one = write(tmp_path / "one/train-00000-of-00001.parquet", rows)
    write(tmp_path / "two/train-00000-of-00002.parquet", rows[:51])
    two = write(tmp_path / "two/train-00001-of-00002.parquet", rows[51:])
    for name, source in (("a", one), ("b", two)):
        run(CauldronOptions(source, val_fraction=0.2), tmp_path / name)
    val, train = ({s.images[0].meta.sha256 for s in read(tmp_path / "a", split)} for split in ("val", "train"))
    assert not val & train
    assert 20 <= len(read(tmp_path / "a", "val")) <= 60
    for split in ("train", "val"):
        a, b = ([(s.conversation.turns, s.images[0].data) for s in read(tmp_path / n, split)] for n in "ab")
        assert a == b


def test_rows_that_share_any_image_stay_in_one_split_and_train_keeps_a_row(tmp_path: Path) -> None:
    rows = [row(n) | {"images": row(n)["images"] + row(n + 1)["images"]} for n in range(60) if n % 4 != 3]
    source = write(tmp_path / "in/train-00000-of-00001.parquet", rows)
    run(CauldronOptions(source, val_fraction=0.3), tmp_path / "out")
    val, train = (
        {i.meta.sha256 for s in read(tmp_path / "out", split) for i in s.images} for split in ("val", "train")
    )
    assert val
    assert train
    assert not val & train
    run(CauldronOptions(write(tmp_path / "one/train.parquet", rows[:3]), val_fraction=0.99), tmp_path / "one/out")
    assert len(read(tmp_path / "one/out", "train")) == 3


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="--val_fraction"):
        CauldronOptions(Path("x"), val_fraction=fraction)


# Sources that will not do -----------------------------------------------------------------------------------------


def test_other_tables_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceError, match="no tables in"):
        run(CauldronOptions(tmp_path / "in"), tmp_path / "out")
    pq.write_table(pa.table({"image": [b""], "texts": [[""]]}), tmp_path / "in/train.parquet")
    with pytest.raises(SourceError, match=r"has no column images \(found: image, texts\)"):
        run(CauldronOptions(tmp_path / "in"), tmp_path / "out")
    with pytest.raises(SourceError, match="--source: no such file or folder"):
        run(CauldronOptions(tmp_path / "nothing"), tmp_path / "out")


def test_a_missing_shard_is_reported(tmp_path: Path) -> None:
    source = write(tmp_path / "in/train-00000-of-00002.parquet", [row(1)])
    outcome = run(CauldronOptions(source), tmp_path / "out")
    assert outcome.warnings == ("1 files of the dataset are not here (first: train-00001-of-00002.parquet)",)


def conformance_case(folder: Path) -> Case:
    write(folder / "in/test-00000-of-00001.parquet", [row(20)])
    unlabeled = row(4)
    unlabeled["texts"][1]["assistant"] = None
    source = write(folder / "in/train-00000-of-00001.parquet", [*(row(n) for n in range(4)), unlabeled])
    changed = (partial(CauldronOptions, turns="first"), partial(CauldronOptions, val_fraction=0.5))
    return Case(CauldronOptions, source, changed, unlabeled=1, damaged="")


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_converter_keeps_the_contract(check: Check, tmp_path: Path) -> None:
    case = conformance_case(tmp_path / "case")
    (tmp_path / "work").mkdir()
    check(case, tmp_path / "work")


# There and back ---------------------------------------------------------------------------------------------------


def essence(sample: Sample) -> tuple[Any, ...]:
    """What the table carries of a row."""
    c = sample.conversation
    texts = [(turn.user, turn.assistant) for turn in c.turns]
    return c.source, texts, [image.data for image in sample.images]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    convert(Ucf101Options(demo=True, max_per_class=2), out, num_workers=0)
    return out


def test_the_demo_goes_there_and_back(demo: Path, tmp_path: Path) -> None:
    export(CauldronExport(), demo, tmp_path / "table")
    run(CauldronOptions(tmp_path / "table"), tmp_path / "back")
    for split in ("train", "val", "test"):
        before, after = read(demo, split), read(tmp_path / "back", split)
        assert len(before) == 12
        assert [essence(s) for s in before] == [essence(s) for s in after]
        assert [s.conversation.turns[0].images for s in before] != [s.conversation.turns[0].images for s in after]


def test_an_export_of_another_format_is_distinguished_from_a_cauldron(demo: Path, tmp_path: Path) -> None:
    export(Hub(), demo, tmp_path / "hub")
    (tmp_path / "hub/.phiv-export.json").unlink()
    with pytest.raises(SourceError, match="has no column texts"):
        run(CauldronOptions(tmp_path / "hub"), tmp_path / "back")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
dialogues = st.lists(
    st.tuples(
        st.lists(st.tuples(text, text), min_size=1, max_size=3),
        st.lists(st.integers(0, 40), max_size=3),
        st.sampled_from(["vqav2", "a b", "ünï"]),
    ),
    min_size=1,
    max_size=5,
)


@given(dialogues)
@settings(max_examples=15, deadline=None)
def test_there_and_back_again(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    """Table -> conversations -> table -> conversations: the second pair equals the first."""
    folder = tmp_path_factory.mktemp("x")
    table = [
        {
            "images": [{"bytes": image(n), "path": f"{n}.png"} for n in numbers],
            "texts": [{"user": user, "assistant": answer, "source": source} for user, answer in pairs],
        }
        for pairs, numbers, source in rows
    ]
    run(CauldronOptions(write(folder / "in/train.parquet", table)), folder / "one")
    first = read(folder / "one")
    wanted = [(source, pairs, [image(n) for n in numbers]) for pairs, numbers, source in rows]
    assert [essence(s) for s in first] == wanted
    export(CauldronExport(), folder / "one", folder / "table")
    run(CauldronOptions(folder / "table"), folder / "two")
    assert [essence(s) for s in read(folder / "two")] == wanted


def test_drafts_need_no_engine(tmp_path: Path) -> None:
    converter = CauldronOptions(write(tmp_path / "in/train.parquet", [row(1), row(2)])).open(tmp_path / "work")
    items = list(converter.inputs().items)
    draft = converter.draft(items[-1])
    assert isinstance(draft, Draft)
    assert [item.key for item in items] == ["train.parquet:00000000", "train.parquet:00000001"]
    assert draft.turns[0].user == "q2.0"
