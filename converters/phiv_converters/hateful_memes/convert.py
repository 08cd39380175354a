"""Hateful Memes: an image with a caption on it becomes a question with the answer yes or no.

    phiv-convert hateful_memes --source hateful_memes/ --out_dir out           official folder: img/ and *.jsonl
    phiv-convert hateful_memes --source hm.zip --password ... --out_dir out    as downloaded
    phiv-convert hateful_memes --source the_cauldron/hateful_memes --out_dir out    the recipe's rows, as worded
    phiv-convert hateful_memes --demo --out_dir out                            draws a small harmless set, offline

`--prompt recipe` words the question as The Cauldron does, which the Phi-3.5-vision recipe trains on; of its eleven
wordings a meme takes the one its id hashes to. The dataset is for research only; nothing of it comes with phiv.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phiv_schemas import Sharing
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    from phiv_converters.hateful_memes.layouts import Layout, Meme
    from phiv_data.convert.base import Inputs, Item
    from phiv_data.storage.sample import Draft

SPLITS = ("train", "val", "test")
HUB_REPO, HUB_CONFIG = "HuggingFaceM4/the_cauldron", "hateful_memes"

# As the authors of The Cauldron built its hateful_memes config from HuggingFaceM4/Hateful-Memes (their published build
# script, which draws one of the eleven at random); answers "Yes." and "No.". The caption is not in the question.
WORDINGS = tuple(
    question + "\nAnswer yes or no."
    for question in (
        "Is the sentiment of this meme offensive?",
        "Does this meme promote hate speech?",
        "Can this meme be considered disrespectful?",
        "Does this meme carry a negative message?",
        "Is this meme spreading toxicity?",
        "Can this meme be harmful to a community?",
        "Is the humor in this meme in bad taste?",
        "Is the message of this meme aggressive?",
        "Does this meme support discrimination?",
        "Is the language used in this meme hateful?",
        "Can this meme be interpreted as derogatory?",
    )
)
PLAIN = "Is this meme hateful? Answer yes or no."


@dataclass(frozen=True)
class HatefulMemesOptions:
    """Hateful Memes to yes/no questions about an image with a caption."""

    sharing: ClassVar[Sharing] = Sharing(shares=("images",))  # one image with another caption trains to read both

    source: Path | None = None
    """Folder, archive or file: the official img/ and *.jsonl (or their zip), or a hub dataset as parquet or
    save_to_disk folders (biecho, neuralcatcher, Multimodal-Fatima, The Cauldron). Without it, the last one's
    hateful_memes is downloaded from the hub."""
    images: tuple[Path, ...] = ()
    """More folders or archives with images, for sources that only name them; --source itself is always looked
    through."""
    password: str | None = None
    """Of the zip, where it is encrypted the old way (ZipCrypto). Not kept in the output."""
    demo: bool = False
    """Draw a small harmless set instead: needs no network and no source."""
    prompt: Literal["recipe", "plain"] = "recipe"
    """recipe: one of The Cauldron's eleven questions, answers `Yes.` and `No.`; plain: one question for all memes,
    answers `Yes` and `No`."""
    with_text: bool = False
    """Give the caption in the question too; the recipe leaves it to the model to read."""
    train: tuple[str, ...] = ("train",)
    """Files that become train, by their names without .jsonl; of a hub dataset its splits."""
    val: tuple[str, ...] = ("dev", "dev_seen", "dev_unseen")
    """Files that become val. A meme in several of them is taken once and counted as a duplicate."""
    test: tuple[str, ...] = ("test", "test_seen", "test_unseen")
    """Files that become test."""

    def __post_init__(self) -> None:
        if self.demo and (self.source is not None or self.images):
            raise UsageError("--demo", "draws its own images", "Leave out --source and --images")
        names = [*self.train, *self.val, *self.test]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"--{'val' if twice[0] in self.val else 'test'}", f"{twice[0]!r} is given to two splits")
        if self.password is not None and (self.source is None or self.source.is_dir()):
            raise UsageError("--password", "opens a zip, and --source is none", "Leave it out")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archives); None for a folder or a table."""
        from phiv_data.sources.image_index import sources_sha256

        if self.demo:
            return self.shape() | {"source": "demo"}
        found = None if self.source is None else sources_sha256((self.source, *self.images))
        return None if found is None else self.shape() | {"source": found}

    def open(self, scratch: Path) -> HatefulMemes:
        """Find, unpack, download or draw the source, and tell its layout."""
        from phiv_converters.hateful_memes.layouts import find_layout
        from phiv_data.sources.image_index import opened

        identity = self.identity()
        root = self._root(scratch)
        images = tuple(opened(path, scratch, flag="--images", password=self.password) for path in self.images)
        mapping = {name: split for split in SPLITS for name in getattr(self, split)}
        layout = find_layout(root, images, mapping, scratch, str(self.source or HUB_REPO))
        if self.with_text and layout.is_cauldron:
            raise UsageError("--with_text", "The Cauldron's rows have no caption", "Leave it out")
        return HatefulMemes(self, layout, identity)

    def _root(self, scratch: Path) -> Path:
        from phiv_data.sources.image_index import is_archive, opened

        if self.demo:
            from phiv_converters.synthetic.documents import draw_hateful_memes

            return draw_hateful_memes(scratch / "demo")
        if self.source is None:
            from phiv_data.sources.hub import download_folder

            hint = "Pass --source (the official folder or zip, or a hub dataset's folder), or --demo"
            return download_folder(HUB_REPO, HUB_CONFIG, hint=hint)
        keep = self.source.is_file() and not is_archive(self.source)  # a jsonl or parquet file
        return self.source if keep else opened(self.source, scratch, password=self.password)

    def shape(self) -> dict[str, Any]:
        """The options that shape the output, as plain JSON values."""
        names = ("prompt", "with_text")
        return {name: getattr(self, name) for name in names} | {name: list(getattr(self, name)) for name in SPLITS}


@dataclass(frozen=True)
class HatefulMemes:
    """An opened source: lists its memes and turns one into a draft."""

    options_: HatefulMemesOptions
    layout: Layout
    identity: dict[str, Any] | None
    name: str = "hateful_memes"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that some file was found for."""
        return tuple(split for split in SPLITS if split in self.layout.splits)

    @property
    def synthetic(self) -> bool:
        """True for the drawn demo set."""
        return self.options_.demo

    @property
    def record_source(self) -> str:
        """`hateful_memes`, or `hateful_memes-synthetic` for drawn memes: every row says so."""
        return "hateful_memes-synthetic" if self.synthetic else "hateful_memes"

    def describe(self) -> str:
        """The layout found and why."""
        return ("drawn demo memes, " if self.synthetic else "") + self.layout.description

    def options(self) -> dict[str, Any]:
        """Everything that shapes the output."""
        return self.identity or self.options_.shape()

    def versions(self) -> dict[str, str]:
        """Images are copied, so only what checks them matters."""
        from importlib.metadata import version

        return {"pillow": version("pillow")}

    def inputs(self) -> Inputs:
        """Every meme once, and what was given twice; rows that cannot be used are inputs too, and rejected."""
        from phiv_converters.hateful_memes.layouts import list_inputs

        return list_inputs(self.layout, str(self.options_.source))

    def draft(self, item: Item) -> Draft:
        """A meme, the question and the answer; no answer where there is no label."""
        from phiv_data.media.reject import RejectInput
        from phiv_data.sources.image_index import checked_image
        from phiv_data.storage.sample import Draft
        from phiv_schemas import Turn

        if isinstance(item.payload, RejectInput):
            raise item.payload
        meme, where = self.layout.read(item.payload), self.layout.where(item.payload)
        name, data = self.layout.image(item.payload, meme)
        image = checked_image(f"{item.split}/{name}", data, where, source=name)
        turn = Turn(images=(image.meta.path,), user=self._user(meme, where), assistant=self._assistant(meme))
        return Draft((turn,), (image,))

    def _user(self, meme: Meme, where: str) -> str:
        from phiv_data.sources.json_stream import text_of

        recipe = self.options_.prompt == "recipe"
        question = (meme.user or recipe_question(meme.key)) if recipe else PLAIN
        if not self.options_.with_text:
            return question
        caption = text_of({"text": meme.text}, "text", where)
        return f"The text on this meme: {caption}\n{question}"

    def _assistant(self, meme: Meme) -> str | None:
        if meme.label is None:
            return None
        return ("Yes" if meme.label else "No") + ("." if self.options_.prompt == "recipe" else "")


def recipe_question(key: str) -> str:
    """One of The Cauldron's eleven questions, chosen by the sha256 of the meme's id, padded to five digits."""
    import hashlib

    return WORDINGS[hashlib.sha256(key.encode()).digest()[0] % len(WORDINGS)]
