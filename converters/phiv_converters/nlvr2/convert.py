"""NLVR2: two photographs and a sentence become the question whether it is true of them, and the answer.

    phiv-convert nlvr2 --source nlvr --images train_img.zip dev_img.zip --out_dir out   official release
    phiv-convert nlvr2 --source NLVR2/ --out_dir out                         hub tables: HuggingFaceM4, lmms-lab
    phiv-convert nlvr2 --source the_cauldron/nlvr2 --out_dir out             the recipe's rows, worded as they are
    phiv-convert nlvr2 --demo --out_dir out                                  draws a small synthetic set, offline

The left image comes first. `--prompt recipe` words the question as The Cauldron does, which the Phi-3.5-vision
recipe trains on; of its eight wordings a row takes the one its identifier hashes to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phiv_schemas import Sharing
from phiv_schemas.errors import SourceError, UsageError

if TYPE_CHECKING:
    from phiv_converters.nlvr2.layouts import Annotations, Example, Listed, Place, Tables
    from phiv_data.convert.base import Duplicate, Inputs, Item
    from phiv_data.media.reject import RejectInput
    from phiv_data.storage.sample import Draft

SPLITS = ("train", "val", "dev", "test1", "test2")
HUB_REPO, HUB_CONFIG = "HuggingFaceM4/the_cauldron", "nlvr2"
HASH_TOLERANCE = 4
"""Bits of 64 by which an image's hash may differ from the official one: decoders and scalers differ by version."""

# As the authors of The Cauldron built its nlvr2 config from HuggingFaceM4/NLVR2 (their published build script, which
# draws one of the eight at random); answers "Yes." and "No.".
_BEFORE = "The first image is the image on the left, the second image is the image on the right. "
_AFTER = " Answer yes or no."
WORDINGS = tuple(
    _BEFORE + wording + _AFTER
    for wording in (
        'Evaluate the accuracy of this statement regarding the images: "{sentence}". Is it true?',
        'Given the left and right images, does the statement "{sentence}" hold true?',
        'Assess this claim about the two images: "{sentence}". Correct or not?',
        'For the images shown, is this caption "{sentence}" true?',
        'Considering the images on both sides, is "{sentence}" valid?',
        'Analyze the images presented: Is the assertion "{sentence}" valid?',
        'For the images displayed, is the sentence "{sentence}" factually correct?',
        'Examine the images to the left and right. Is the description "{sentence}" accurate?',
    )
)
PLAIN = "{sentence}\nIs this sentence true or false of the two images?"


@dataclass(frozen=True)
class Nlvr2Options:
    """NLVR2 image pairs with true and false sentences to two-image questions."""

    sharing: ClassVar[Sharing] = Sharing(
        group="image set", group_pattern=r"(?:^|/)([a-z]+\d?-\d+)-\d+-img[01]\.", shares=("images",)
    )  # image sets were searched for one by one: 83 of the 7,962 official hashes of dev recur over them

    source: Path | None = None
    """Folder, archive or file: the official repository (or its nlvr2/data), HuggingFaceM4/NLVR2, lmms-lab/NLVR2 or
    The Cauldron's nlvr2 as parquet or save_to_disk folders. Without it, the latter is downloaded from the hub."""
    images: tuple[Path, ...] = ()
    """More folders or archives with images of the official layout; --source itself is always looked through."""
    demo: bool = False
    """Draw a small synthetic set instead: needs no network and no source."""
    subset: Literal["all", "balanced", "unbalanced"] = "all"
    """Which of the official subsets of dev, test1 and test2; train has none and is always whole."""
    prompt: Literal["recipe", "plain"] = "recipe"
    """recipe: one of The Cauldron's eight wordings, answers `Yes.` and `No.`; plain: the sentence and whether it is
    true or false, answers `True` and `False`."""
    group: Literal["sentence", "pair"] = "sentence"
    """One row per sentence, or one per pair of images with its sentences as turns, as the recipe trains."""
    val_directories: int = 5
    """So many of the 100 `directory` buckets of train, those with the highest numbers, become val."""
    ignore_hashes: bool = False
    """Do not compare the images with the official util/hashes/*_hashes.json, where those are in the source."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_directories <= 99:
            raise UsageError("--val_directories", f"must be 0 to 99 (found {self.val_directories})")
        if self.demo and (self.source is not None or self.images):
            raise UsageError("--demo", "draws its own images", "Leave out --source and --images")
        if self.images and self.source is None:
            raise UsageError("--images", "needs the annotations too", "Pass them as --source")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archives); None for a folder or a table."""
        from phiv_data.sources.image_index import sources_sha256

        if self.demo:
            return self.shape() | {"source": "demo"}
        found = None if self.source is None else sources_sha256((self.source, *self.images))
        return None if found is None else self.shape() | {"source": found}

    def open(self, scratch: Path) -> Nlvr2:
        """Find, unpack, download or draw the source, and tell its layout."""
        from phiv_converters.nlvr2.layouts import find_layout
        from phiv_data.sources.image_index import opened

        identity = self.identity()
        root = self._root(scratch)
        images = tuple(opened(path, scratch, flag="--images") for path in self.images)
        layout = find_layout(root, images, self.subset, str(self.source or HUB_REPO))
        hashes = () if self.ignore_hashes else tuple(_hash_files((root, *images)))
        return Nlvr2(self, layout, identity, hashes)

    def _root(self, scratch: Path) -> Path:
        from phiv_data.sources.image_index import is_archive, opened

        if self.demo:
            from phiv_converters.synthetic.documents import draw_nlvr2

            return draw_nlvr2(scratch / "demo")
        if self.source is None:
            from phiv_data.sources.hub import download_folder

            hint = "Pass --source (the official repository, or a hub dataset's folder), or --demo"
            return download_folder(HUB_REPO, HUB_CONFIG, hint=hint)
        keep = self.source.is_file() and not is_archive(self.source)  # a JSON or parquet file
        return self.source if keep else opened(self.source, scratch)

    def shape(self) -> dict[str, Any]:
        """The options that shape the output, as plain JSON values."""
        names = ("subset", "prompt", "group", "val_directories", "ignore_hashes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Nlvr2:
    """An opened source: lists its rows and turns one, or those of a pair, into a draft."""

    options_: Nlvr2Options
    layout: Annotations | Tables
    identity: dict[str, Any] | None
    hash_files: tuple[Path, ...]
    name: str = "nlvr2"

    @property
    def splits(self) -> tuple[str, ...]:
        """The sets that were found; val beside train where it is asked for."""
        val = {"val"} if "train" in self.layout.sets and self.options_.val_directories else set()
        return tuple(split for split in SPLITS if split in val | set(self.layout.sets))

    @property
    def synthetic(self) -> bool:
        """True for the drawn demo set."""
        return self.options_.demo

    @property
    def record_source(self) -> str:
        """`nlvr2`, or `nlvr2-synthetic` for drawn pairs: every row says so."""
        return "nlvr2-synthetic" if self.synthetic else "nlvr2"

    def describe(self) -> str:
        """The layout found and why."""
        return ("drawn demo pairs, " if self.synthetic else "") + self.layout.description

    def options(self) -> dict[str, Any]:
        """Everything that shapes the output; of a folder also the hashes that were found in it."""
        from phiv_data.utils.atomic import sha256_file

        return self.identity or self.options_.shape() | {"hashes": [sha256_file(file) for file in self.hash_files]}

    def versions(self) -> dict[str, str]:
        """Images are copied, so only what checks them matters."""
        from importlib.metadata import version

        return {"pillow": version("pillow")}

    def inputs(self) -> Inputs:
        """Every row or pair; rows that cannot be used are inputs too, and rejected."""
        return _inputs(self.layout, self.options_, _hashes(self.hash_files))

    def draft(self, item: Item) -> Draft:
        """A pair and its sentence, or its sentences as turns; both images stand in the first turn."""
        from phiv_data.media.reject import RejectInput
        from phiv_data.sources.image_index import checked_image
        from phiv_data.storage.sample import Draft
        from phiv_schemas import Turn

        if isinstance(item.payload, RejectInput):
            raise item.payload
        places: tuple[Place, ...] = item.payload
        read = [self.layout.read(place) for place in places]  # in the order of the file, which differs by layout
        examples = sorted(read, key=lambda example: (example.label is None, example.identifier))
        where = self.layout.where(places[0])
        images = []
        for name, data in self.layout.images(places[0], examples[0]):
            self._check_hash(name, data, where)
            images.append(checked_image(f"{item.split}/{name}", data, where, source=name))
        paths = [tuple(image.meta.path for image in images), *[()] * (len(examples) - 1)]
        turns = [
            Turn(images=shown, user=self._user(example, where), assistant=self._assistant(example))
            for shown, example in zip(paths, examples, strict=True)
        ]
        return Draft(tuple(turns), tuple(images))

    def _user(self, example: Example, where: str) -> str:
        from phiv_data.media.reject import RejectInput

        if self.options_.prompt == "recipe":
            return example.user or recipe_question(example.identifier or example.sentence, example.sentence)
        if not example.sentence:
            raise RejectInput(where, "bad-row", f"no sentence in quotes in the question (found {example.user[:60]!r})")
        return PLAIN.format(sentence=example.sentence)

    def _assistant(self, example: Example) -> str | None:
        if example.label is None:
            return None
        if self.options_.prompt == "plain":
            return str(example.label)
        return example.assistant or ("Yes." if example.label else "No.")

    def _check_hash(self, name: str, data: bytes, where: str) -> None:
        from phiv_data.media.reject import RejectInput

        official = _hashes(self.hash_files).get(name)
        if official is None:
            return
        bits = (average_hash(data) ^ int(official, 16)).bit_count()
        if bits > HASH_TOLERANCE:
            reason = f"{name} is not the official image (its hash differs in {bits} of 64 bits)"
            raise RejectInput(where, "hash-mismatch", reason)


def recipe_question(identifier: str, sentence: str) -> str:
    """The question in one of The Cauldron's eight wordings, chosen by the identifier's sha256."""
    import hashlib

    digest = hashlib.sha256(identifier.encode()).digest()
    return WORDINGS[digest[0] % len(WORDINGS)].format(sentence=sentence)


# Listing ---------------------------------------------------------------------------------------------------------


def _inputs(layout: Annotations | Tables, options: Nlvr2Options, hashes: dict[str, str]) -> Inputs:
    """Items by identifier or pair; a row that cannot be used is one of its own, with the reason as payload."""
    from phiv_data.convert.base import Inputs, Item

    listing = _Listing(options.group == "pair")
    for row in layout.rows():
        listing.add(layout, row)
    if not listing.with_images:
        found = f"{len(listing.places) + len(listing.rejects)} rows in {layout.description}"
        hint = "Pass the folders or archives with the images as --images"
        raise SourceError(str(options.source), f"no row has its images ({found})", hint)
    val, notices = _val_sets(listing.directories, options.val_directories)
    items = [
        Item("val" if name == "train" and _set(key) in val else name, key, listing.sizes[name, key], tuple(places))
        for (name, key), places in listing.places.items()
    ]
    items += [Item(name, key, size, reject) for name, key, size, reject in listing.rejects]
    if hashes:
        notices.append(f"official hashes of {len(hashes)} images are checked")
    return Inputs(tuple(items), notices=tuple(notices), duplicates=tuple(listing.duplicates))


@dataclass
class _Listing:
    """Rows as they come, by set and key: `places` of those that can be used, `rejects` of the others."""

    by_pair: bool
    with_images: int = 0
    places: dict[tuple[str, str], list[Place]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    rejects: list[tuple[str, str, int, RejectInput]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    directories: dict[str, set[str]] = field(default_factory=dict)
    seen: dict[tuple[str, str], tuple[Place, int]] = field(default_factory=dict)

    def add(self, layout: Annotations | Tables, row: Listed) -> None:
        """Take one row."""
        from phiv_data.convert.base import Duplicate
        from phiv_data.media.reject import RejectInput

        example = row.example
        if not isinstance(example, RejectInput) and example.identifier:
            content = hash((example.sentence, example.label))  # of this process; both rows are read by it
            place, before = self.seen.setdefault((row.set_name, example.identifier), (row.place, content))
            if place != row.place and before == content:
                self.duplicates.append(Duplicate(layout.where(place), layout.where(row.place)))
                return
            if place != row.place:
                what = f"{example.identifier!r} is on {layout.where(place)} too, with another sentence or label"
                example = RejectInput(layout.where(row.place), "bad-row", what)
        if isinstance(example, RejectInput):
            self.rejects.append((row.set_name, row.key, row.place.length, example))
            return
        self._keep(layout, row, example)

    def _keep(self, layout: Annotations | Tables, row: Listed, example: Example) -> None:
        own = (example.pair or row.group) if self.by_pair else (example.identifier or row.key)
        key = (row.set_name, own)
        self.places.setdefault(key, []).append(row.place)
        self.sizes[key] = self.sizes.get(key, 0) + layout.size_bytes(row.place, example)
        self.with_images += layout.has_images(example)
        if row.set_name == "train":
            directories = self.directories.setdefault(example.image_set, set())
            directories |= {example.directory} if example.directory else set()


def _val_sets(directories: dict[str, set[str]], count: int) -> tuple[set[str], list[str]]:
    """The image sets of the `count` highest directories of train: a set is in val whole, or not at all."""
    names = sorted({name for found in directories.values() for name in found}, key=_directory_order)
    if not count or not directories:
        return set(), []
    if not names:
        return set(), ["train has no `directory` buckets: no val split was made of it"]
    if count >= len(names):
        found = f"{count} would leave nothing to train on (found {len(names)} directories)"
        raise UsageError("--val_directories", found, "Pass fewer; 0 makes no val split")
    val = set(names[len(names) - count :])
    return {name for name, found in directories.items() if found & val}, []


def _directory_order(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)


def _set(key: str) -> str:
    """`train-10171` of `train-10171-0` and `train-10171-0-1`."""
    return "-".join(key.split("-")[:2])


# Hashes ----------------------------------------------------------------------------------------------------------


def average_hash(data: bytes) -> int:
    """The 64-bit average hash of an image, as imagehash.average_hash gives it and the official hash files hold it.

    The image in grey, scaled to 8x8 (Lanczos): a pixel above the mean is a 1, row by row from the top left.
    """
    import io

    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:  # as stored: the official script does not look at EXIF either
        small = image.convert("L").resize((8, 8), Image.Resampling.LANCZOS)
    pixels = small.tobytes()
    mean = sum(pixels) / len(pixels)
    return int("".join("1" if pixel > mean else "0" for pixel in pixels), 2)


def _hash_files(roots: tuple[Path, ...]) -> list[Path]:
    """Official hash files at their usual places in or beside `roots`, by name."""
    found: set[Path] = set()
    for root in roots:
        bases = [root, root / "nlvr2", *([root.parent] if root.name == "data" or root.is_file() else [])]
        bases += [path for path in sorted(root.iterdir()) if path.is_dir()][:8] if root.is_dir() else []
        for folder in (inner for base in bases for inner in (base, base / "hashes", base / "util/hashes")):
            found |= set(folder.glob("*_hashes.json")) if folder.is_dir() else set()
    return sorted(found, key=lambda path: (path.name, str(path)))


@cache
def _hashes(files: tuple[Path, ...]) -> dict[str, str]:
    """Official hash by image name."""
    import json
    import re

    hashes: dict[str, str] = {}
    for file in files:
        try:
            read = json.loads(file.read_bytes())
            good = {name: text for name, text in read.items() if re.fullmatch("[0-9a-f]{16}", text)}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            hint = "Get it again, or pass --ignore_hashes"
            raise SourceError(str(file), f"is no file of image hashes ({error})", hint) from error
        if len(good) < len(read):
            raise SourceError(str(file), "holds hashes that are not 16 hex digits", "Pass --ignore_hashes")
        hashes |= good
    return hashes
