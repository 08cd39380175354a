"""Checkpoints on disk: complete or not there, and refused by a run they do not belong to.

    <output_dir>/checkpoint-40/
        model-*.safetensors + config, tokenizer ...     or adapter_model.safetensors + adapter_config.json
        optimizer.pt  scheduler.pt  rng_state*.pth  trainer_state.json     (ZeRO-2, FSDP2: their own folders)
        phiv_config.json                                the resolved settings
        phiv_checkpoint.json                            CheckpointMetadata: the run it belongs to; written last

A checkpoint is written to a temporary folder beside its place and renamed when every rank is done, so a run killed
at any moment leaves only complete ones; then older ones are pruned. The metadata lists the files, so what is lost or
damaged later is detected before it is read: transformers would continue without an optimizer.pt, without a warning.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from phiv_data.utils.atomic import TMP_PREFIX, atomic_write, environment_problems, sha256_file, sync_folder
from phiv_schemas.errors import EnvironmentProblem, PhivError, UsageError
from phiv_train.checkpoints.pickles import check_pickles
from phiv_train.config import CONFIG_FILE, TrainConfig, binding_settings, read_config, write_config

METADATA_FILE = "phiv_checkpoint.json"
HINT = "Use an older checkpoint (--resume DIR) or start over with --resume never"
HASHED_BYTES = 1 << 24  # all but the weights and optimizer state of a real model: those take minutes to hash
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file as it was saved; `sha256` (hex) of those up to HASHED_BYTES."""

    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """The run a checkpoint belongs to. A run resumes only from one whose metadata equals its own, except for `step`.

    `plan`: hash of the plan of batches (data, order, packing). `spec`: the processor's hash. `sharding`: how the
    optimizer's state is stored: `whole`, `fsdp2`, or `zero2-x4`, which only as many processes can read back.
    `packs_per_step` and `batch_size_per_gpu`: of the plan, kept when the number of processes or that setting changes.
    `base`: stamp of the model an adapter is trained on, empty for a whole model. `files`: all others of the folder,
    those of every rank, by path; filled in when the metadata is written.
    """

    step: int
    plan: str
    spec: str
    sharding: str
    packs_per_step: int
    batch_size_per_gpu: int
    base: str = ""
    files: Mapping[str, SavedFile] = field(default_factory=dict)


def write_metadata(folder: Path, config: TrainConfig, metadata: CheckpointMetadata) -> None:
    """Write settings and metadata into a checkpoint; the metadata last, when every rank has written its files."""
    write_config(config, folder / CONFIG_FILE)
    files: dict[str, SavedFile] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / METADATA_FILE):
        size = path.stat().st_size
        sha256 = sha256_file(path) if size <= HASHED_BYTES else None
        files[path.relative_to(folder).as_posix()] = SavedFile(size, sha256)
    values = dataclasses.asdict(dataclasses.replace(metadata, files=files))
    with atomic_write(folder / METADATA_FILE) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def read_metadata(folder: Path) -> CheckpointMetadata:
    """The metadata of a checkpoint. UsageError when the folder is none, or not a complete one."""
    path = folder / METADATA_FILE
    if not path.is_file():
        found = "is not a complete checkpoint" if folder.is_dir() else "no such checkpoint"
        raise UsageError(
            str(folder), f"{found} (no {METADATA_FILE})", "Pass a checkpoint-N folder written by phiv-train"
        )
    with environment_problems(path):
        text = path.read_bytes()
    try:
        metadata = TypeAdapter(CheckpointMetadata).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(str(path), f"cannot be read ({where}{where and ': '}{first['msg']})", HINT) from error
    if not metadata.files:
        raise UsageError(str(path), "cannot be read (it lists no files)", HINT)
    return metadata


def verify_files(folder: Path) -> CheckpointMetadata:
    """The metadata of a checkpoint whose files are all as they were saved, else UsageError. Others may be there.

    Pickles must be plain data besides: whoever changed one could write metadata that fit.
    """
    metadata = read_metadata(folder)
    for name, saved in metadata.files.items():
        path = folder / name
        with environment_problems(path):
            if not path.is_file():
                raise UsageError(str(path), "is missing", HINT)
            if (size := path.stat().st_size) != saved.size_bytes:
                raise UsageError(str(path), f"was cut or changed ({size} bytes, {saved.size_bytes} expected)", HINT)
            if saved.sha256 is not None and sha256_file(path) != saved.sha256:
                raise UsageError(str(path), "was changed (its sha256 is not the one it was saved with)", HINT)
    check_pickles(folder, is_zero2=metadata.sharding.startswith("zero2"))
    return metadata


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run that have metadata, oldest first: they were complete when they were written."""
    return [path for path in _list_checkpoints(output_dir) if (path / METADATA_FILE).is_file()]


def _list_checkpoints(output_dir: Path) -> list[Path]:
    numbered = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(numbered)]


class FoundCheckpoint(NamedTuple):
    """A checkpoint whose files are all as they were saved; `problems` are those of newer ones, which are damaged."""

    folder: Path
    metadata: CheckpointMetadata
    problems: tuple[UsageError, ...] = ()


def find_checkpoint(config: TrainConfig) -> FoundCheckpoint | None:
    """The checkpoint to resume from, or None to start. `auto` takes the newest undamaged one.

    UsageError when `resume` names one that is missing or damaged, or when all are damaged.
    """
    if config.resume == "never":
        return None
    if config.resume != "auto":
        folder = Path(config.resume)
        return FoundCheckpoint(folder, verify_files(folder))
    problems: list[UsageError] = []
    for folder in reversed(complete_checkpoints(config.output_dir)):
        try:
            return FoundCheckpoint(folder, verify_files(folder), tuple(problems))
        except UsageError as error:
            problems.append(error)
    if problems:  # days of work may be in them: do not silently start over
        raise problems[0]
    return None


def check_run(folder: Path, found: CheckpointMetadata, config: TrainConfig, expected: CheckpointMetadata) -> None:
    """UsageError, naming the difference, where a checkpoint with metadata `found` belongs to another run."""
    saved = read_config(folder / CONFIG_FILE)
    hint = "Run with the same, or use another --output_dir, or start over with --resume never"
    if saved.model_name_or_path != config.model_name_or_path:
        what = f"is of another model ({saved.model_name_or_path!r}, this run has {config.model_name_or_path!r})"
        raise UsageError(str(folder), what, hint)
    before, now = binding_settings(saved), binding_settings(config)
    if differing := [key for key in now if before.get(key) != now[key]]:
        shown = "; ".join(f"{key}={before.get(key)!r}, this run has {now[key]!r}" for key in differing[:2])
        more = f"; and {len(differing) - 2} more" if len(differing) > 2 else ""
        final = folder.parent / "final"
        if set(differing) <= {"num_train_epochs", "max_steps"} and not config.lora and final.is_dir():
            hint = f"To train {final} further, use another --output_dir with --model_name_or_path {final}"
        raise UsageError(str(folder), f"was made with other settings ({shown}{more})", hint)
    if found.spec != expected.spec:
        raise UsageError(str(folder), "was made with another tokenizer or image settings (the spec hash differs)", hint)
    if found.base and found.base != expected.base:
        what = f"was trained on other weights than {config.model_name_or_path!r} has now"
        raise UsageError(str(folder), what, "Put the base back as it was, or start over with --resume never")
    if found.plan != expected.plan:
        what = "was made from another plan: the data, their lengths or the plan's rules have changed"
        raise UsageError(str(folder), what, hint)
    if found.sharding != expected.sharding:
        what = f"holds {found.sharding} optimizer state, this run needs {expected.sharding}"
        hint = "Resume with the same --distributed and, if sharded, number of processes"
        raise UsageError(str(folder), what, hint)


def is_of_run(folder: Path, config: TrainConfig, expected: CheckpointMetadata) -> bool:
    """True when `folder` is undamaged and holds this run's weights after the step of `expected`."""
    try:
        found = verify_files(folder)
        check_run(folder, found, config, expected)
    except UsageError:
        return False
    return found.step == expected.step


# Logs and evaluations that a run writes beside its checkpoints.
_EVALUATIONS = [f"eval_{when}{suffix}" for when in ("before", "after") for suffix in (".json", ".confusion.png")]
_RUN_FILES = ["metrics.jsonl", "runs", "bad_rows.jsonl", *_EVALUATIONS]


def clean_output_dir(output_dir: Path, *, everything: bool) -> None:
    """Remove the temporary files of killed runs.

    With `everything` also all that earlier runs wrote here: checkpoints (complete or not), `metrics.jsonl`,
    TensorBoard's `runs/`, `eval_before` and `eval_after` (json and confusion image) and `bad_rows.jsonl`. Not `final/`,
    which stays until this run's replaces it, nor the lengths, which depend on the data alone.
    """
    leftovers: list[Path] = []
    if everything:
        leftovers += _list_checkpoints(output_dir)
        leftovers += [path for name in _RUN_FILES if (path := output_dir / name).exists()]
    with environment_problems(output_dir):
        for path in leftovers:
            _rename_aside(path)
        for path in output_dir.glob(f"{TMP_PREFIX}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def remove_on_failure(unfinished: Path) -> Iterator[None]:
    """Remove `unfinished` when writing it fails: on a full disk it would keep the space the next attempt needs."""
    try:
        yield
    except BaseException as error:
        hidden = isinstance(error, Exception) and not isinstance(error, PhivError)
        problem = _find_disk_problem(unfinished.parent) if hidden else None  # asked before space is freed
        shutil.rmtree(unfinished, ignore_errors=True)
        if problem is not None:
            raise problem from error
        raise


def _find_disk_problem(folder: Path) -> EnvironmentProblem | None:
    """What the system reports on writing 1 MB: torch reports a full disk as `basic_ios::clear: iostream error`."""
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
        replaced = _rename_aside(final) if final.exists() else None
        unfinished.rename(final)
        sync_folder(output_dir)
        if replaced is not None:
            shutil.rmtree(replaced)
    return final


def prune(output_dir: Path, keep: int) -> None:
    """Remove all checkpoints that are older than the newest `keep` undamaged ones."""
    complete, undamaged = complete_checkpoints(output_dir), list[Path]()
    for path in complete:
        with suppress(UsageError):
            verify_files(path)
            undamaged.append(path)
    for path in complete[: complete.index(undamaged[-keep])] if len(undamaged) >= keep else ():
        shutil.rmtree(_rename_aside(path))


def _rename_aside(path: Path) -> Path:
    """Give what is to be removed a temporary name: killed meanwhile, it never leaves half of `path`."""
    aside = path.with_name(f"{TMP_PREFIX}removed-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def check_free_space(output_dir: Path, needed: int) -> None:
    """EnvironmentProblem when the disk of `output_dir` has less than `needed` bytes free."""
    existing = next(path for path in (output_dir.absolute(), *output_dir.absolute().parents) if path.exists())
    if (free := shutil.disk_usage(existing).free) < needed:
        what = f"{needed / 1e6:,.0f} MB are needed for checkpoints ({free / 1e6:,.0f} MB are free)"
        raise EnvironmentProblem(str(output_dir), what, "Free some space, or use another --output_dir")


def checkpoint_bytes(total: int, trainable: int, *, adapter: bool, weight_bytes: int = 4) -> int:
    """Size of one checkpoint: the weights (or adapter), and two float32 averages per trainable parameter.

    >>> checkpoint_bytes(100, 100, adapter=False), checkpoint_bytes(100, 2, adapter=True)
    (1200, 24)
    """
    return (trainable if adapter else total) * weight_bytes + trainable * 8
