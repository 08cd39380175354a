"""The conformance kit passes a sound converter and catches each defect, with a sentence on what to do."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from phiv_data.convert import Converter, Inputs, Item
from phiv_data.media.images import image_size
from phiv_data.sources.image_index import checked_image, read_image
from phiv_data.storage.sample import Draft, EncodedImage, encoded_image
from phiv_data.testing import Case, Check, check_converter, conformance_checks
from phiv_data.testing import conformance as testing
from phiv_schemas import Turn
from phiv_schemas.errors import UsageError
from tests.toy_converter import draw_toy_source

NAMES = {"train": ["ant", "bee", "unlabeled"], "val": ["cow", "dog"]}


@dataclass(frozen=True)
class Sound(Converter):
    """A sound converter over `<split>/<label>.png`; a subclass breaks one thing."""

    source: Path
    question: str = "What is it?"

    name = "sound"
    splits = ("train", "val")

    def describe(self) -> str:
        return "folder with {train,val}/*.png"

    def options(self) -> dict[str, Any]:
        return {"question": self.question}

    def inputs(self) -> Inputs:
        return Inputs(tuple(map(self.item, self.files())))

    def files(self) -> list[Path]:
        return sorted(self.source.glob("*/*.png"))

    def item(self, file: Path) -> Item:
        return Item(file.parent.name, file.relative_to(self.source).as_posix(), file, file)

    def draft(self, item: Item) -> Draft:
        image = self.image(item)
        turn = Turn(images=(image.meta.path,), user=self.question, assistant=self.label(item.payload))
        return Draft((turn,), (image,))

    def image(self, item: Item) -> EncodedImage:
        return checked_image(item.key, read_image(item.payload, item.key), item.key, source=item.key)

    def label(self, file: Path) -> str | None:
        return None if file.stem == "unlabeled" else file.stem


class FindsEverything(Sound):
    def files(self) -> list[Path]:
        return sorted(self.source.rglob("*.png"))


class ReadsItsOutput(FindsEverything):
    def item(self, file: Path) -> Item:
        return Item(file.parent.name, file.relative_to(self.source).as_posix(), file.read_bytes(), file)


class NameMissing(Sound):
    record_source = ""


class SplitTwice(Sound):
    splits = ("train", "val", "train")


class TellsItsPlace(Sound):
    def describe(self) -> str:
        return f"folder {self.source}"


class WritesToItsSource(Sound):
    def inputs(self) -> Inputs:
        (self.source / "cache.txt").write_text("listed")
        return super().inputs()


class OptionsOfPaths(Sound):
    def options(self) -> dict[str, Any]:
        return {"source": self.source}


class OptionsOfTuples(Sound):
    def options(self) -> dict[str, Any]:
        return {"classes": ("a", "b")}


class OptionsOfPlaces(Sound):
    def options(self) -> dict[str, Any]:
        return {"source": str(self.source)}


class OptionsOfTheMoment(Sound):
    def options(self) -> dict[str, Any]:
        return {"run": random.random()}


class OtherIdentity(Sound):
    def identity(self) -> dict[str, Any] | None:
        return {"source": "fixed"}


class OptionsForgotten(Sound):
    def options(self) -> dict[str, Any]:
        return {}


class Guessing(Sound):
    def draft(self, item: Item) -> Draft:
        return replace(super().draft(item), system=f"{random.random()}")


@dataclass(frozen=True)
class Counting(Sound):
    count: Any = field(default_factory=itertools.count)

    def draft(self, item: Item) -> Draft:
        return replace(super().draft(item), system=f"{next(self.count)}")


@dataclass(frozen=True)
class Unpicklable(Sound):
    upper: Callable[[str], str] = lambda text: text.upper()


class ForgetsInPickles(Sound):
    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "question": ""}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class CarriesItsImages(Sound):
    def item(self, file: Path) -> Item:
        return replace(super().item(file), payload=(file, bytes(5000)))

    def draft(self, item: Item) -> Draft:
        return super().draft(replace(item, payload=item.payload[0]))


class ImagesInOtherOrder(Sound):
    def draft(self, item: Item) -> Draft:
        draft = super().draft(item)
        return replace(draft, images=draft.images * 2)


class WrongSize(Sound):
    def image(self, item: Item) -> EncodedImage:
        data = read_image(item.payload, item.key)
        return encoded_image(item.key, data, size=(3, 4), format="PNG")


class OneNameForAll(Sound):
    def image(self, item: Item) -> EncodedImage:
        data = read_image(item.payload, item.key)
        return checked_image(f"{item.split}/image.png", data, item.key)


class LeaksAcrossSplits(Sound):
    def files(self) -> list[Path]:
        return [*super().files(), self.source / "train/ant.png"]

    def inputs(self) -> Inputs:
        items = map(self.item, super().files())
        again = replace(self.item(self.source / "train/ant.png"), split="val")
        return Inputs((*items, again))


class RejectsSoundInputs(Sound):
    def image(self, item: Item) -> EncodedImage:
        return checked_image(item.key, b"" if "bee" in item.key else read_image(item.payload, item.key), item.key)


class ListsOtherInputsEachTime(Sound):
    whole = itertools.cycle([True, False])

    def files(self) -> list[Path]:
        return super().files() if next(self.whole) else super().files()[1:]


class GuessesLabels(Sound):
    def label(self, file: Path) -> str | None:
        return super().label(file) or "no"


class NeverLabels(Sound):
    def label(self, file: Path) -> str | None:
        return None


class ReencodesDifferently(Sound):
    """Other bytes each time, as an encoder that writes the time gives."""

    def image(self, item: Item) -> EncodedImage:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        out, note = io.BytesIO(), PngInfo()
        note.add_text("time", str(random.random()))
        Image.open(item.payload).save(out, "PNG", pnginfo=note)
        return checked_image(item.key, out.getvalue(), item.key)


class KeepsAbsoluteNames(Sound):
    def item(self, file: Path) -> Item:
        return replace(super().item(file), key=f"{file.parent.name}/{self.source.parent.name}-{file.name}")


class NumbersTheListing(Sound):
    def inputs(self) -> Inputs:
        return Inputs(tuple(replace(self.item(f), key=f"{i}.png") for i, f in enumerate(self.source.glob("*/*.png"))))


class ListsAsItComes(Sound):
    def files(self) -> list[Path]:
        return list(self.source.glob("*/*.png"))


class IgnoresContent(Sound):
    def item(self, file: Path) -> Item:
        return replace(super().item(file), content=b"")


class KnowsOnlySizes(Sound):
    def item(self, file: Path) -> Item:
        return replace(super().item(file), content=b"%d" % file.stat().st_size)


class KnowsItsWorker(Sound):
    def draft(self, item: Item) -> Draft:
        import multiprocessing

        return replace(super().draft(item), system=multiprocessing.current_process().name)


class BreaksOnBadSources(Sound):
    def inputs(self) -> Inputs:
        return Inputs(tuple(self.item(file) for split in self.splits for file in (self.source / split).iterdir()))


class TakesAnything(Sound):
    """Takes anything for a source."""

    def inputs(self) -> Inputs:
        return Inputs(tuple(super().inputs().items) or (Item("train", "none", b""),))

    def draft(self, item: Item) -> Draft:
        return super().draft(item) if item.payload else Draft((Turn(images=(), user="?", assistant="!"),), ())


class CrashesOnDamage(Sound):
    def image(self, item: Item) -> EncodedImage:
        from PIL import Image

        Image.open(item.payload).load()
        return super().image(item)


class TrustsHeaders(Sound):
    def image(self, item: Item) -> EncodedImage:
        data = read_image(item.payload, item.key)
        size = image_size(data, where=item.key)
        return encoded_image(item.key, data, size=size[:2], format=size.format)


class DropsDamagedInputs(Sound):
    def files(self) -> list[Path]:
        return [file for file in super().files() if file.read_bytes().endswith(b"IEND\xaeB`\x82")]


class ShiftsAfterDamage(Sound):
    """Other rows depend on what is broken."""

    def draft(self, item: Item) -> Draft:
        broken = sum(not f.read_bytes().endswith(b"IEND\xaeB`\x82") for f in self.files())
        return replace(super().draft(item), system=f"{broken} broken")


class CountsItsNeighbours(Sound):
    """Rows depend on what else is there, which no item names."""

    def draft(self, item: Item) -> Draft:
        return replace(super().draft(item), system=f"one of {len(self.files())}")


DEFECTS: dict[type[Sound], tuple[Check, str]] = {
    NameMissing: (testing.check_description, "record_source is empty. Name the dataset"),
    SplitTwice: (testing.check_description, "there twice .* List each once"),
    TellsItsPlace: (testing.check_description, "absolute path .* Name folders relative"),
    WritesToItsSource: (testing.check_description, r"written to \('cache.txt'\). Write to work_dir only"),
    OptionsOfPaths: (testing.check_options, r"is not JSON .*PosixPath"),
    OptionsOfTuples: (testing.check_options, "is not plain JSON .* Use lists"),
    OptionsOfPlaces: (testing.check_options, "holds the place .* Leave paths out"),
    OptionsOfTheMoment: (testing.check_options, "differs from one run to the next .* no clock"),
    OtherIdentity: (testing.check_options, r"identity\(\) is neither .* Return the same dict"),
    OptionsForgotten: (
        testing.check_changed_options_change_the_plan,
        r"changed\[0\] has the plan of options. Put every",
    ),
    CountsItsNeighbours: (
        testing.check_update_equals_a_fresh_conversion,
        r"other files when converted with --update, after Removal.* Give what draft\(\) depends on",
    ),
    Guessing: (testing.check_drafts_are_pure, "5 items give another draft when drafted twice .* no clock"),
    Counting: (testing.check_drafts_are_pure, "items give another draft when drafted twice"),
    Unpicklable: (testing.check_pickles, "do not pickle .* frozen dataclass"),
    ForgetsInPickles: (testing.check_pickles, "another draft when drafted by a pickled copy .* Keep in fields"),
    CarriesItsImages: (testing.check_items_are_small, r"an item of 5\d\d\d bytes, over 4096. Keep a name"),
    ImagesInOtherOrder: (testing.check_images, "turns name .*, images are .* Give each"),
    WrongSize: (testing.check_images, r"is declared \(3, 4, .* and is \(4, 3"),
    OneNameForAll: (testing.check_images, "image.png is the path of two images"),
    LeaksAcrossSplits: (testing.check_splits_are_disjoint, "in several splits .*ant.* Split by whole"),
    RejectsSoundInputs: (testing.check_accounting, "a sound input is rejected .*bee.*empty"),
    ListsOtherInputsEachTime: (testing.check_accounting, "List the same each time"),
    GuessesLabels: (testing.check_unlabeled, "0 unlabeled inputs, 1 expected. Give Turn"),
    NeverLabels: (testing.check_validates, "does not convert .*5 without an answer of 5 inputs"),
    ReencodesDifferently: (testing.check_reload, "other images come back"),
    KeepsAbsoluteNames: (testing.check_place_and_order_leave_no_trace, "from a copy of the source"),
    NumbersTheListing: (testing.check_place_and_order_leave_no_trace, "from a copy of the source"),
    ListsAsItComes: (testing.check_place_and_order_leave_no_trace, "from a copy of the source"),
    IgnoresContent: (
        testing.check_changed_content_is_noticed,
        "a second run misses a change in 'train/ant.png'. Put what an input is into Item.content",
    ),
    KnowsOnlySizes: (testing.check_changed_content_is_noticed, "a second run misses a change in 'train"),
    KnowsItsWorker: (testing.check_workers_leave_no_trace, "when converted by two workers"),
    BreaksOnBadSources: (testing.check_bad_sources, "FileNotFoundError gets through .* Raise SourceError"),
    TakesAnything: (testing.check_bad_sources, "source 'missing' is converted"),
    ReadsItsOutput: (testing.check_output_inside_source, "differs in its inputs"),
    CrashesOnDamage: (testing.check_damaged_input, "OSError gets through|UnidentifiedImageError gets through"),
    TrustsHeaders: (testing.check_damaged_input, "cut: nothing is rejected. Decode it"),
    DropsDamagedInputs: (testing.check_damaged_input, "cut: nothing is rejected|dropped silently"),
    ShiftsAfterDamage: (testing.check_damaged_input, "cut: other rows change"),
}


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> Path:
    return draw_toy_source(tmp_path / "toy", NAMES)


def case_of(converter: type[Sound], source: Path) -> Case:
    return Case(converter, source, changed=(partial(converter, question="Which one?"),), unlabeled=1)


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_a_sound_converter_passes(check: Check, source: Path, tmp_path: Path) -> None:
    check(case_of(Sound, source), tmp_path)


@pytest.mark.parametrize("converter", DEFECTS, ids=lambda converter: converter.__name__)
def test_each_defect_is_caught_and_explained(converter: type[Sound], source: Path, tmp_path: Path) -> None:
    check, sentence = DEFECTS[converter]
    with pytest.raises(AssertionError, match=sentence) as caught:
        check(case_of(converter, source), tmp_path)
    assert "\n" not in str(caught.value)


def test_every_check_is_seen_to_fail() -> None:
    assert {check for check, _ in DEFECTS.values()} >= set(conformance_checks()) - {
        testing.check_second_run_finds_the_first  # options() that change fail check_options first; see below
    }


def test_files_of_an_output_in_the_source_are_no_inputs_whoever_lists_them(source: Path, tmp_path: Path) -> None:
    testing.check_output_inside_source(case_of(FindsEverything, source), tmp_path)


def test_a_second_run_that_starts_again_is_caught(source: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"does not convert .*differs in classes"):
        testing.check_second_run_finds_the_first(case_of(OptionsOfTuples, source), tmp_path)


def test_the_kit_as_one_call_passes_and_fails(source: Path, tmp_path: Path) -> None:
    check_converter(Sound, source, unlabeled=1)
    with pytest.raises(AssertionError, match="0 unlabeled inputs, 1 expected"):
        check_converter(GuessesLabels, source, unlabeled=1, work=tmp_path / "work")
    assert (tmp_path / "work/check_unlabeled/plain/out/manifest.json").is_file()


def test_the_kit_as_one_call_reports_every_failed_check(source: Path) -> None:
    class Threefold(GuessesLabels, IgnoresContent, TellsItsPlace):
        pass

    with pytest.raises(AssertionError) as caught:
        check_converter(Threefold, source, unlabeled=1)
    lines = str(caught.value).splitlines()
    failed = {"check_description", "check_pickles", "check_unlabeled", "check_changed_content_is_noticed"}
    assert {line.partition(": ")[0] for line in lines} >= failed
    assert len(lines) == len({line.partition(": ")[0] for line in lines})


def test_a_source_that_is_not_sound_is_reported(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(AssertionError, match=r"a sound source does not convert \(sound: no inputs found"):
        testing.check_images(case_of(Sound, tmp_path / "nothing"), tmp_path)


def test_an_image_shared_by_splits_passes_where_the_dataset_declares_it(source: Path, tmp_path: Path) -> None:
    testing.check_splits_are_disjoint(replace(case_of(LeaksAcrossSplits, source), shares_images=True), tmp_path)


def test_a_source_without_images_of_its_own_must_say_what_to_damage(source: Path, tmp_path: Path) -> None:
    case = case_of(ReencodesDifferently, source)
    with pytest.raises(AssertionError, match=r"Name one to damage in Case\.damaged"):
        testing.check_damaged_input(case, tmp_path / "a")
    testing.check_damaged_input(replace(case, damaged=""), tmp_path / "b")


@dataclass(frozen=True)
class CaptionsInPayload(Converter):
    """A table of captions: of a line, only the image is content, so another caption passes for the same input."""

    source: Path
    name = "captions"
    splits = ("train", "val")

    def inputs(self) -> Inputs:
        lines = (self.source / "captions.tsv").read_text().splitlines()
        return Inputs(tuple(self.item(*line.split("\t"), line) for line in lines))

    def item(self, split: str, name: str, caption: str, line: str) -> Item:
        return Item(split, name, self.source / name, caption)

    def draft(self, item: Item) -> Draft:
        image = checked_image(f"{item.split}/{item.key}", read_image(item.path, item.key), item.key, source=item.key)
        return Draft((Turn(images=(image.meta.path,), user="What is it?", assistant=item.payload),), (image,))


class CaptionsInContent(CaptionsInPayload):
    """The same with the whole line in the content."""

    def item(self, split: str, name: str, caption: str, line: str) -> Item:
        return Item(split, name, (line.encode(), self.source / name), caption)


@pytest.mark.parametrize("first", ["train", "val"])
def test_a_change_in_any_column_of_a_table_must_be_noticed(first: str, source: Path, tmp_path: Path) -> None:
    images = sorted(source.glob("*/*.png"))
    table = tmp_path / "captions"
    table.mkdir()
    for image in images:
        (table / image.name).write_bytes(image.read_bytes())
    splits = [first if i % 2 else "train" for i in range(len(images))]
    lines = [f"{split}\t{p.name}\ta noisy image of {p.stem}" for split, p in zip(splits, images, strict=True)]
    (table / "captions.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(AssertionError, match=r"misses a change in 'captions.tsv'.*Item.content"):
        testing.check_changed_content_is_noticed(Case(CaptionsInPayload, table), tmp_path / "payload")
    testing.check_changed_content_is_noticed(Case(CaptionsInContent, table), tmp_path / "content")


def test_the_path_of_an_item_is_its_one_file(tmp_path: Path) -> None:
    assert Item("train", "a", (b"row", tmp_path / "a.png")).path == tmp_path / "a.png"
    with pytest.raises(UsageError, match="its content holds 0 files"):
        _ = Item("train", "a", b"row").path
