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
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

from phiv_data.convert.base import ConverterOptions
from phiv_data.media.images import image_size, open_image
from phiv_data.media.reject import RejectInput
from phiv_data.reports import text
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.testing.case import Case, Check, convert_case, convert_source, open_case, plan_case, sound_source
from phiv_data.testing.changes import (
    check_changed_content_is_noticed,
    check_changed_options_change_the_plan,
    check_update_equals_a_fresh_conversion,
)
from phiv_data.testing.helpers import (
    copy_source,
    demand,
    demand_same_drafts,
    demand_same_files,
    demand_valid,
    drafts_of,
    hashes,
    list_by_name,
    record_lines,
    sound_drafts,
)
from phiv_data.validation import validate
from phiv_schemas import Conversation, PhivError, Reject, ValidationReport
from phiv_schemas.errors import EXIT_USAGE

MAX_ITEM_BYTES = 4096
"""Of a pickled item; most are a tenth of it."""


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
    converter = plan_case(case, tmp).converter
    line, splits = converter.describe(), converter.splits
    demand(bool(converter.name and converter.record_source), "name or record_source is empty. Name the dataset")
    demand(len(set(splits)) == len(splits), f"a split is there twice (found {splits}). List each once")
    demand(bool(line.strip()) and "\n" not in line, f"describe() is not one line (found {line!r}). Describe the layout")
    for place in (str(case.source.absolute()), str(tmp.absolute())):
        demand(place not in line, f"describe() holds an absolute path (found {line!r}). Name folders relative to it")
    convert_case(case, tmp)
    changed = before.items() ^ hashes(case.source).items()
    demand(not changed, f"the source was written to ({min(changed)[0]!r})" if changed else "", "Write to work_dir only")


def check_options(case: Case, tmp: Path) -> None:
    """`options()` is plain JSON, the same each time and without places; `identity()` is None or the same."""
    found, again = (open_case(case, tmp / name).options() for name in ("1", "2"))
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
    plan = plan_case(case, tmp)
    items = list(plan.items())
    first = drafts_of(plan.converter, items)
    again = drafts_of(plan.converter, items[::-1])[::-1]
    demand_same_drafts(plan, first, again, "drafted twice", "Let draft() depend on its item alone: no state, no clock")


def check_pickles(case: Case, tmp: Path) -> None:
    """A pickled converter and its items draft the same in another process."""
    plan = plan_case(case, tmp)
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
    sizes = {item.key: len(pickle.dumps(item)) for item in plan_case(case, tmp).items()}
    key = max(sizes, key=sizes.__getitem__)
    what = f"{key}: an item of {sizes[key]} bytes, over {MAX_ITEM_BYTES}"
    demand(sizes[key] <= MAX_ITEM_BYTES, what, "Keep a name or an offset in payload, and read the data in draft()")


# What the drafts hold -----------------------------------------------------------------------------------------------


def check_images(case: Case, tmp: Path) -> None:
    """A draft's images are those its turns name, in order, and their metadata are true."""
    plan, seen = plan_case(case, tmp), dict[str, str]()
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
    for item, draft in sound_drafts(plan_case(case, tmp)):
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
    plan, outcome = plan_case(case, tmp), convert_case(case, tmp)
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
    plain = convert_case(case, tmp / "plain").manifest
    kept = convert_case(case, tmp / "kept", include_unlabeled=True).manifest
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
    plan, outcome = plan_case(case, tmp), convert_case(case, tmp, arrow=True, include_unlabeled=True)
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
    convert_case(case, tmp, arrow=True)
    demand_valid(tmp / "out")


def check_workers_leave_no_trace(case: Case, tmp: Path) -> None:
    """Two worker processes write the bytes that one process writes."""
    convert_case(case, tmp / "one")
    convert_case(case, tmp / "two", num_workers=2)
    demand_same_files(tmp / "one/out", tmp / "two/out", "by two workers", "Let draft() depend on its item alone")


def check_place_and_order_leave_no_trace(case: Case, tmp: Path) -> None:
    """A copy of the source elsewhere, its folders listed in another order, or named `.`, gives the same bytes."""
    tmp = tmp.absolute()
    copy = copy_source(case.source, tmp / "elsewhere")
    with list_by_name(reverse=False):
        convert_case(case, tmp / "here")
    with list_by_name(reverse=True):
        convert_case(case, tmp / "there", copy)
    what = "from a copy of the source, listed in another order"
    demand_same_files(tmp / "here/out", tmp / "there/out", what, "Use relative names; sort what you list and number")
    if case.source.is_dir():
        with chdir(case.source):
            convert_case(case, tmp / "inside", Path())
        what, hint = "from inside the source (--source .)", "The path `.` has no name and no parent: use absolute()"
        demand_same_files(tmp / "here/out", tmp / "inside/out", what, hint)


def check_second_run_finds_the_first(case: Case, tmp: Path) -> None:
    """The same command again finds its finished output, and leaves it alone."""
    convert_case(case, tmp)
    again = convert_case(case, tmp)
    demand(again.found_finished, "a second run does not find the output of the first. Return the same options() again")


def check_output_inside_source(case: Case, tmp: Path) -> None:
    """An output in the source's own folder is no part of the source: it is found again, and made again the same."""
    if not case.source.is_dir():
        return
    convert_case(case, tmp / "outside", arrow=True)
    source = copy_source(case.source, tmp / "inside")
    hint = "List folders with phiv_data.sources.folders, which leaves outputs of phiv out"
    for overwrite in (False, False, True):
        how = "with the output in the source's folder"
        with sound_source():
            again = convert_source(case, source, source / "out", arrow=True, overwrite=overwrite).found_finished
        demand_same_files(tmp / "outside/out", source / "out", how + (", again" if overwrite else ""), hint)
    demand(not again, "--overwrite does not convert again")


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
            account = convert_source(case, tmp / name, out).manifest.accounting
        except PhivError as error:
            code = error.exit_code
            demand(code == EXIT_USAGE, f"source {name!r}: exit code {code}, not {EXIT_USAGE}. Raise SourceError")
            demand(not (out / "manifest.json").exists(), f"source {name!r}: an output is there")
        else:
            rejected = account.rejected and not account.written
            demand(bool(rejected), f"source {name!r} is converted ({account}). Raise SourceError for what is no source")


def check_damaged_input(case: Case, tmp: Path) -> None:
    """An image or clip that is cut, empty, no image at all or gone costs its own rows, and nothing else."""
    sound = convert_case(case, tmp / "sound", include_unlabeled=True).manifest
    name = case.damaged
    if name is None:  # the first file that is copied
        written = set(hashes(tmp / "sound/out/images").values())
        name = next((path for path, sha256 in hashes(case.source).items() if sha256 in written), None)
        what = "no file of the source is copied to the output"
        demand(name is not None, what, "Name one to damage in Case.damaged, or ''")
    assert name is not None
    for kind, damage in _DAMAGE.items() if name else ():
        source, folder = copy_source(case.source, tmp / kind), tmp / f"of-{kind}"
        damage(source / name)
        account = convert_case(case, folder, source, include_unlabeled=True).manifest.accounting
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
