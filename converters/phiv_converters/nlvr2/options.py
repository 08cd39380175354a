"""Options of the NLVR2 converter. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_demo, check_range, fixed_options
from phiv_schemas.errors import UsageError
from phiv_schemas.sharing import Sharing

# As the authors of The Cauldron built its nlvr2 config from HuggingFaceM4/NLVR2 (their published build script, which
# picks one of the eight at random); answers "Yes." and "No.".
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
SHARING = Sharing(group="image set", group_pattern=r"(?:^|/)([a-z]+\d?-\d+)-\d+-img[01]\.", shares=("images",))


@dataclass(frozen=True)
class Nlvr2Options(SplitFlags):
    """NLVR2 image pairs with true and false sentences to two-image questions."""

    opener = "phiv_converters.nlvr2.convert:open_nlvr2"

    sharing: ClassVar[Sharing] = SHARING

    source: Path | None = None
    """Folder, archive or file: the official repository (or its nlvr2/data), HuggingFaceM4/NLVR2, lmms-lab/NLVR2 or
    The Cauldron's nlvr2 as parquet or save_to_disk folders. Without it, the latter is downloaded from the hub."""
    images: tuple[Path, ...] = ()
    """More folders or archives with images of the official layout; --source itself is always searched."""
    demo: bool = False
    """Make a small synthetic set instead: needs no network and no source."""
    subset: Literal["all", "balanced", "unbalanced"] = "all"
    """Which of the official subsets of dev, test1 and test2; train has none and is always whole."""
    prompt: Literal["recipe", "plain"] = "recipe"
    """recipe: one of The Cauldron's eight wordings, answers `Yes.` and `No.`; plain: the sentence and whether it is
    true or false, answers `True` and `False`."""
    group: Literal["sentence", "pair"] = "sentence"
    """One row per sentence, or one per pair of images with its sentences as turns, as the recipe trains."""
    val_directories: int = 5
    """So many of the 100 `directory` buckets of train, those with the highest numbers, become val; 0 for no val."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where the rows name no buckets (The Cauldron): about this share of train becomes val, by a hash; rows that share
    an image stay together. Reads every image once more."""
    ignore_hashes: bool = False
    """Do not compare the images with the official util/hashes/*_hashes.json, where those are in the source."""

    def __post_init__(self) -> None:
        check_range("--val_directories", self.val_directories, 0, 99)
        self.check_fractions()
        check_demo(self.demo, [self.source, *self.images])
        if self.images and self.source is None:
            raise UsageError("--images", "needs the annotations too", "Pass them as --source")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archives); None for a folder or a table."""
        return fixed_options(self.output_options(), [self.source, *self.images], demo=self.demo)

    def output_options(self) -> dict[str, Any]:
        """The options that affect the output, as plain JSON values."""
        names = ("subset", "prompt", "group", "val_directories", "ignore_hashes")
        prompt_text = list(WORDINGS) if self.prompt == "recipe" else PLAIN
        values = {name: getattr(self, name) for name in names} | {"prompt_text": prompt_text}
        return values | self.split_options()
