"""Images compared with what they were made from: differences are reported, what cannot be compared is counted."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from data_builders import rewrite_shard, samples, seal_manifest, write_dataset
from media_tools import number_image, numbered_clip
from PIL import Image
from toy_converter import ToyOptions, draw_toy_source

from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.folder.options import FolderOptions
from phiv_converters.hateful_memes.options import HatefulMemesOptions
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.engine import convert
from phiv_data.media import video
from phiv_data.media.images import encode_jpeg
from phiv_data.storage.dataset import ConversationDataset, read_manifest
from phiv_data.storage.sample import EncodedImage
from phiv_data.validation import validate
from phiv_data.validation.core.finding import Settings
from phiv_data.validation.imaging.pixel_diff import difference_of
from phiv_data.validation.provenance import check as provenance
from phiv_data.validation.provenance.source_files import MAX_NAMESAKES, SourceFiles
from phiv_schemas import Issue, Manifest, SourceError, UsageError, ValidationReport

CLIPS = ("v_Run_g01_c01", "v_Run_g02_c01", "v_Jump_g01_c01")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source in the recipe's layout: every frame of a clip shows its number."""
    root = tmp_path_factory.mktemp("clips") / "UCF101_subset"
    for split, names in {"train": CLIPS, "val": CLIPS[:1]}.items():
        for i, name in enumerate(names):
            folder = root / split / name.split("_")[1]
            folder.mkdir(parents=True, exist_ok=True)
            numbered_clip(folder / f"{name}.avi", 9 + i + (split == "val"), b_frames=1)
    return root


@pytest.fixture(scope="module")
def frames(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frames") / "ucf101"
    convert(Ucf101Options(clips, num_frames=4), out, num_workers=0)
    return out


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy_source(tmp_path_factory.mktemp("toys") / "source", {"train": ["fox", "cat"], "val": ["owl"]})


@pytest.fixture(scope="module")
def copies(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("copies") / "toy"
    convert(ToyOptions(toys), out, num_workers=0)
    return out


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    def change(out: Path, split: str, edit: Callable[[EncodedImage], EncodedImage]) -> Path:
        """A copy of `out`, each image of a split's shard as `edit` makes it."""
        copy = Path(shutil.copytree(out, tmp_path / "changed"))
        rewrite_shard(copy, split, edit)
        return copy

    return change


def again(image: EncodedImage, data: bytes, **facts: Any) -> EncodedImage:
    """Other bytes, and true facts about them."""
    size = Image.open(io.BytesIO(data)).size
    true = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "width": size[0], "height": size[1]}
    return EncodedImage(image.meta.model_copy(update=true | facts), data)


def reported(report: ValidationReport) -> list[tuple[str, str, int | None, str | None]]:
    """Findings about images and their sources: code, file, line, path."""
    found = [issue for issue in report.issues if issue.code.startswith("PV31") and not is_about_rows(issue)]
    return [(issue.code, issue.file, issue.line, issue.json_path) for issue in found]


def messages(report: ValidationReport) -> list[str]:
    return [issue.message for issue in report.issues if issue.code.startswith("PV31") and not is_about_rows(issue)]


def is_about_rows(issue: Issue) -> bool:
    """True for what a source says of the rows, which has tests of its own."""
    return issue.message.startswith("rows were not compared")


TRAIN, VAL = "arrow/train/data-00000-of-00001.arrow", "arrow/val/data-00000-of-00001.arrow"


# What agrees ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [True, False])
def test_what_was_converted_agrees_with_its_source(frames: Path, clips: Path, deep: bool) -> None:
    assert reported(validate(frames, source=clips, deep=deep)) == []
    assert reported(validate(frames, source=clips.parent, deep=deep)) == []  # a folder around it


def test_copied_images_agree_with_their_files(copies: Path, toys: Path) -> None:
    only = "rows were not compared with the source: its converter 'toy_converter:ToyOptions' is not installed"
    for source in (toys, str(toys.parent)):
        report = validate(copies, source=source)
        assert [issue.message for issue in report.issues] == [only]
        assert report.ok


def test_archives_are_unpacked(frames: Path, clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tgz", "w:gz") as archive:
        archive.add(clips, clips.name)
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            archive.add(clips / split, split)
    assert reported(validate(frames, source=tmp_path / "all.tgz")) == []
    assert reported(validate(frames, source=[tmp_path / "train.tar", tmp_path / "val.tar"])) == []
    only_val = validate(frames, source=tmp_path / "val.tar")
    assert {code for code, *_ in reported(only_val)} == {"PV311", "PV312"}  # a clip of val has a train clip's name


def test_files_are_found_by_name_where_folders_were_moved(frames: Path, clips: Path, tmp_path: Path) -> None:
    for clip in clips.rglob("*.avi"):
        folder = tmp_path / "moved" / clip.parent.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder)
    assert reported(validate(frames, source=tmp_path)) == []


def test_workers_and_pieces_make_no_difference(
    frames: Path, clips: Path, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    black = encode_jpeg(Image.new("RGB", (64, 64)))
    broken = changed(frames, "train", lambda image: again(image, black) if ".2." in image.meta.path else image)
    whole = validate(broken, source=clips)
    assert len(reported(whole)) == 3
    assert validate(broken, source=clips, num_workers=2) == whole
    monkeypatch.setattr(provenance, "ROWS", 1)
    assert validate(broken, source=clips) == whole


def test_each_clip_is_decoded_once(frames: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def counting(source: Path, indices: Any, original: Any = video.frames_at, **options: Any) -> Any:
        decoded.append(source)
        return original(source, indices, **options)

    monkeypatch.setattr(provenance, "frames_at", counting)
    assert reported(validate(frames, source=clips)) == []
    assert sorted(decoded) == sorted(clips.rglob("*.avi"))


def test_rows_that_show_one_clip_decode_it_once(
    frames: Path, clips: Path, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clips / "train/Run/v_Run_g01_c01.avi"
    facts = {"source": "train/Run/v_Run_g01_c01.avi", "source_sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}

    def edit(image: EncodedImage) -> EncodedImage:
        index = int(image.meta.path.split(".")[-2])
        return EncodedImage(image.meta.model_copy(update={**facts, "frame_index": index}), image.data)

    out = changed(frames, "train", edit)
    decoded = []

    def counting(source: Path, indices: Any, original: Any = video.frames_at, **options: Any) -> Any:
        decoded.append(source)
        return original(source, indices, **options)

    monkeypatch.setattr(provenance, "frames_at", counting)
    validate(out, source=clips / "train")
    assert decoded == [clip]


def test_frames_of_used_groups_are_found_again(tmp_path: Path) -> None:
    (tmp_path / "clips/run").mkdir(parents=True)
    numbered_clip(tmp_path / "clips/run/a.mp4", 60, b_frames=1)  # groups of 12
    convert(FolderOptions(tmp_path / "clips", num_frames=2, val_fraction=0), tmp_path / "out", num_workers=0)
    (sample,) = ConversationDataset(tmp_path / "out", "train")
    assert [image.meta.decoder for image in sample.images] == [video.decoder_version(groups_only=True)] * 2
    assert [image.meta.frame_index for image in sample.images] == [0, 30]
    assert reported(validate(tmp_path / "out", source=tmp_path / "clips")) == []


def test_frames_of_decord_agree_with_pyavs(clips: Path, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    out = tmp_path / "out"
    convert(Ucf101Options(clips, num_frames=2, decoder="decord", jpeg_quality=30), out, num_workers=0)
    report = validate(out, source=clips)
    assert report.rows
    assert messages(report) == []


# What differs -----------------------------------------------------------------------------------------------------


def test_a_source_that_is_gone_is_reported_once_for_each_row(frames: Path, clips: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(clips, tmp_path / "source"))
    (source / "train/Jump/v_Jump_g01_c01.avi").unlink()
    report = validate(frames, source=source)
    assert reported(report) == [("PV311", TRAIN, 1, "$.images[0]")]
    assert messages(report) == ["its source 'train/Jump/v_Jump_g01_c01.avi' is not there"]
    assert not report.ok


def test_a_source_that_has_changed_is_reported(copies: Path, toys: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(toys, tmp_path / "source"))
    (source / "val/owl.png").write_bytes((source / "train/fox.png").read_bytes())
    assert reported(validate(copies, source=source)) == [("PV312", VAL, 1, "$.images[0]")]


def test_frames_under_each_others_numbers_are_reported(frames: Path, clips: Path, changed: Callable[..., Path]) -> None:
    swap = {0: 2, 2: 0}

    def edit(image: EncodedImage) -> EncodedImage:
        index = image.meta.frame_index or 0
        return EncodedImage(image.meta.model_copy(update={"frame_index": swap.get(index, index)}), image.data)

    report = validate(changed(frames, "val", edit), source=clips)
    assert reported(report) == [("PV310", VAL, 1, "$.images[0]"), ("PV310", VAL, 1, "$.images[1]")]
    assert messages(report)[0].startswith("is not frame 2 of 'val/Run/v_Run_g01_c01.avi': it differs in pixels, by ")


def test_a_small_square_of_a_frame_is_reported(frames: Path, clips: Path, changed: Callable[..., Path]) -> None:
    def edit(image: EncodedImage) -> EncodedImage:
        pixels = np.array(image.open())
        pixels[20:28, 20:28] ^= 0x80  # in the mean of all pixels this is 2 levels
        return again(image, encode_jpeg(pixels))

    assert [code for code, *_ in reported(validate(changed(frames, "val", edit), source=clips))] == ["PV310"] * 4


@pytest.mark.parametrize("size", [(32, 64), (63, 64)])
def test_a_frame_of_another_size_is_reported(
    frames: Path, clips: Path, changed: Callable[..., Path], size: tuple[int, int]
) -> None:
    out = changed(frames, "val", lambda image: again(image, encode_jpeg(image.open().resize(size))))
    assert "differs in size" in messages(validate(out, source=clips))[0]


def test_a_frame_beyond_the_end_is_reported(frames: Path, clips: Path, changed: Callable[..., Path]) -> None:
    out = changed(
        frames, "val", lambda image: EncodedImage(image.meta.model_copy(update={"frame_index": 99}), image.data)
    )
    assert set(messages(validate(out, source=clips))) == {"there is no frame 99 of 'val/Run/v_Run_g01_c01.avi'"}


def test_a_broken_frame_is_reported_and_stops_nothing(frames: Path, clips: Path, changed: Callable[..., Path]) -> None:
    def edit(image: EncodedImage) -> EncodedImage:
        return EncodedImage(image.meta, image.data[:100] if image.meta.path.endswith(".1.jpg") else image.data)

    report = validate(changed(frames, "val", edit), source=clips)
    assert reported(report) == [("PV310", VAL, 1, "$.images[1]")]


def test_bytes_alone_are_a_warning_with_the_versions_of_the_conversion_and_nothing_with_others(
    frames: Path, clips: Path, changed: Callable[..., Path]
) -> None:
    def edit(image: EncodedImage) -> EncodedImage:
        out = io.BytesIO()
        image.open().save(out, "JPEG", quality=95)
        return again(image, out.getvalue())

    out = changed(frames, "val", edit)
    report = validate(out, source=clips)
    assert [code for code, *_ in reported(report)] == ["PV314"] * 4
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"libavcodec": "', '"libavcodec": "1'))
    assert reported(validate(out, source=clips)) == []


def test_a_copy_with_other_bytes_is_reported(copies: Path, toys: Path, changed: Callable[..., Path]) -> None:
    other = io.BytesIO()
    Image.new("RGB", (4, 3)).save(other, "PNG")
    out = changed(copies, "train", lambda image: EncodedImage(image.meta, other.getvalue()))  # it says it is a copy
    report = validate(out, source=toys)
    assert reported(report) == [("PV310", TRAIN, 1, "$.images[0]"), ("PV310", TRAIN, 2, "$.images[0]")]
    assert messages(report)[0] == "bytes are not those of its source 'train/cat.png'"


# What cannot be compared ------------------------------------------------------------------------------------------


def test_images_made_again_agree_as_pixels_or_are_counted(
    copies: Path, toys: Path, changed: Callable[..., Path]
) -> None:
    def edit(image: EncodedImage) -> EncodedImage:
        pil_image = image.open()
        out = io.BytesIO()
        (pil_image if "fox" in image.meta.path else pil_image.resize((8, 6))).save(out, "BMP")
        return again(image, out.getvalue(), format="BMP")

    report = validate(changed(copies, "train", edit), source=toys)
    assert messages(report) == [
        "1 image was not compared with the source: their converter made them again, and they differ from it"
    ]


def test_images_that_name_no_source_are_counted(toys: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": samples("train", 3), "val": samples("val", 1)})
    report = validate(tmp_path, source=toys)
    assert messages(report) == ["8 images were not compared with the source: the shards name none"]
    assert report.ok


def test_without_shards_images_are_counted(toys: Path, tmp_path: Path) -> None:
    convert(ToyOptions(toys), tmp_path / "out", num_workers=0, arrow=False)
    assert [text.split(": ")[0] for text in messages(validate(tmp_path / "out", source=toys))] == [
        "1 image was not compared with the source",
        "2 images were not compared with the source",
    ]


@pytest.mark.parametrize("facts", [{"decoder": "cv2-4.10"}, {"decoder": None}])
def test_frames_of_other_programs_are_counted(
    frames: Path, clips: Path, changed: Callable[..., Path], facts: dict[str, Any]
) -> None:
    out = changed(frames, "val", lambda image: EncodedImage(image.meta.model_copy(update=facts), image.data))
    report = validate(out, source=clips)
    assert messages(report) == [f"4 images were not compared with the source: {provenance.OTHER_PROGRAM}"]


def test_a_quality_that_the_manifest_does_not_name_is_counted(
    frames: Path, clips: Path, changed: Callable[..., Path]
) -> None:
    out = changed(frames, "val", lambda image: image)
    manifest = read_manifest(out)
    text = manifest.model_dump_json().replace("jpeg_quality", "q")
    seal_manifest(out, type(manifest).model_validate_json(text))
    assert messages(validate(out, source=clips)) == [
        f"16 images were not compared with the source: {provenance.OTHER_PROGRAM}"
    ]


def test_what_an_archive_in_the_source_may_hold_is_counted(copies: Path, toys: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(toys, tmp_path / "source"))
    (source / "val/owl.png").unlink()
    (source / "images.tar.gz").write_bytes(b"not looked into")
    report = validate(copies, source=source)
    assert messages(report) == [
        "1 image was not compared with the source: it is no file below the source, and may be in 'images.tar.gz'"
    ]


def test_a_image_that_its_row_held_is_counted(copies: Path, toys: Path, changed: Callable[..., Path]) -> None:
    def edit(image: EncodedImage) -> EncodedImage:
        name = f"data/{image.meta.source_sha256[:32]}.png"  # type: ignore[index]  # the toy converter names one
        return EncodedImage(image.meta.model_copy(update={"source": name}), image.data)

    assert "was part of its row" in messages(validate(changed(copies, "val", edit), source=toys))[0]


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../owl.png", "a/../../owl.png", "{}/owl.png", "x" * 5000, "owl\0.png", "", "/", "."])
def test_nothing_outside_the_source_is_looked_at(name: str, tmp_path: Path) -> None:
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "owl.png").write_bytes(b"outside")
    found = SourceFiles(tmp_path / "source").find(name.format(tmp_path), hashlib.sha256(b"outside").hexdigest())
    assert getattr(found, "code", None) == "PV311"


def test_of_files_of_one_name_the_hash_decides(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(folder.encode())
    files = SourceFiles(tmp_path)
    for folder in ("a", "b", "c"):
        sha256 = hashlib.sha256(folder.encode()).hexdigest()
        assert files.find("1.png", sha256) == tmp_path / folder / "1.png"
        assert files.find(f"old/{folder}/1.png", sha256) == tmp_path / folder / "1.png"
    other = files.find("1.png", "0" * 64)
    assert getattr(other, "code", None) == "PV312"


def test_too_many_files_of_one_name_are_not_all_read(tmp_path: Path) -> None:
    for number in range(MAX_NAMESAKES + 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.png").write_bytes(b"x")
    files = SourceFiles(tmp_path)
    assert isinstance(files.find("1.png", "0" * 64), str)
    assert files.find("9/1.png", hashlib.sha256(b"x").hexdigest()) == tmp_path / "9/1.png"
    (tmp_path / "9/1.png").write_bytes(b"y")
    assert files.find("old/9/1.png", hashlib.sha256(b"y").hexdigest()) == tmp_path / "9/1.png"  # its folder tells


# Requests that make no sense --------------------------------------------------------------------------------------


def test_what_cannot_be_asked_is_said_before_any_work(frames: Path, clips: Path, tmp_path: Path) -> None:
    def no_rows(count: int) -> None:
        raise AssertionError("work has begun")

    with pytest.raises(UsageError, match="manifest"):
        validate(frames / "ucf101_val.jsonl", source=clips, on_rows=no_rows)
    with pytest.raises(SourceError, match="no such file or folder"):
        validate(frames, source=tmp_path / "gone", on_rows=no_rows)
    with pytest.raises(SourceError, match="not a tar or zip"):
        validate(frames, source=frames / "README.md", on_rows=no_rows)


@pytest.mark.parametrize("name", [VAL, "manifest.json"])
def test_broken_files_are_left_to_their_own_rules(frames: Path, clips: Path, tmp_path: Path, name: str) -> None:
    out = Path(shutil.copytree(frames, tmp_path / "out"))
    (out / name).write_bytes((out / name).read_bytes()[:-20])
    report = validate(out, source=clips)
    assert not report.ok
    assert reported(report) == []


# Likeness ---------------------------------------------------------------------------------------------------------


def test_noise_of_two_levels_is_noise_and_the_next_frame_is_not() -> None:
    rng = np.random.default_rng(0)
    for size in (64, 61, 7):
        pil_image = np.clip(number_image(5)[:size, :size].astype(int), 20, 200)
        noisy = np.clip(pil_image + rng.integers(-2, 3, pil_image.shape), 0, 255).astype(np.uint8)
        pil_image = pil_image.astype(np.uint8)
        for quality in (10, 30, 75, 95):
            one, two = encode_jpeg(pil_image, quality), encode_jpeg(noisy, quality)
            difference = difference_of(one, two)
            assert difference is not None
            assert difference.is_noise(quality)
            assert difference_of(one, one) == (0.0, 0.0)
            square = pil_image.copy()
            square[: min(16, size), : min(16, size)] ^= 0x80
            changed = difference_of(one, encode_jpeg(square, quality))
            assert changed is not None
            assert not changed.is_noise(quality)


# Real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["subset", "official", "docvqa", "memes"])
def test_real_data_agree_with_their_sources(name: str, shared: Path, tmp_path: Path) -> None:
    samples = shared / "samples"
    options: Any
    options, source = {
        "subset": (Ucf101Options(samples / "ucf101/UCF101_subset", num_frames=3), samples / "ucf101"),
        "official": (Ucf101Options(samples / "ucf101", num_frames=2, jpeg_quality=90), samples / "ucf101/UCF-101"),
        "docvqa": (DocvqaOptions(samples / "docvqa/val"), samples / "docvqa"),
        "memes": (HatefulMemesOptions(samples / "memes_harmless"), samples / "memes_harmless"),
    }[name]
    convert(options, tmp_path / "out", num_workers=0)
    report = validate(tmp_path / "out", source=source, deep=False)
    assert report.rows
    assert messages(report) == []


# Rows of the source -----------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    status: Literal["same", "changed", "unknown"]
    reason: str = ""


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (Comparison("same"), []),
        (Comparison("changed", "its inputs differ"), ["PV312 the source has changed since it was converted"]),
        (Comparison("unknown", "no converter 'toy'"), ["PV313 rows were not compared with the source"]),
    ],
)
def test_changed_inputs_are_one_finding_at_the_manifest(
    copies: Path, toys: Path, tmp_path: Path, comparison: Comparison, expected: list[str]
) -> None:
    given = []

    def compare(manifest: Manifest, sources: Sequence[Path], work_dir: Path) -> Comparison:
        given.append((manifest.name, list(sources), list(work_dir.iterdir())))
        return comparison

    folders = iter([tmp_path / "a", tmp_path / "b"])

    def new_folder() -> Path:
        folder = next(folders)
        folder.mkdir()
        return folder

    plan = provenance.plan_sources(copies, toys, Settings(), new_folder, compare)
    assert plan is not None
    issues = plan.known.issues.listed()
    assert [f"{issue.code} {issue.message.split(':')[0]}" for issue in issues] == expected
    assert all((issue.file, issue.line) == ("manifest.json", None) for issue in issues)
    assert given == [("toy", [toys], [])]
