"""The output folder of a conversion, finished or not, and how it becomes finished.

    <out>/.phiv/plan.json    what is being made, and from what; another plan here is an error, not a mixture
    <out>/.phiv/source/      the converter's own files: an unpacked archive, a synthetic demo set
    <out>/.phiv/items/       the inputs in the plan's order; written again by every run
    <out>/.phiv/parts/       one report per finished task; what is here is not done again
    <out>/.phiv/shards/      one report per finished shard
    <out>/.phiv/array.json   with shared_plan and failed/: of an array job (shared_plan.py)
    <out>/.phiv/stage/       the output, under its final relative names
    <out>/.phiv/source.json  kept beside a finished output: its plan.json, with the state of the source's files
    <out>/.phiv/kept/        kept too: its parts/, from which a run with --update takes rows (kept.py)
    <out>/...                the output; nothing is here before all of it is

`publish` renames the staged entries into place and `manifest.json` last: who finds a manifest finds a whole
dataset. When it replaces an older one, the older manifest goes first, so no reader ever sees a mixture. A publish
that was cut is finished by the same command, because every step is a rename that can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phiv_data.convert.fingerprint import SourceState
from phiv_data.storage.dataset import read_manifest
from phiv_data.utils.atomic import atomic_write, environment_problems, sha256_file
from phiv_data.utils.file_lock import FileLock, make_folder
from phiv_data.utils.terminal import say
from phiv_schemas import Manifest, ShardError, UsageError

MANIFEST = "manifest.json"
PLAN, RECORD = "plan.json", "source.json"
PARTS, KEPT = "parts", "kept"
IMAGE_SIZES = "image_sizes"
"""Kept too: eight bytes for each line of images.sha256, the size of the image."""
ARRAY, SHARED_PLAN, FAILED = "array.json", "shared_plan", "failed"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths below an output folder."""

    out_dir: Path

    @property
    def root(self) -> Path:
        return self.out_dir / ".phiv"

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def stage(self) -> Path:
        return self.root / "stage"

    @property
    def staged_images(self) -> Path:
        return self.stage / "images"

    @property
    def items(self) -> Path:
        return self.root / "items"

    @property
    def seen_index(self) -> Path:
        return self.root / "seen_index.sqlite"

    @property
    def parts(self) -> Path:
        return self.root / PARTS

    @property
    def kept(self) -> Path:
        return self.root / KEPT

    def task_report(self, task: int) -> Path:
        return self.parts / report_name(task)

    def shard_report(self, split: str, index: int) -> Path:
        return self.root / "shards" / f"{split}-{index:05d}.json"

    def discard_shard_reports(self, split: str) -> None:
        """Have the shards of a split made again."""
        for path in self.root.glob("shards/*.json"):
            if path.name.rpartition("-")[0] == split:
                path.unlink(missing_ok=True)

    def finished(self) -> Manifest | None:
        """The manifest of a finished output, or None. ShardError when it cannot be read."""
        return _manifest_of(self.out_dir)

    @property
    def is_publishing(self) -> bool:
        """True where an output is complete but not yet published."""
        return (self.stage / MANIFEST).is_file()

    def staged(self) -> Manifest | None:
        """The manifest of an output that is complete but not yet published, or None."""
        return _manifest_of(self.stage)

    def begun_record(self) -> PlanRecord | None:
        """What an unfinished output is made from."""
        return _read_record(self.root / PLAN)

    def finished_record(self) -> PlanRecord | None:
        """What the finished output was made from, as far as this machine knows."""
        return _read_record(self.root / RECORD)


def report_name(task: int) -> str:
    """The file of a task's report."""
    return f"{task:06d}.json"


class StagedDamage(ValueError):
    """A file of the stage is not as it was written: the disk has lost or changed it."""


def write_report(path: Path, text: str) -> None:
    """Write the report of a finished task or shard, with a checksum in its last line."""
    data = text.encode()
    with atomic_write(path) as file:
        file.write(data + b"\n" + hashlib.sha256(data).hexdigest().encode())


def read_report(path: Path) -> bytes:
    """What `write_report` wrote. StagedDamage where it is not as it was written."""
    data, _, checksum = path.read_bytes().rpartition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != checksum:
        raise StagedDamage(path.name)
    return data


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What an output is made from. `provenance` goes into the manifest too, `source` never leaves this machine."""

    name: str
    plan_sha256: str
    provenance: dict[str, Any]
    source: SourceState

    def is_same(self, now: PlanRecord) -> bool:
        """True when an output of `now` is the one that this says, made of the same files."""
        return self.source.is_same(now.source) and replace(self, source=now.source) == now


def is_unfinished(out_dir: Path) -> bool:
    """True when a conversion into this folder is under way or was stopped."""
    root = Workspace(out_dir).root
    return root.exists() and {path.name for path in root.iterdir()} - {"lock", KEPT} != {RECORD}


@contextmanager
def locked(out_dir: Path, *, shared: bool = False, wait: bool = False) -> Iterator[Workspace]:
    """The workspace of `out_dir`, made where missing, locked against a second process; `shared`, by several together.

    Raises UsageError for a folder that holds other people's files, or is in use and `wait` is False;
    EnvironmentProblem where it cannot be written.
    """
    workspace = Workspace(out_dir)
    with environment_problems(out_dir):
        is_new = not out_dir.exists()
        # Files of somebody else are neither a dataset nor one on its way into place.
        names = sorted(path.name for path in out_dir.iterdir()) if out_dir.is_dir() else []
        seen = [name for name in names if not name.startswith(".")]
        if seen and not workspace.is_publishing and not _is_dataset(workspace, names):
            raise _not_ours(workspace, seen[0])
        try:
            make_folder(workspace.root)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            hint = "" if isinstance(error, FileNotFoundError) else "A file is in its way"
            raise UsageError("--out_dir", f"{str(out_dir)!r} cannot be a folder", hint) from None
    with FileLock(workspace.root / "lock") as lock:
        if not lock.acquire(shared=shared, wait=False):
            if not wait:
                raise UsageError(str(out_dir), "another conversion is writing here", "Wait for it to end")
            say(f"{out_dir}: waiting for those that work here", to=sys.stderr)
            lock.acquire(shared=shared, wait=True)
        try:
            yield workspace
        finally:
            if not shared or lock.acquire(shared=False, wait=False):
                _remove_if_idle(workspace, is_new)


def begin(workspace: Workspace, wanted: PlanRecord, *, overwrite: bool) -> tuple[str, ...]:
    """Start the plan, or resume it where an earlier run of the same plan was stopped.

    An unfinished conversion of a source or by a converter that has changed since is started over, which is a warning.
    Raises UsageError when the folder holds an unfinished conversion of other options and `overwrite` is False.
    """
    path, warnings = workspace.root / PLAN, tuple[str, ...]()
    found = _read_record(path)
    if found is None or not found.is_same(wanted):
        if found is not None and not overwrite:
            warnings = (f"{_changed_since(found, wanted, workspace)}: the conversion starts over",)
        # What it has made; the converter's own files stay. Without a plan it is of a run whose clean-up was cut.
        for name in ("stage", PARTS, "shards", FAILED, PLAN):
            _remove(workspace.root / name)
    with atomic_write(path) as file:
        file.write(json.dumps(asdict(wanted), indent=1, sort_keys=True).encode())
    return warnings


def _changed_since(found: PlanRecord, wanted: PlanRecord, workspace: Workspace) -> str:
    """What has changed since a stopped run. UsageError where that is more than the source or the converter's code."""
    keys: list[str] = ["the dataset"] if found.name != wanted.name else []
    for group in ("options", "versions"):
        a, b = wanted.provenance[group], found.provenance[group]
        keys += sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    if keys:
        raise UsageError(
            str(workspace.out_dir),
            f"holds an unfinished conversion that differs in {', '.join(keys)}",
            "Repeat its command to finish it, or pass --overwrite to start again",
        )
    is_code = found.provenance["converter_version"] != wanted.provenance["converter_version"]
    if not is_code and found.plan_sha256 == wanted.plan_sha256 and found.source.times == wanted.source.times:
        return "the stopped run did not read the contents of the source's files, which --verify compares"
    return f"{'the converter' if is_code else 'the source'} has changed since the stopped run"


def discard(workspace: Workspace) -> None:
    """Empty the work folder, but for the lock, which is still held, and what is known of a finished output."""
    for path in workspace.root.iterdir():
        if path.name not in ("lock", RECORD, KEPT):
            _remove(path)


def publish(workspace: Workspace) -> Manifest:
    """Move the staged output into place, manifest last, and clean up. Safe to repeat after any interruption."""
    manifest = workspace.staged()
    assert manifest is not None, "publish needs a staged manifest"
    old_folder = workspace.root / "old"
    names = sorted(path.name for path in workspace.stage.iterdir() if path.name != MANIFEST)
    with environment_problems(workspace.out_dir):
        taken = [name for name in names if (workspace.out_dir / name).exists()]
        if not old_folder.exists() and taken and not (workspace.out_dir / MANIFEST).exists():
            raise _not_ours(workspace, taken[0])
        _move(workspace.out_dir, old_folder, [MANIFEST])
        try:
            old = _manifest_of(old_folder)
            outdated = _entries(old) if old else set()
        except ShardError:  # damaged: it may have had shards
            outdated = {"arrow"}
        _move(workspace.out_dir, old_folder, sorted(outdated - _entries(manifest)))
        for name in names:
            _move(workspace.out_dir, old_folder, [name])
            _move(workspace.stage, workspace.out_dir, [name])
        if (workspace.root / PLAN).exists():  # a stopped publish may have done it
            (workspace.root / PLAN).replace(workspace.root / RECORD)
        if workspace.parts.exists():
            _remove(workspace.kept)
            workspace.parts.rename(workspace.kept)
        os.sync()
        _move(workspace.stage, workspace.out_dir, [MANIFEST])
        discard(workspace)
    return manifest


def take_back_if_damaged(workspace: Workspace) -> str | None:
    """The first file of a staged output that is not as its manifest says; None where all of them are.

    A publish that was cut is undone then: the older output, where there was one, is back in place.
    """
    old_folder, root, out_dir = workspace.root / "old", workspace.root, workspace.out_dir
    try:
        manifest = workspace.staged()
    except ShardError:
        if old_folder.exists():  # which of the files in place are new is known from the manifest alone
            raise
        _remove(workspace.stage / MANIFEST)
        return MANIFEST
    assert manifest is not None, "there is nothing to publish without a staged manifest"
    if (damaged := _first_damage(workspace, manifest)) is None:
        return None
    with environment_problems(out_dir):
        if old_folder.exists():  # publishing had begun
            moved = [name for name in _entries(manifest) if not (workspace.stage / name).exists()]
            _move(out_dir, workspace.stage, moved)
            _move(old_folder, out_dir, sorted(path.name for path in old_folder.iterdir()))
            _remove(old_folder)
        if not (root / PLAN).exists() and (root / RECORD).exists():
            (root / RECORD).replace(root / PLAN)
        if not workspace.parts.exists() and workspace.kept.exists():
            workspace.kept.rename(workspace.parts)
        _remove(workspace.stage / MANIFEST)
    return damaged


def _first_damage(workspace: Workspace, manifest: Manifest) -> str | None:
    """The first file, staged or moved into place already, whose bytes the manifest does not name."""

    def is_whole(path: str, sha256: str) -> bool:
        staged = (workspace.stage / Path(path).parts[0]).exists()
        file = (workspace.stage if staged else workspace.out_dir) / path
        return file.is_file() and sha256_file(file) == sha256

    for info in manifest.files:
        if not is_whole(info.path, info.sha256):
            return info.path
    staged = workspace.stage / manifest.image_hashes.path
    hashes = staged if staged.exists() else workspace.out_dir / manifest.image_hashes.path
    with hashes.open("rb") as lines:
        for line in lines:
            sha256, _, path = line.decode().rstrip("\n").partition("  ")
            if not is_whole(path, sha256):
                return path
    return None


def _manifest_of(folder: Path) -> Manifest | None:
    """`folder/manifest.json`, or None where there is none. ShardError when it is not a manifest."""
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None


def _is_dataset(workspace: Workspace, names: list[str]) -> bool:
    """Whether an output folder with these names holds a finished dataset, be it one that has lost a file."""
    if MANIFEST not in names:
        return False
    try:
        return "images.sha256" in names or workspace.finished() is not None
    except ShardError:
        return False


def _not_ours(workspace: Workspace, name: str) -> UsageError:
    what = f"{str(workspace.out_dir)!r} is not empty and holds no phiv output (found {name!r})"
    hint = "Pass a new or empty folder, or move that away"
    if (workspace.root / RECORD).is_file():
        what = f"{str(workspace.out_dir)!r} is an output of phiv whose {MANIFEST} is missing"
        hint = "Delete or move the folder, then convert again"
    return UsageError("--out_dir", what, hint)


def _read_record(path: Path) -> PlanRecord | None:
    """The record at `path`; None where there is none, or one that this version does not know."""
    try:
        value = json.loads(path.read_bytes())
        return PlanRecord(**(value | {"source": SourceState(**value["source"])}))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _entries(manifest: Manifest) -> set[str]:
    """Top-level names a dataset owns."""
    return {Path(info.path).parts[0] for info in manifest.files} | {"images"}


def _move(source: Path, target: Path, names: list[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).exists():
            _remove(target / name)
            (source / name).rename(target / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_if_idle(workspace: Workspace, is_new: bool) -> None:
    """Remove the work folder when nothing in it is worth keeping, and a new output folder that stayed empty."""
    names = {path.name for path in workspace.root.iterdir()}
    if names - {KEPT} == {"lock", RECORD}:
        (workspace.root / "lock").unlink()
    if names - {"lock", "source", "items"} or (workspace.source.exists() and any(workspace.source.iterdir())):
        return
    shutil.rmtree(workspace.root, ignore_errors=True)
    if is_new and workspace.out_dir.exists() and not any(workspace.out_dir.iterdir()):
        with suppress(OSError):  # another process has begun there
            workspace.out_dir.rmdir()
