"""Options of the Hateful Memes converter. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_demo, fixed_options
from phiv_schemas.errors import UsageError
from phiv_schemas.sharing import Sharing

SPLITS = ("train", "val", "test")

# As the authors of The Cauldron built its hateful_memes config from HuggingFaceM4/Hateful-Memes (their published build
# script, which picks one of the eleven at random); answers "Yes." and "No.". The caption is not in the question.
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
SHARING = Sharing(shares=("images",))


@dataclass(frozen=True)
class HatefulMemesOptions(SplitFlags):
    """Hateful Memes to yes/no questions about an image with a caption."""

    opener = "phiv_converters.hateful_memes.convert:open_hateful_memes"

    sharing: ClassVar[Sharing] = SHARING

    source: Path | None = None
    """Folder, archive or file: the official img/ and *.jsonl (or their zip), or a hub dataset as parquet or
    save_to_disk folders (biecho, neuralcatcher, Multimodal-Fatima, The Cauldron). Without it, the last one's
    hateful_memes is downloaded from the hub."""
    images: tuple[Path, ...] = ()
    """More folders or archives with images, for sources that only name them; --source itself is always
    searched."""
    password: str | None = None
    """Of the zip, where it is encrypted the old way (ZipCrypto). Not kept in the output."""
    demo: bool = False
    """Make a small harmless synthetic set instead: needs no network and no source."""
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
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where no file becomes val: about this share of train does, by the hash of a meme's image, so that rows with one
    image stay together. Reads every image once more."""

    def __post_init__(self) -> None:
        self.check_fractions()
        check_demo(self.demo, [self.source, *self.images])
        names = [*self.train, *self.val, *self.test]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            flag = "--val" if repeated[0] in self.val else "--test"
            raise UsageError(flag, f"{repeated[0]!r} is given to two splits")
        if self.password is not None and (self.source is None or self.source.is_dir()):
            raise UsageError("--password", "opens a zip, and --source is none", "Leave it out")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archives); None for a folder or a table."""
        return fixed_options(self.output_options(), [self.source, *self.images], demo=self.demo)

    def output_options(self) -> dict[str, Any]:
        """The options that affect the output, as plain JSON values."""
        names = ("prompt", "with_text")
        prompt_text = list(WORDINGS) if self.prompt == "recipe" else PLAIN
        values = {name: getattr(self, name) for name in names} | {name: list(getattr(self, name)) for name in SPLITS}
        return values | {"prompt_text": prompt_text} | self.split_options()
