"""The conformance kit for converters: hand it the options and a tiny source, and it tries to break the contract.

    check_converter(PetsOptions, Path("tiny_pets"))            # AssertionError: a line for each failed check

    PETS = Case(PetsOptions, Path("tiny_pets"), unlabeled=1)   # the same, one pytest test for each check
    @pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
    def test_pets(check: Check, tmp_path: Path) -> None:
        check(PETS, tmp_path)

    assert_valid("out")                                        # of any data set: AssertionError with the findings

The kit never writes to the source, and damages copies only. A source of two or three inputs a split is enough, one of
them without a label where the dataset has such; `docs/conformance.md` explains every check.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phiv_data.convert.base import Converter, ConverterOptions
from phiv_data.convert.engine import Outcome, convert
from phiv_data.convert.plan import ConversionPlan, list_inputs, make_plan
from phiv_data.media.images import image_size, open_image
from phiv_data.media.reject import RejectInput
from phiv_data.reports import text
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.testing.helpers import (
    Removal,
    SourceChange,
    copied,
    data_of,
    demand,
    demand_same_drafts,
    demand_same_files,
    demand_valid,
    drafts_of,
    find_changes,
    find_removals,
    hashes,
    listing,
    record_lines,
    sound_drafts,
)
from phiv_data.utils.progress import Progress
from phiv_data.validation import validate
from phiv_schemas import Conversation, PhivError, Reject, UsageError, ValidationReport
from phiv_schemas.errors import EXIT_USAGE

MAX_ITEM_BYTES = 4096
"""Of a pickled item; most are a tenth of it."""


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


def check_converter(
    options: Callable[[Path], ConverterOptions], source: Path, *, work: Path | None = None, **facts: Any
) -> None:
    """Every check, each below a folder of its own in `work` (default: a temporary one, removed afterwards).

    `facts` are the other fields of `Case`. Raises AssertionError with a line for each check that fails.
    """
    case, failures = Case(options, source, **facts), list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        for check in conformance_checks():
            folder = (work or Path(temporary)) / check.__name__
            folder.mkdir(parents=True)
            try:
                check(case, folder)
            except AssertionError as failure:
                failures.append(f"{check.__name__}: {failure}")
    if failures:
        raise AssertionError("\n".join(failures))


def assert_valid(path: Path | str, *, strict: bool = False, max_shown: int = 20, **options: Any) -> ValidationReport:
    """The report of a data set without an error, for tests of your own; with `strict`, without a warning too.

    Otherwise an AssertionError: the verdict, then the first `max_shown` findings, one a line. `options` are those of
    `phiv_data.validate`.
    """
    __tracebackhide__ = True  # pytest then points at the line of the test
    report = validate(path, **options)
    found = report.issues if strict else report.errors
    if report.ok and not (strict and report.num_warnings):
        return report
    shown = report.model_copy(update={"issues": found[:max_shown], "truncated": False})
    *lines, verdict = text.render(shown).splitlines()
    if left := report.num_errors + (report.num_warnings if strict else 0) - len(shown.issues):
        lines.append(f"... and {left} more: phiv-validate lists them")
    raise AssertionError("\n".join([verdict, *lines]))


def conformance_checks() -> tuple[Check, ...]:
    """The checks; each takes the case and an empty folder, and raises AssertionError."""
    return (
        check_description,
        check_options,
        check_drafts_are_pure,
        check_pickles,
        check_items_are_small,
        check_images,
        check_splits_are_disjoint,
        check_accounting,
        check_unlabeled,
        check_reload,
        check_validates,
        check_workers_leave_no_trace,
        check_place_and_order_leave_no_trace,
        check_second_run_finds_the_first,
        check_output_inside_source,
        check_changed_options_change_the_plan,
        check_changed_content_is_noticed,
        check_update_equals_a_fresh_conversion,
        check_bad_sources,
        check_damaged_input,
    )


# What the converter declares ----------------------------------------------------------------------------------------


def check_description(case: Case, tmp: Path) -> None:
    """Name, splits and description are usable, and the source is only read."""
    before = hashes(case.source)
    converter = _open(case, tmp).converter
    line, splits = converter.describe(), converter.splits
    demand(bool(converter.name and converter.record_source), "name or record_source is empty. Name the dataset")
    demand(len(set(splits)) == len(splits), f"a split is there twice (found {splits}). List each once")
    demand(bool(line.strip()) and "\n" not in line, f"describe() is not one line (found {line!r}). Describe the layout")
    for place in (str(case.source.absolute()), str(tmp.absolute())):
        demand(place not in line, f"describe() holds an absolute path (found {line!r}). Name folders relative to it")
    _convert(case, tmp)
    changed = before.items() ^ hashes(case.source).items()
    demand(not changed, f"the source was written to ({min(changed)[0]!r})" if changed else "", "Write to work_dir only")


def check_options(case: Case, tmp: Path) -> None:
    """`options()` is plain JSON, the same each time and without places; `identity()` is None or the same."""
    found, again = (_opened(case, tmp / name).options() for name in ("1", "2"))
    try:
        plain = json.loads(json.dumps(found))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"options() is not JSON ({error}). Use str, int, float, bool, None, list, dict") from error
    demand(plain == found, f"options() is not plain JSON (found {found!r}). Use lists, and str keys")
    demand(found == again, f"options() differs from one run to the next ({found!r}, {again!r}). Use no clock or place")
    places = [place for place in (str(case.source.absolute()), str(tmp)) if place in json.dumps(found)]
    demand(not places, f"options() holds the place {places}. Leave paths out: outputs must not depend on them")
    identity = case.options(case.source).identity()
    demand(
        identity is None or identity == found,
        f"identity() is neither None nor options() ({identity!r}, {found!r}). Return the same dict from both",
    )


def check_drafts_are_pure(case: Case, tmp: Path) -> None:
    """A draft depends on its item alone: drafted again, and in reverse order, the same."""
    plan = _open(case, tmp)
    items = list(plan.items())
    first = drafts_of(plan.converter, items)
    again = drafts_of(plan.converter, items[::-1])[::-1]
    demand_same_drafts(plan, first, again, "drafted twice", "Let draft() depend on its item alone: no state, no clock")


def check_pickles(case: Case, tmp: Path) -> None:
    """A pickled converter and its items draft the same in another process."""
    plan = _open(case, tmp)
    try:
        converter, items = pickle.loads(pickle.dumps((plan.converter, list(plan.items()))))
    except Exception as error:  # whatever a third party's state raises
        what = f"converter and items do not pickle ({type(error).__name__}: {error})"
        raise AssertionError(
            f"{what}. Make the converter a frozen dataclass of plain values, at a module's top"
        ) from error
    drafts = drafts_of(plan.converter, list(plan.items())), drafts_of(converter, items)
    demand_same_drafts(plan, *drafts, "drafted by a pickled copy", "Keep in fields what draft() needs")


def check_items_are_small(case: Case, tmp: Path) -> None:
    """An item names where its data are; a million of them must fit in memory."""
    sizes = {item.key: len(pickle.dumps(item)) for item in _open(case, tmp).items()}
    key = max(sizes, key=sizes.__getitem__)
    what = f"{key}: an item of {sizes[key]} bytes, over {MAX_ITEM_BYTES}"
    demand(sizes[key] <= MAX_ITEM_BYTES, what, "Keep a name or an offset in payload, and read the data in draft()")


# What the drafts hold -----------------------------------------------------------------------------------------------


def check_images(case: Case, tmp: Path) -> None:
    """A draft's images are those its turns name, in order, and their metadata are true."""
    plan, seen = _open(case, tmp), dict[str, str]()
    for item, draft in sound_drafts(plan):
        named = tuple(path for turn in draft.turns for path in turn.images)
        given = tuple(image.meta.path for image in draft.images)
        demand(named == given, f"{item.key}: turns name {named}, images are {given}. Give each, in the turns' order")
        for image in draft.images:
            meta = image.meta
            try:
                size = image_size(image.data, where=meta.path)
                open_image(image.data, where=meta.path)
            except RejectInput as error:
                what = f"an image is broken ({error}). Decode it in draft(), with sources.image()"
                raise AssertionError(what) from error
            true = size.width, size.height, size.format, len(image.data), hashlib.sha256(image.data).hexdigest()
            declared = meta.width, meta.height, meta.format, meta.size_bytes, meta.sha256
            demand(declared == true, f"{item.key}: {meta.path} is declared {declared}, and is {true}. Use load_image()")
            first = seen.setdefault(meta.path, meta.sha256)
            demand(first == meta.sha256, f"{meta.path} is the path of two images. Make its name tell them apart")


def check_splits_are_disjoint(case: Case, tmp: Path) -> None:
    """No image and no input file is in two splits, unless the dataset itself shares them."""
    if case.shares_images:
        return
    splits: dict[str, set[str]] = defaultdict(set)
    for item, draft in sound_drafts(_open(case, tmp)):
        for image in draft.images:
            for sha256 in {image.meta.sha256, image.meta.source_sha256 or image.meta.sha256}:
                splits[sha256].add(f"{item.split}/{item.key}")
    crossing = [sorted(keys) for keys in splits.values() if len({key.split("/")[0] for key in keys}) > 1]
    demand(
        not crossing,
        f"{len(crossing)} images or input files are in several splits (first: {crossing[:1]})",
        "Split by whole documents, videos or sets; or pass shares_images=True where the dataset itself does it",
    )


def check_accounting(case: Case, tmp: Path) -> None:
    """Every listed input is accounted for, and of a sound source none is rejected."""
    plan, outcome = _open(case, tmp), _convert(case, tmp)
    account = outcome.manifest.accounting
    rejects = [Reject.model_validate_json(line) for line in (tmp / "out/rejects.jsonl").read_bytes().splitlines()]
    first = f"{rejects[0].input}: {rejects[0].reason}" if rejects else ""
    demand(not rejects, f"a sound input is rejected ({first}). Fix draft() or the source")
    total = plan.num_items + account.duplicates
    demand(account.inputs == total, f"{account.inputs} inputs in the manifest, {total} listed. List the same each time")
    warnings = [line for line in outcome.warnings if "\n" in line]
    demand(not warnings, f"a warning is more than a line ({warnings[:1]!r}). Make it one")


def check_unlabeled(case: Case, tmp: Path) -> None:
    """Inputs without a label are left out and counted; with include_unlabeled they are kept, without a guess."""
    plain = _convert(case, tmp / "plain").manifest
    kept = _convert(case, tmp / "kept", include_unlabeled=True).manifest
    found = plain.accounting.unlabeled
    demand(
        found == case.unlabeled,
        f"{found} unlabeled inputs, {case.unlabeled} expected",
        "Give Turn(assistant=None) where there is no label, never a guess; or state Case.unlabeled",
    )
    demand(kept.accounting.unlabeled == 0, "unlabeled inputs are left out in spite of include_unlabeled")
    demand(kept.rows == plain.rows + found, f"{kept.rows} rows with unlabeled ones, {plain.rows} + {found} expected")


# What comes out ------------------------------------------------------------------------------------------------------


def check_reload(case: Case, tmp: Path) -> None:
    """What the converter drafts, `ConversationDataset` and the jsonl files return, byte for byte."""
    plan, outcome = _open(case, tmp), _convert(case, tmp, arrow=True, include_unlabeled=True)
    sound = sound_drafts(plan)
    for split in outcome.manifest.splits:
        drafts = [(item, draft) for item, draft in sound if item.split == split.name]
        samples = ConversationDataset(tmp / "out", split.name, verify="sha256")
        lines = (tmp / "out" / split.jsonl.path).read_text("utf-8").splitlines()
        counts = len(drafts), len(samples), len(lines)
        demand(len(set(counts)) == 1, f"{split.name}: {counts} drafts, samples and lines. Draft the same each time")
        for (item, draft), sample, line in zip(drafts, samples, lines, strict=True):
            record, where = sample.conversation, f"{split.name}/{item.key}"
            demand((record.turns, record.system) == (draft.turns, draft.system), f"{where}: other turns come back")
            named = (draft.id or record.id, draft.source or plan.converter.record_source)
            demand((record.id, record.source) == named, f"{where}: another id or source comes back")
            demand(sample.images == draft.images, f"{where}: other images come back. Draft the same each time")
            demand(Conversation.model_validate_json(line) == record, f"{where}: jsonl and shard disagree")
            for image in sample.images:
                same = (tmp / "out/images" / image.meta.path).read_bytes() == image.data
                demand(same, f"{where}: images/{image.meta.path} has other bytes than the draft")


def check_validates(case: Case, tmp: Path) -> None:
    """`phiv-validate` finds nothing wrong with the output."""
    _convert(case, tmp, arrow=True)
    demand_valid(tmp / "out")


def check_workers_leave_no_trace(case: Case, tmp: Path) -> None:
    """Two worker processes write the bytes that one process writes."""
    _convert(case, tmp / "one")
    _convert(case, tmp / "two", num_workers=2)
    demand_same_files(tmp / "one/out", tmp / "two/out", "by two workers", "Let draft() depend on its item alone")


def check_place_and_order_leave_no_trace(case: Case, tmp: Path) -> None:
    """A copy of the source elsewhere, its folders listed in another order, or named `.`, gives the same bytes."""
    tmp = tmp.absolute()
    copy = copied(case.source, tmp / "elsewhere")
    with listing(reverse=False):
        _convert(case, tmp / "here")
    with listing(reverse=True):
        _convert(case, tmp / "there", copy)
    what = "from a copy of the source, listed in another order"
    demand_same_files(tmp / "here/out", tmp / "there/out", what, "Use relative names; sort what you list and number")
    if case.source.is_dir():
        with chdir(case.source):
            _convert(case, tmp / "inside", Path())
        what, hint = "from inside the source (--source .)", "The path `.` has no name and no parent: use absolute()"
        demand_same_files(tmp / "here/out", tmp / "inside/out", what, hint)


def check_second_run_finds_the_first(case: Case, tmp: Path) -> None:
    """The same command again finds its finished output, and leaves it alone."""
    _convert(case, tmp)
    again = _convert(case, tmp)
    demand(again.found_finished, "a second run does not find the output of the first. Return the same options() again")


def check_output_inside_source(case: Case, tmp: Path) -> None:
    """An output in the source's own folder is no part of the source: it is found again, and made again the same."""
    if not case.source.is_dir():
        return
    _convert(case, tmp / "outside", arrow=True)
    source = copied(case.source, tmp / "inside")
    hint = "List folders with phiv_data.sources.folders, which leaves outputs of phiv out"
    for overwrite in (False, False, True):
        how = "with the output in the source's folder"
        with _sound_source():
            again = _converted(case, source, source / "out", arrow=True, overwrite=overwrite).found_finished
        demand_same_files(tmp / "outside/out", source / "out", how + (", again" if overwrite else ""), hint)
    demand(not again, "--overwrite does not convert again")


def check_changed_options_change_the_plan(case: Case, tmp: Path) -> None:
    """Each of `Case.changed` gives another plan: otherwise its output would be taken for that of the others."""
    plans = [_open(case, tmp / "0")]
    for i, options in enumerate(case.changed, start=1):
        plans.append(_open(replace(case, options=options), tmp / str(i)))
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
    _convert(case, tmp / "first", include_unlabeled=True)
    first, done = data_of(tmp / "first/out"), set[str]()
    for number, change in enumerate(find_changes(case.source)):
        if change.kind in done and change.kind == "bytes":
            continue
        folder = tmp / str(number)
        source = copied(case.source, folder / "source")
        change.apply(source)
        try:
            _converted(case, source, folder / "fresh", include_unlabeled=True)
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
    source = copied(case.source, tmp / "source", keep_times=True)
    _convert(case, tmp / "whole", source, include_unlabeled=True, verify=True)
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
    changed = copied(case.source, tmp / "source", keep_times=True)
    change.apply(changed, keep_time=True)
    try:
        _converted(case, changed, tmp / "out", **how)
    except (PhivError, AssertionError):
        return None
    data, hint = data_of(tmp / "out"), "Give what draft() depends on in Item.content, key or payload, or a field"
    shutil.copytree(whole, tmp / "updated/out")
    _convert(case, tmp / "updated", changed, update=True, **how)
    demand_same_files(tmp / "out", tmp / "updated/out", f"with --update, after {change}", hint)
    _convert(case, tmp, source, update=True, **how)
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
    source = copied(case.source, tmp / "source")
    how: dict[str, Any] = {"include_unlabeled": True, "verify": verify, "arrow": True}
    _convert(case, tmp / "second", source, **how)
    with suppress(_Stopped):
        _converted(case, source, tmp / "resumed/out", progress=_stop_before_shards, **how)
    change.apply(source, keep_time=verify)
    for run in ("second", "resumed"):
        try:
            _converted(case, source, tmp / run / "out", **how)
        except UsageError:
            continue  # noticed, and refused
        what = f"a {run} run misses a change in {change.name!r}{' (time kept, verify=True)' if verify else ''}"
        hint = "Put what an input is into Item.content: the bytes of its row, the files that draft() reads"
        demand(data_of(tmp / run / "out") == fresh, what, hint)


# What goes wrong -----------------------------------------------------------------------------------------------------


def check_bad_sources(case: Case, tmp: Path) -> None:
    """A source that is not there, empty or of another kind ends in one line and exit code 2."""
    (tmp / "empty").mkdir()
    (tmp / "text.txt").write_text("this is not a dataset\n")
    (tmp / "other").mkdir()
    shutil.copy(tmp / "text.txt", tmp / "other")
    for name in ("missing", "empty", "text.txt", "other"):
        out = tmp / f"out-{name}"
        try:
            account = _converted(case, tmp / name, out).manifest.accounting
        except PhivError as error:
            code = error.exit_code
            demand(code == EXIT_USAGE, f"source {name!r}: exit code {code}, not {EXIT_USAGE}. Raise SourceError")
            demand(not (out / "manifest.json").exists(), f"source {name!r}: an output is there")
        else:
            rejected = account.rejected and not account.written
            demand(bool(rejected), f"source {name!r} is converted ({account}). Raise SourceError for what is no source")


def check_damaged_input(case: Case, tmp: Path) -> None:
    """An image or clip that is cut, empty, no image at all or gone costs its own rows, and nothing else."""
    sound = _convert(case, tmp / "sound", include_unlabeled=True).manifest
    name = case.damaged
    if name is None:  # the first file that is copied
        written = set(hashes(tmp / "sound/out/images").values())
        name = next((path for path, sha256 in hashes(case.source).items() if sha256 in written), None)
        what = "no file of the source is copied to the output"
        demand(name is not None, what, "Name one to damage in Case.damaged, or ''")
    assert name is not None
    for kind, damage in _DAMAGE.items() if name else ():
        source, folder = copied(case.source, tmp / kind), tmp / f"of-{kind}"
        damage(source / name)
        account = _convert(case, folder, source, include_unlabeled=True).manifest.accounting
        if kind != "gone":
            demand(bool(account.rejected), f"{name} {kind}: nothing is rejected. Decode it (open_image), keep no guess")
            hint = "List every input, and reject it in draft()"
            demand(account.inputs == sound.accounting.inputs, f"{name} {kind}: its input is dropped silently. {hint}")
        others = set(record_lines(folder / "out")) - set(record_lines(tmp / "sound/out")) if kind != "gone" else set()
        demand(not others, f"{name} {kind}: other rows change ({min(others, default='')[:80]}...)")
        demand_valid(folder / "out")


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "text": lambda path: path.write_text("this is not an image\n"),
    "gone": Path.unlink,
}


# Helpers -------------------------------------------------------------------------------------------------------------


def _open(case: Case, tmp: Path) -> ConversionPlan:
    converter = _opened(case, tmp)
    with _sound_source():
        return make_plan(converter, list_inputs(converter), tmp / "items", tmp / "work")


def _opened(case: Case, tmp: Path) -> Converter:
    (tmp / "work").mkdir(parents=True, exist_ok=True)
    with _sound_source():
        return case.options(case.source).open(tmp / "work")


@contextmanager
def _sound_source() -> Iterator[None]:
    """An error that a user would see fails the check."""
    try:
        yield
    except PhivError as error:
        raise AssertionError(f"a sound source does not convert ({error}). Fix the converter or the source") from error


def _convert(case: Case, tmp: Path, source: Path | None = None, **how: Any) -> Outcome:
    """Convert to tmp/out."""
    with _sound_source():
        return _converted(case, source or case.source, tmp / "out", **how)


def _converted(
    case: Case, source: Path, out: Path, *, arrow: bool = False, num_workers: int = 0, **how: Any
) -> Outcome:
    try:
        return convert(case.options(source), out, arrow=arrow, num_workers=num_workers, **how)
    except (PhivError, AssertionError):
        raise
    except Exception as error:  # whatever a third party's converter lets through
        what = f"{type(error).__name__} gets through ({' '.join(str(error).split())})"
        raise AssertionError(f"{what}. Raise SourceError in open() or inputs(), RejectInput in draft()") from error
