"""Damage to every file of a converted folder: phiv-validate must find it, and nothing may end with a traceback.

damage: bits, cuts, zeros, files that are gone, renamed, added, hidden, linked, swapped. phiv-validate must end with 1;
ConversationDataset with verify="sha256" must raise a PhivError for a changed shard, and with "size" no other error.
undo-damage: the same in a folder that --fix wrote: --undo gives the bytes as they were, or one line.
work-damage: in the work folder of a killed conversion: the same command gives the bytes of a straight run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from attacks.faults import choose
from attacks.injection import Fault
from attacks.running import run_forked, wait_for
from attacks.trials import HELD, Bench, Prepared, Trial, tree

SCENES = ("convert-jsonl", "convert-ucf101")
VALIDATE = ("phiv-validate", "o", "--num_workers", "0")


def damage(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Each way of damage on a file of each sort, until there are `per_scene`."""
    for name in (name for name in scenes if name in SCENES):
        prepared = bench.prepared(name)
        for file, how in _places(prepared.outputs["o"], per_scene, Random(f"{seed} damage {name}")):
            yield Trial("damage", f"{name} {how} {file}", _damaged(prepared, file, how))


def undo_damage(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Damage in folders that --fix wrote."""
    for name in (name for name in scenes if name in ("undo", "undo-plain")):
        prepared = bench.prepared(name)
        files = tree(prepared.template / "fixed")
        if name == "undo-plain":  # nothing there has a hash, so only the log itself can be found damaged
            files = {file: sha256 for file, sha256 in files.items() if file == "phiv-fixes.jsonl"}
        for file, how in _places(files, per_scene, Random(f"{seed} undo {name}")):
            yield Trial("undo-damage", f"{name} {how} {file}", _undone(prepared, file, how))


def work_damage(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Damage in the work folders of killed conversions."""
    for name in (name for name in scenes if name in (*SCENES, "convert-zip")):
        prepared, random = bench.prepared(name), Random(f"{seed} work {name}")
        for at in choose(prepared.operations, random, per_scene, lambda operation: operation not in ("stat", "read")):
            how = random.choice(("empty", "half", "zeros", "gone", "flip"))
            yield Trial("work-damage", f"{name} {at} {how}", _damaged_work(prepared, at, how))


def _places(files: dict[str, str], count: int, random: Random) -> list[tuple[str, str]]:
    """Pairs of a file and a way of damage: every way on every sort of file (by suffix and folder) first."""
    sorts: dict[tuple[str, str], list[str]] = {}
    for name in (name for name in files if not name.endswith("/")):
        path = Path(name)
        sorts.setdefault((path.parts[0], path.suffix), []).append(name)
    pairs = [(random.choice(names), how) for names in sorts.values() for how in WAYS]
    random.shuffle(pairs)
    while len(pairs) < count:
        pairs.append((random.choice([name for name in files if not name.endswith("/")]), random.choice(list(WAYS))))
    return sorted(set(pairs[:count]))


def _flip(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def _zero_page(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    start = random.randrange(0, len(data), 4096)
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.write_bytes(data)


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _link_to_other(path: Path, random: Random) -> None:
    other = path.parent / f"{path.name}-other"
    other.write_bytes(path.read_bytes() + b"\n")
    moved = other.rename(_outside(path) / "other")
    _link(path, moved)


def _outside(path: Path) -> Path:
    """The scene's folder, above the converted one."""
    return next(parent for parent in path.parents if parent.name == "work")


def _folder(path: Path, random: Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, random: Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _swap(path: Path, random: Random) -> None:
    others = sorted(p for p in path.parent.glob(f"*{path.suffix}") if p != path and p.is_file())
    if others:
        a, b = path.read_bytes(), others[0].read_bytes()
        path.write_bytes(b)
        others[0].write_bytes(a)


def _same_link(path: Path, random: Random) -> None:
    same = _outside(path) / "same"
    path.rename(same)
    path.symlink_to(same)


WAYS: dict[str, Callable[[Path, Random], object]] = {
    "flip": _flip,
    "flip-again": _flip,
    "byte": lambda path, random: path.write_bytes(path.read_bytes() + b"\n"),
    "half": lambda path, random: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut-1": lambda path, random: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path, random: path.write_bytes(b""),
    "zeros": lambda path, random: path.write_bytes(bytes(path.stat().st_size)),
    "zero-page": _zero_page,
    "twice": lambda path, random: path.write_bytes(path.read_bytes() * 2),
    "gone": lambda path, random: path.unlink(),
    "renamed": lambda path, random: path.rename(path.with_name(f"{path.stem}-x{path.suffix}")),
    "upper": lambda path, random: path.rename(path.with_name(path.name.swapcase())),
    "added": lambda path, random: shutil.copyfile(path, path.with_name(f"added{path.suffix}")),
    "hidden": lambda path, random: shutil.copyfile(path, path.with_name(f".hidden{path.suffix}")),
    "unknown": lambda path, random: path.with_name("unknown.bin").write_bytes(b"?"),
    "link-to-other": _link_to_other,
    "link-to-same": _same_link,
    "link-to-nothing": lambda path, random: _link(path, Path("nothing")),
    "link-to-itself": lambda path, random: _link(path, Path(path.name)),
    "folder": _folder,
    "pipe": _pipe,
    "swapped": _swap,
}
"""What is done to a file."""


def _apply(root: Path, file: str, how: str) -> bool:
    """Damage the file; False where that changes nothing (zeros of zeros, one of one)."""
    before = tree(root)
    try:
        WAYS[how](root / file, Random(f"{file} {how}"))
    except ValueError:  # an empty file has no bit to flip
        return False
    return tree(root) != before or (root / file).is_symlink()


def _damaged(prepared: Prepared, file: str, how: str) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        assert run_forked(prepared.scene.argv, work).code == 0
        if not _apply(work / "o", file, how):
            return HELD
        done = run_forked(VALIDATE, work)
        expected = (0, 1) if how == "link-to-same" else (1,)  # a copy of the folder may be made of links
        if done.code not in expected or done.has_traceback:
            return f"validate: {done.short()} {_last(done.stdout)}"
        return _read_all(work, file)

    return run


def _last(stdout: bytes) -> str:
    return stdout.decode("utf-8", "replace").strip().rpartition("\n")[2][:120]


def _read_all(work: Path, file: str) -> str | None:
    """Read every split as training does, in a fork: a PhivError, or all samples. A damaged shard must raise."""
    is_shard = file.endswith(".arrow")
    for verify in ("size", "sha256"):
        child = os.fork()
        if not child:
            os._exit(_reader(work, verify))
        code, hung = wait_for(child)
        if hung or code not in (0, 1):
            return f"ConversationDataset, verify={verify}: {'hung' if hung else f'ended with {code}'}"
        if is_shard and verify == "sha256" and code == 0 and not (work / "o" / file).is_file():
            return "ConversationDataset, verify=sha256: read a shard that is not there"
        is_same = (work / "o" / file).is_file() and (work / "o" / file).is_symlink()
        if is_shard and verify == "sha256" and code == 0 and not is_same and not _is_beside(work, file):
            return "ConversationDataset, verify=sha256: no error for a damaged shard"
    return HELD


def _is_beside(work: Path, file: str) -> bool:
    """True where the shard is as it was: what was added is beside it."""
    manifest = json.loads((work / "o" / "manifest.json").read_bytes())
    shards = {shard["path"]: shard["sha256"] for split in manifest["splits"] for shard in split["shards"]}
    return tree(work / "o").get(file) == shards[file]


def _reader(work: Path, verify: str) -> int:
    """0 where all samples could be read, 1 for a PhivError, 2 for any other exception."""
    from phiv_data import ConversationDataset
    from phiv_data.storage.dataset import read_manifest
    from phiv_schemas import PhivError

    try:
        for split in read_manifest(work / "o").splits:
            dataset = ConversationDataset(work / "o", split.name, verify=verify)  # type: ignore[arg-type]
            for index in range(len(dataset)):
                dataset[index], dataset.conversation(index), dataset.sizes_of(index)
    except PhivError:
        return 1
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


def _undone(prepared: Prepared, file: str, how: str) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        if not _apply(work / "fixed", file, how):
            return HELD
        done = run_forked(prepared.scene.argv, work)
        if done.code == 0:
            is_harmless = prepared.is_complete(work) or how in ("added", "hidden", "unknown")
            return HELD if is_harmless else f"undone without a word: {prepared.ends_as_straight(work, done)}"
        if done.code not in (1, 2, 3) or len(done.lines) != 1:
            return f"{len(done.lines)} lines: {done.short()}"
        return prepared.half_published(work)

    return run


def _damaged_work(prepared: Prepared, at: int, how: str) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        run_forked(prepared.scene.argv, work, Fault(str(work), at, "kill"))
        root = work / "o" / ".phiv"
        files = sorted(path for path in root.rglob("*") if path.is_file())
        if how == "flip":  # of reports and lists no hash is kept
            files = [path for path in files if "stage" in path.parts and path.suffix in (".arrow", ".png", ".jpg")]
        if not files:
            return HELD
        file = Random(f"{at} {how}").choice(files).relative_to(root).as_posix()
        _apply(root, file, how)
        done = run_forked(prepared.scene.argv, work)
        problem = prepared.ends_as_straight(work, done)
        if problem and done.code in (1, 2, 3) and len(done.lines) == 1 and not done.has_traceback:
            return prepared.half_published(work)
        return f"{how} {file}: {problem}" if problem else HELD

    return run
