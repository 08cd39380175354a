"""The checks of what changes: options, contents of a source, files and rows; seen by a rerun, a resume, an update."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from phiv_data.testing.case import Case, convert_case, convert_source, plan_case
from phiv_data.testing.helpers import (
    Removal,
    SourceChange,
    copy_source,
    data_of,
    demand,
    demand_same_files,
    find_changes,
    find_removals,
)
from phiv_data.utils.progress import Progress
from phiv_schemas import PhivError, UsageError


def check_changed_options_change_the_plan(case: Case, tmp: Path) -> None:
    """Each of `Case.changed` gives another plan: otherwise its output would be taken for that of the others."""
    plans = [plan_case(case, tmp / "0")]
    for i, options in enumerate(case.changed, start=1):
        plans.append(plan_case(replace(case, options=options), tmp / str(i)))
        same = next((k for k in range(i) if plans[k].sha256 == plans[i].sha256), None)
        demand(
            same is None,
            f"changed[{i - 1}] has the plan of {'options' if not same else f'changed[{same - 1}]'}",
            "Put every option that shapes the output into options()",
        )


def check_changed_content_is_noticed(case: Case, tmp: Path) -> None:
    """A source that changes without a change of any size is noticed, by a second run and by a resumed one.

    Of text files a letter is changed, of others some bytes. The first change of either kind that changes the output
    must be noticed by the file's time, and with `verify` where the time stays too; of text, every further one as well:
    an input may consist of several columns, each of which must be in its content.
    """
    convert_case(case, tmp / "first", include_unlabeled=True)
    first, done = data_of(tmp / "first/out"), set[str]()
    for number, change in enumerate(find_changes(case.source)):
        if change.kind in done and change.kind == "bytes":
            continue
        folder = tmp / str(number)
        source = copy_source(case.source, folder / "source")
        change.apply(source)
        try:
            convert_source(case, source, folder / "fresh", include_unlabeled=True)
        except (PhivError, AssertionError):
            continue  # a source no longer
        if (fresh := data_of(folder / "fresh")) != first:
            for verify in (False, True) if change.kind not in done else (False,):
                _demand_noticed(case, change, fresh, folder / str(verify), verify=verify)
            done.add(change.kind)


def check_update_equals_a_fresh_conversion(case: Case, tmp: Path) -> None:
    """`--update` to a changed source, and back, gives the bytes of a fresh conversion of each.

    Changed are a letter or some bytes of a file, without another size or time; removed are files and lines.
    """
    source = copy_source(case.source, tmp / "source", keep_times=True)
    convert_case(case, tmp / "whole", source, include_unlabeled=True, verify=True)
    whole, left = data_of(tmp / "whole/out"), {"text": 2, "bytes": 1}  # of changes that change the output
    changes: list[SourceChange | Removal] = [*find_changes(source), *find_removals(source)]
    for number, change in enumerate(changes):
        if isinstance(change, Removal) or left[change.kind]:
            data = _demand_same_update(case, change, source, tmp / "whole/out", tmp / str(number))
            if isinstance(change, SourceChange):
                left[change.kind] -= data not in (None, whole)


def _demand_same_update(
    case: Case, change: SourceChange | Removal, source: Path, whole: Path, tmp: Path
) -> dict[str, str] | None:
    """The data of the changed source, None where it is a source no longer. AssertionError where an update gives others.

    `whole` is the output of `source`.
    """
    how: dict[str, Any] = {"include_unlabeled": True, "verify": True}
    changed = copy_source(case.source, tmp / "source", keep_times=True)
    change.apply(changed, keep_time=True)
    try:
        convert_source(case, changed, tmp / "out", **how)
    except (PhivError, AssertionError):
        return None
    data, hint = data_of(tmp / "out"), "Give what draft() depends on in Item.content, key or payload, or a field"
    shutil.copytree(whole, tmp / "updated/out")
    convert_case(case, tmp / "updated", changed, update=True, **how)
    demand_same_files(tmp / "out", tmp / "updated/out", f"with --update, after {change}", hint)
    convert_case(case, tmp, source, update=True, **how)
    demand_same_files(whole, tmp / "out", f"with --update, back from {change}", hint)
    return data


class _Stopped(BaseException):
    """Takes the place of a kill."""


def _stop_before_shards(title: str, total: int) -> Progress:
    if title.endswith("shards"):
        raise _Stopped
    return Progress(title, total)


def _demand_noticed(case: Case, change: SourceChange, fresh: dict[str, str], tmp: Path, *, verify: bool) -> None:
    """AssertionError where what was made of the unchanged source passes for what the changed one gives."""
    source = copy_source(case.source, tmp / "source")
    how: dict[str, Any] = {"include_unlabeled": True, "verify": verify, "arrow": True}
    convert_case(case, tmp / "second", source, **how)
    with suppress(_Stopped):
        convert_source(case, source, tmp / "resumed/out", progress=_stop_before_shards, **how)
    change.apply(source, keep_time=verify)
    for run in ("second", "resumed"):
        try:
            convert_source(case, source, tmp / run / "out", **how)
        except UsageError:
            continue  # noticed, and refused
        what = f"a {run} run misses a change in {change.name!r}{' (time kept, verify=True)' if verify else ''}"
        hint = "Put what an input is into Item.content: the bytes of its row, the files that draft() reads"
        demand(data_of(tmp / run / "out") == fresh, what, hint)
