"""Faults at the n-th file operation of this process: killed there, a write torn, or an error of the system raised.

    Fault(root, at=17, action="kill")                  SIGKILL in place of the 17th operation below `root`
    Fault(root, at=17, action="tear")                  half of the 17th write is done, then SIGKILL
    Fault(root, at=17, action="ENOSPC", lasting=True)  no space from the 17th operation on
    Fault(root, at=17, action="SIGINT", again=3)       interrupted there, and once more three operations later
    Fault(root, at=17, action="vanish", moved="src")   the folder `src` is moved out of the root before the operation
    Fault(root, action="count")                        nothing; the operations are listed in `Fault.log`

`install(fault)` replaces `open`, `os.rename` and the like, and counts those below `root`. Operations in C (sqlite,
FFmpeg, Arrow's own files) are not seen: `processes.calls` has those. What is written and not yet flushed to the disk
(fsync, sync) is listed in `Fault.unflushed` when the process is killed: a power cut may lose it. Nothing is flushed for
real.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil  # before the functions of os are replaced: it compares them as it is imported
import signal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CHANGES = frozenset({"create", "write", "mkdir", "rename", "link", "truncate", "flush"})
READS = frozenset({"open", "read", "stat", "list"})
REMOVALS = frozenset({"unlink", "rmdir"})
NAMED = frozenset({"open", "create", "mkdir", "rename", "link", "unlink", "rmdir", "list"})

FAILS: dict[str, frozenset[str]] = {
    "ENOSPC": CHANGES,
    "EDQUOT": CHANGES,
    "EIO": CHANGES | READS | REMOVALS,
    "EACCES": NAMED,
    "EMFILE": frozenset({"open", "create", "list"}),
    "ENOMEM": frozenset({"open", "create", "read", "write", "list", "mkdir"}),
    "MemoryError": frozenset({"open", "create", "read", "list"}),
}
"""Which operations an error can hit."""


@dataclass(frozen=True)
class Fault:
    """What happens where. `log` and `unflushed` are files outside `root`; a fault `once` hits one process only."""

    root: str
    at: int = 0
    action: str = "count"
    lasting: bool = False
    again: int = 0
    moved: str = ""
    log: str = ""
    unflushed: str = ""
    once: str = ""


class Injector:
    """Counts the operations of this process, and strikes."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.count, self.operations = fault, 0, list[str]()
        self.dirty: dict[str, None] = {}  # in the order of the writes
        self.open, self.rename = io.open, os.rename

    def step(self, operation: str, path: object, directory: int | None = None) -> bool:
        """Count one operation; True for a write that is to be torn. Does not return where it is the one to fail."""
        if (name := self.below_root(path, directory)) is None:
            return False
        self.count += 1
        self.operations.append(f"{operation} {name}")
        fault = self.fault
        is_due = self.count == fault.at or (fault.lasting and 0 < fault.at < self.count)
        is_due = is_due or bool(fault.again and self.count == fault.at + fault.again)
        if not is_due or operation not in FAILS.get(fault.action, (operation,)) or not self._is_first():
            return False
        if fault.action == "tear" and operation == "write":
            return True
        self.strike(operation, name)
        return False

    def strike(self, operation: str, name: str) -> None:
        """Die, or raise."""
        if self.fault.action in ("kill", "tear"):
            self.report()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault.action in ("SIGINT", "SIGTERM"):
            signal.raise_signal(signal.Signals[self.fault.action])
        elif self.fault.action == "vanish":
            self.rename(f"{self.fault.root}/{self.fault.moved}", f"{self.fault.root}-{self.fault.moved}")
        elif self.fault.action == "MemoryError":
            raise MemoryError
        elif self.fault.action != "count":
            number = getattr(errno, self.fault.action)
            raise OSError(number, os.strerror(number), None if operation in ("read", "write", "flush") else name)

    def report(self) -> None:
        """Write down what was done."""
        for path, lines in ((self.fault.log, self.operations), (self.fault.unflushed, list(self.dirty))):
            if path:
                with self.open(path, "w") as file:
                    json.dump(lines, file)

    def below_root(self, path: object, directory: int | None = None) -> str | None:
        """The path relative to the root; None for one elsewhere."""
        if isinstance(path, int):
            path = _path_of(path)
        name = os.fsdecode(path)  # type: ignore[arg-type]
        if directory is not None:
            name = f"{_path_of(directory)}/{name}"
        name, root = os.path.abspath(name), self.fault.root  # noqa: PTH100  # asks nothing of the disk
        return name[len(root) + 1 :] if name.startswith(root + os.sep) else None

    def moved(self, old: object, new: object) -> None:
        """What was not flushed under the old name is not under the new one."""
        source, target = self.below_root(old), self.below_root(new)
        if source is not None and target is not None:
            names = {name: target + name[len(source) :] for name in self.dirty if f"{name}/".startswith(f"{source}/")}
            self.dirty = {names.get(name, name): None for name in self.dirty}

    def flushed(self, descriptor: int) -> None:
        self.dirty.pop(self.below_root(descriptor) or "", None)

    def wrote(self, path: object) -> None:
        if (name := self.below_root(path)) is not None:
            self.dirty[name] = None

    def _is_first(self) -> bool:
        if not self.fault.once:
            return True
        try:
            os.mkdir(self.fault.once)  # noqa: PTH102  # outside the root
        except FileExistsError:
            return False
        return True


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return ""


def install(fault: Fault) -> Injector:
    """Replace the file functions of this process."""
    injector = Injector(fault)
    opener = _opener(injector)
    builtins.open = io.open = tarfile.bltn_open = opener  # type: ignore[attr-defined,assignment]
    _replace_os_functions(injector)
    return injector


def _opener(injector: Injector) -> Callable[..., Any]:
    class File(io.FileIO):
        """A file whose reads and writes are counted."""

        def write(self, data: Any, /) -> int:
            torn = injector.step("write", self.name)
            if torn:
                view = memoryview(data).cast("B")
                super().write(view[: len(view) // 2])
                injector.wrote(self.name)
                injector.strike("write", str(self.name))
            written = super().write(data)
            injector.wrote(self.name)
            return written

        def readinto(self, buffer: Any, /) -> int:
            injector.step("read", self.name)
            return super().readinto(buffer) or 0

        def readall(self) -> bytes:
            injector.step("read", self.name)
            return super().readall()

        def truncate(self, size: int | None = None, /) -> int:
            injector.step("truncate", self.name)
            return super().truncate(size)

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if isinstance(file, int) or injector.below_root(file) is None:
            return injector.open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        injector.step("create" if set("wxa+") & set(mode) else "open", file)
        raw = File(os.fspath(file), mode.replace("b", "").replace("t", ""), closefd, opener)
        if "w" in mode or "x" in mode:
            injector.wrote(file)
        if buffering == 0:
            return raw
        kind: Any = io.BufferedReader
        if "+" in mode:
            kind = io.BufferedRandom
        elif set("wxa") & set(mode):
            kind = io.BufferedWriter
        buffered = kind(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

    return opened


def _replace_os_functions(injector: Injector) -> None:
    step = injector.step

    def counted(name: str, operation: str) -> None:
        real = getattr(os, name)

        def function(path: Any = ".", *args: Any, **options: Any) -> Any:
            step(operation, path, options.get("dir_fd"))
            return real(path, *args, **options)

        _replace(name, function)

    for name, operation in (
        *(("stat", "stat"), ("lstat", "stat"), ("listdir", "list"), ("scandir", "list")),
        *(("mkdir", "mkdir"), ("rmdir", "rmdir"), ("unlink", "unlink"), ("remove", "unlink"), ("truncate", "truncate")),
    ):
        counted(name, operation)

    real = {name: getattr(os, name) for name in ("rename", "replace", "link", "symlink")}
    for name in ("rename", "replace"):

        def rename(old: Any, new: Any, *args: Any, name: str = name, **options: Any) -> None:
            step("rename", new)
            real[name](old, new, *args, **options)
            injector.moved(old, new)

        _replace(name, rename)

    for name in ("link", "symlink"):

        def link(old: Any, new: Any, *args: Any, name: str = name, **options: Any) -> None:
            step("link", new)
            real[name](old, new, *args, **options)

        _replace(name, link)

    real_open, real_write, real_send = os.open, os.write, os.sendfile

    def open_descriptor(path: Any, flags: int, *args: Any, **options: Any) -> int:
        is_new = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        step("create" if is_new else "open", path, options.get("dir_fd"))
        return real_open(path, flags, *args, **options)

    def write(descriptor: int, data: Any) -> int:
        step("write", descriptor)
        written = real_write(descriptor, data)
        injector.wrote(descriptor)
        return written

    def sendfile(target: int, *args: Any, **options: Any) -> int:
        step("write", target)
        written = real_send(target, *args, **options)
        injector.wrote(target)
        return written

    def fsync(descriptor: int) -> None:
        step("flush", descriptor)
        injector.flushed(descriptor)

    for name, function in (
        *(("open", open_descriptor), ("write", write), ("sendfile", sendfile)),
        *(("fsync", fsync), ("fdatasync", fsync), ("sync", lambda: injector.dirty.clear())),
    ):
        _replace(name, function)


def _replace(name: str, function: Callable[..., Any]) -> None:
    real = getattr(os, name)
    for known in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
        if real in known:
            known.add(function)
    setattr(os, name, function)


assert shutil.rmtree.avoids_symlink_attacks, "removing a folder is counted as the system does it"
