"""Checkpoints: complete or not there, and refused by a run they do not belong to.

    <output_dir>/checkpoint-40/
        model-*.safetensors + config, tokenizer ...     or adapter_model.safetensors + adapter_config.json
        optimizer.pt  scheduler.pt  rng_state*.pth  trainer_state.json     (ZeRO-2, FSDP2: their own folders)
        phiv_config.json                                the resolved settings
        phiv_checkpoint.json                            Stamp: what the checkpoint belongs to; written last

A checkpoint is written to a temporary folder beside its place and renamed when every rank is done, so a run killed
at any moment leaves only complete ones; then older ones are pruned. The stamp lists the files, so what is lost or
damaged later is noticed before it is read: transformers would go on without an optimizer.pt, and say nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from phiv_data.utils.atomic import TMP_PREFIX, atomic_write, environment_problems, sha256_file, sync_folder
from phiv_schemas.errors import EnvironmentProblem, PhivError, UsageError
from phiv_train.config import CONFIG_FILE, TrainConfig, law, read_config, write_config

STAMP_FILE = "phiv_checkpoint.json"
HINT = "Use an older checkpoint (--resume DIR) or start over with --resume never"
HASHED_BYTES = 1 << 24  # all but the weights and optimizer state of a real model: those take minutes to hash
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file as it was saved; `sha256` (hex) of those up to HASHED_BYTES."""

    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a checkpoint belongs to. A run goes on only from one whose stamp is its own, but for `step`.

    `plan`: hash of the plan of batches (data, order, packing). `spec`: the processor's hash. `sharding`: how the
    optimizer's state is stored: `whole`, `fsdp2`, or `zero2-x4`, which only as many processes can read back.
    `packs_per_step`: of the plan, kept when the number of processes changes. `files`: all others of the folder, those
    of every rank, by path; filled in when the stamp is written.
    """

    step: int
    plan: str
    spec: str
    sharding: str
    packs_per_step: int
    files: Mapping[str, SavedFile] = field(default_factory=dict)


def write_stamp(folder: Path, config: TrainConfig, stamp: Stamp) -> None:
    """Write settings and stamp into a checkpoint; the stamp last, when every rank has written its files."""
    write_config(config, folder / CONFIG_FILE)
    values = dataclasses.asdict(dataclasses.replace(stamp, files=_list_files(folder)))
    with atomic_write(folder / STAMP_FILE) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def _list_files(folder: Path) -> dict[str, SavedFile]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / STAMP_FILE)
    return {path.relative_to(folder).as_posix(): _as_saved(path) for path in paths}


def _as_saved(path: Path) -> SavedFile:
    size = path.stat().st_size
    return SavedFile(size, sha256_file(path) if size <= HASHED_BYTES else None)


def read_stamp(folder: Path) -> Stamp:
    """The stamp of a checkpoint. UsageError when the folder is none, or not a complete one."""
    path = folder / STAMP_FILE
    if not path.is_file():
        found = "is not a complete checkpoint" if folder.is_dir() else "no such checkpoint"
        raise UsageError(str(folder), f"{found} (no {STAMP_FILE})", "Pass a checkpoint-N folder written by phiv-train")
    with environment_problems(path):
        text = path.read_bytes()
    try:
        stamp = TypeAdapter(Stamp).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(str(path), f"cannot be read ({where}{where and ': '}{first['msg']})", HINT) from error
    if not stamp.files:
        raise UsageError(str(path), "cannot be read (it lists no files)", HINT)
    return stamp


def check_files(folder: Path) -> Stamp:
    """The stamp of a checkpoint whose files are all as they were saved; others may be there. UsageError if not."""
    stamp = read_stamp(folder)
    for name, saved in stamp.files.items():
        path = folder / name
        with environment_problems(path):
            if not path.is_file():
                raise UsageError(str(path), "is missing", HINT)
            if (size := path.stat().st_size) != saved.size_bytes:
                raise UsageError(str(path), f"was cut or changed ({size} bytes, {saved.size_bytes} expected)", HINT)
            if saved.sha256 is not None and sha256_file(path) != saved.sha256:
                raise UsageError(str(path), "was changed (its sha256 is not the one it was saved with)", HINT)
    return stamp


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run that have a stamp, oldest first: they were complete when they were written."""
    found = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found) if (path / STAMP_FILE).is_file()]


def find_checkpoint(config: TrainConfig) -> Path | None:
    """The checkpoint to go on from, or None to start. `auto` takes the newest whole one. UsageError when `resume` names
    one that is not there or damaged, or when all are damaged."""
    if config.resume == "never":
        return None
    if config.resume != "auto":
        check_files(Path(config.resume))
        return Path(config.resume)
    folder, problems = _newest_whole(config.output_dir)
    if folder is None and problems:  # days of work may be in them: not a case to start over by itself
        raise problems[0]
    return folder


def left_aside(config: TrainConfig) -> list[UsageError]:
    """What is wrong with the checkpoints that are newer than the one `auto` goes on from."""
    return _newest_whole(config.output_dir)[1] if config.resume == "auto" else []


def _newest_whole(output_dir: Path) -> tuple[Path | None, list[UsageError]]:
    """The newest checkpoint of which nothing was lost, and the problems of newer ones."""
    problems: list[UsageError] = []
    for folder in reversed(complete_checkpoints(output_dir)):
        if (problem := _problem(folder)) is None:
            return folder, problems
        problems.append(problem)
    return None, problems


def _problem(folder: Path) -> UsageError | None:
    try:
        check_files(folder)
    except UsageError as error:
        return error
    return None


def check_stamp(folder: Path, config: TrainConfig, stamp: Stamp) -> Stamp:
    """The checkpoint's stamp if this run may go on from it. UsageError, one line, if it is damaged or naming the
    difference if it belongs to another run."""
    found, saved = check_files(folder), read_config(folder / CONFIG_FILE)
    hint = "Run with the same, or use another --output_dir, or start over with --resume never"
    if saved.model_name_or_path != config.model_name_or_path:
        what = f"is of another model ({saved.model_name_or_path!r}, this run has {config.model_name_or_path!r})"
        raise UsageError(str(folder), what, hint)
    if differing := _difference(law(saved), law(config)):
        raise UsageError(str(folder), f"was made with other settings ({differing})", hint)
    if found.spec != stamp.spec:
        raise UsageError(str(folder), "was made with another tokenizer or image settings (the spec hash differs)", hint)
    if found.plan != stamp.plan:
        what = "was made from another plan: the data, their lengths or the plan's rules have changed"
        raise UsageError(str(folder), what, hint)
    if found.sharding != stamp.sharding:
        what = f"holds {found.sharding} optimizer state, this run needs {stamp.sharding}"
        raise UsageError(str(folder), what, "Go on with the same --distributed and, if sharded, number of processes")
    return found


def is_of_run(folder: Path, config: TrainConfig, stamp: Stamp) -> bool:
    """True when `folder` is whole and holds this run's weights after the step of `stamp`."""
    try:
        return check_stamp(folder, config, stamp).step == stamp.step
    except UsageError:
        return False


def clean(output_dir: Path, *, everything: bool) -> None:
    """Remove what killed runs left unfinished and, with `everything`, all checkpoints and logs of earlier runs."""
    leftovers = list(output_dir.glob(f"{TMP_PREFIX}*"))
    if everything:
        leftovers += complete_checkpoints(output_dir)
    with environment_problems(output_dir):
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def written_beside(unfinished: Path) -> Iterator[None]:
    """Remove `unfinished` when writing it fails: on a full disk it would keep the room the next try needs."""
    try:
        yield
    except BaseException as error:
        hidden = isinstance(error, Exception) and not isinstance(error, PhivError)
        problem = _disk_problem(unfinished.parent) if hidden else None  # asked before room is made
        shutil.rmtree(unfinished, ignore_errors=True)
        if problem is not None:
            raise problem from error
        raise


def _disk_problem(folder: Path) -> EnvironmentProblem | None:
    """What the system says of writing 1 MB: torch reports a full disk as `basic_ios::clear: iostream error`."""
    probe = folder / f"{TMP_PREFIX}probe"
    try:
        with environment_problems(folder):
            probe.write_bytes(bytes(1 << 20))
    except EnvironmentProblem as problem:
        return problem
    finally:
        probe.unlink(missing_ok=True)
    return None


def publish(unfinished: Path, output_dir: Path, name: str) -> Path:
    """Rename a finished checkpoint to its place; one that is there already is replaced."""
    final = output_dir / name
    with environment_problems(final):
        if final.exists():
            shutil.rmtree(final)
        unfinished.rename(final)
        sync_folder(output_dir)
    return final


def prune(output_dir: Path, keep: int) -> None:
    """Remove all checkpoints that are older than the newest `keep` whole ones."""
    found = complete_checkpoints(output_dir)
    whole = [path for path in found if _problem(path) is None]
    for path in found[: found.index(whole[-keep])] if len(whole) >= keep else ():
        gone = path.with_name(f"{TMP_PREFIX}{path.name}")  # never a half-removed folder under a checkpoint's name
        path.rename(gone)
        shutil.rmtree(gone)


def check_free_space(output_dir: Path, needed: int) -> None:
    """EnvironmentProblem when the disk of `output_dir` has less than `needed` bytes free."""
    there = next(path for path in (output_dir.absolute(), *output_dir.absolute().parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        what = f"{needed / 1e6:,.0f} MB are needed for checkpoints ({free / 1e6:,.0f} MB are free)"
        raise EnvironmentProblem(str(output_dir), what, "Free some space, or use another --output_dir")


def checkpoint_bytes(total: int, trainable: int, *, adapter: bool, weight_bytes: int = 4) -> int:
    """Size of one checkpoint: the weights (or adapter), and two float32 averages per trainable parameter.

    >>> checkpoint_bytes(100, 100, adapter=False), checkpoint_bytes(100, 2, adapter=True)
    (1200, 24)
    """
    return (trainable if adapter else total) * weight_bytes + trainable * 8


def _difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`key=then, now key=now` of the first two settings that differ."""
    keys = [key for key in now if saved.get(key) != now[key]]
    shown = [f"{key}={saved.get(key)!r}, this run has {now[key]!r}" for key in keys[:2]]
    return "; ".join(shown) + (f"; and {len(keys) - 2} more" if len(keys) > 2 else "")
