"""Options of the DocVQA converter. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_demo, fixed_options
from phiv_schemas.errors import UsageError
from phiv_schemas.sharing import Sharing

PROMPTS = {"recipe": "{question}\nAnswer briefly.", "plain": "{question}"}
SHARING = Sharing(group="document", group_pattern=r"(?i)(?:^|/)([a-z]{4}\d{4})_\d+\.[a-z]+$", shares=("similar",))


@dataclass(frozen=True)
class DocvqaOptions(SplitFlags):
    """DocVQA pages and questions to document question answering, every accepted answer kept."""

    opener = "phiv_converters.docvqa.convert:open_docvqa"

    sharing: ClassVar[Sharing] = SHARING

    source: Path | None = None
    """Folder, archive or file: the official release, unpacked or as its archives in one folder; lmms-lab/DocVQA,
    HuggingFaceM4/DocumentVQA, pixparse/docvqa-single-page-questions, nielsr/docvqa_1200_examples or The Cauldron's
    docvqa as parquet or save_to_disk folders. Without it, --hub is downloaded."""
    images: tuple[Path, ...] = ()
    """More folders or archives with pages of the official layout; --source itself is always searched."""
    demo: bool = False
    """Make a small synthetic set instead: needs no network and no source."""
    hub: Literal["mini", "full"] = "mini"
    """What to download without --source, as the recipe does: mini is nielsr/docvqa_1200_examples, full is the docvqa
    config of HuggingFaceM4/the_cauldron."""
    prompt: Literal["recipe", "plain"] = "recipe"
    """recipe: the question and `Answer briefly.` on a line of its own; plain: the question alone. The Cauldron's
    questions are worded already and stay as they are."""
    answer: Literal["first", "seeded"] = "first"
    """Which accepted answer `assistant` is: the first listed, or one chosen by the hash of --seed and the question."""
    seed: int = field(default=0, kw_only=True)
    """For --answer seeded, and for another val and test of train."""
    group: Literal["question", "page"] = "question"
    """One row per question, or one per page with its questions as turns and the page in the first of them."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where the source has train and no val: about this share of train becomes val, whole documents, by a hash."""

    def __post_init__(self) -> None:
        self.check_fractions()
        check_demo(self.demo, [self.source, *self.images])
        if self.images and self.source is None:
            raise UsageError("--images", "needs the questions too", "Pass them as --source")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archives); None for a folder or a table."""
        return fixed_options(self.output_options(), [self.source, *self.images], demo=self.demo)

    def output_options(self) -> dict[str, Any]:
        """The options that affect the output, as plain JSON values."""
        seed = self.seed if self.answer == "seeded" else None
        values = {name: getattr(self, name) for name in ("prompt", "answer", "group")} | {"seed": seed}
        return values | {"prompt_text": PROMPTS[self.prompt]} | self.split_options()
