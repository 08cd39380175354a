"""A converter on trial: what `Case` names, opened, planned and converted with the errors a check is to report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.convert.base import Converter, ConverterOptions
from phiv_data.convert.engine import Outcome, convert
from phiv_data.convert.plan import ConversionPlan, list_inputs, make_plan
from phiv_schemas import PhivError


@dataclass(frozen=True)
class Case:
    """A converter and what to try it on."""

    options: Callable[[Path], ConverterOptions]
    """Makes the options for a source: the options class itself, where the source is its first field."""
    source: Path
    """A tiny source, folder or archive, in which every input is sound."""
    changed: tuple[Callable[[Path], ConverterOptions], ...] = ()
    """Like `options`, each with another option that shapes the output changed."""
    unlabeled: int = 0
    """How many inputs of the source have no label."""
    damaged: str | None = None
    """The image or clip to damage, relative to `source`. None: the first file that is copied to the output. Empty:
    there is none, since all lie inside archives or tables."""
    shares_images: bool = False
    """True where the dataset itself shows an image in several splits."""


Check = Callable[[Case, Path], None]


def plan_case(case: Case, tmp: Path) -> ConversionPlan:
    """The plan of its source."""
    converter = open_case(case, tmp)
    with sound_source():
        return make_plan(converter, list_inputs(converter), tmp / "items", tmp / "work")


def open_case(case: Case, tmp: Path) -> Converter:
    """The converter, its source opened."""
    (tmp / "work").mkdir(parents=True, exist_ok=True)
    with sound_source():
        return case.options(case.source).open(tmp / "work")


@contextmanager
def sound_source() -> Iterator[None]:
    """An error that a user would see fails the check."""
    try:
        yield
    except PhivError as error:
        raise AssertionError(f"a sound source does not convert ({error}). Fix the converter or the source") from error


def convert_case(case: Case, tmp: Path, source: Path | None = None, **how: Any) -> Outcome:
    """Convert to tmp/out."""
    with sound_source():
        return convert_source(case, source or case.source, tmp / "out", **how)


def convert_source(
    case: Case, source: Path, out: Path, *, arrow: bool = False, num_workers: int = 0, **how: Any
) -> Outcome:
    """Convert `source` to `out`. A PhivError passes; anything else that a converter lets through fails the check."""
    try:
        return convert(case.options(source), out, arrow=arrow, num_workers=num_workers, **how)
    except (PhivError, AssertionError):
        raise
    except Exception as error:  # whatever a third party's converter lets through
        what = f"{type(error).__name__} gets through ({' '.join(str(error).split())})"
        raise AssertionError(f"{what}. Raise SourceError in open() or inputs(), RejectInput in draft()") from error
