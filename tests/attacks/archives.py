"""Hostile archives: paths out of the target, links, devices, bombs, sizes that lie, names that clash, damage.

Each is converted (`phiv-convert ucf101 --source`) and read as a source (`phiv-validate o --source`). One line or a
result; nothing written outside the output, nothing large left in it, no control character on the terminal.
"""

from __future__ import annotations

import gzip
import io
import os
import resource
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from attacks.running import Done, run_process
from attacks.scenes import write_clip
from attacks.terminal import control_characters
from attacks.trials import HELD, Bench, Trial, tree

GOOD = "UCF101_subset/train/Archery/v_Archery_g01_c01.avi"
MAX_LEFT = 64 << 20
MEMORY = 3 << 30
ABSOLUTE = (Path("/tmp/phiv-attack-evil"), Path("/etc/phiv-attack-evil"))
Member = tuple[str, bytes, dict[str, object]]


def archives(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Every archive of the list; cuts and flipped bits at random places beside them."""
    builders: dict[str, Callable[[Path, bytes], None]] = {**TARS, **ZIPS}
    random = Random(f"{seed} archives")
    for name in builders:
        yield Trial("archives", name, _converted(builders[name]))
    for number in range(per_scene):
        kind, how = random.choice(("tar", "tar.gz", "tar.xz", "zip")), random.choice(("cut", "flip", "zeros"))
        yield Trial("archives", f"{how}-{number}-{kind}", _converted(_harmed(kind, how, f"{seed} {number}")))


def _converted(build: Callable[[Path, bytes], None]) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        write_clip(folder / "clip.avi", 1)
        clip = (folder / "clip.avi").read_bytes()
        work = folder / "home" / "work"
        work.mkdir(parents=True)
        build(work / "src.tar", clip)
        before = _all_but_outputs(folder)
        argv = ["phiv-convert", "ucf101", "--source", "src.tar", "--num_frames", "2", "--out_dir", "o"]
        done = run_process([*argv, "--num_workers", "0"], work, before=_limit_memory)
        problem = _judge(done) or _outside(before, _all_but_outputs(folder)) or _left(work / "o")
        if problem or not (work / "o" / "manifest.json").is_file():
            return problem
        argv = ["phiv-validate", "o", "--source", "src.tar", "--num_workers", "0"]
        done = run_process(argv, work, before=_limit_memory)
        return _judge(done, "validate --source") or _outside(before, _all_but_outputs(folder))

    return run


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _judge(done: Done, what: str = "convert") -> str | None:
    if done.hung or done.code not in (0, 1, 2, 3) or done.has_traceback:
        return f"{what}: {done.short()}"
    if done.code > 1 and len(done.lines) != 1:
        return f"{what}: {len(done.lines)} lines: {done.short()}"
    return control_characters(done.stdout + done.stderr)


def _all_but_outputs(folder: Path) -> dict[str, str]:
    return {name: sha for name, sha in tree(folder).items() if not name.startswith(("home/work/o", "home/std", "std"))}


def _outside(before: dict[str, str], after: dict[str, str]) -> str | None:
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    changed |= {str(path) for path in ABSOLUTE if path.exists()}
    return f"written outside: {', '.join(sorted(changed))[:200]}" if changed else HELD


def _left(out: Path) -> str | None:
    size = sum(path.lstat().st_blocks * 512 for path in out.rglob("*")) if out.exists() else 0
    return f"{size >> 20} MiB left in the output" if size > MAX_LEFT else HELD


def _tar(*members: Member, mode: str = "w", **options: object) -> Callable[[Path, bytes], None]:
    """A tar of the good clip and the members: name, contents, fields of the header."""

    def build(path: Path, clip: bytes) -> None:
        with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
            for name, data, fields in ((GOOD, clip, {}), *members):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                for key, value in fields.items():
                    setattr(info, key, value)
                archive.addfile(info, io.BytesIO(data))

    return build


def _link(name: str, target: str, *, hard: bool = False) -> Member:
    return name, b"", {"type": tarfile.LNKTYPE if hard else tarfile.SYMTYPE, "linkname": target}


def _raw_header(path: Path, clip: bytes, change: Callable[[bytearray], None], data: bytes = b"") -> None:
    """A tar whose second header is changed after it was written; its checksum is made right again."""
    _tar()(path, clip)
    info = tarfile.TarInfo("UCF101_subset/train/Archery/evil.avi")
    info.size = len(data)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    change(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    body = path.read_bytes()
    end = 512 + (len(clip) + 511) // 512 * 512
    path.write_bytes(body[:end] + bytes(header) + data + bytes(-len(data) % 512) + bytes(10240))


def _with_size(field: bytes) -> Callable[[Path, bytes], None]:
    def change(header: bytearray) -> None:
        header[124:136] = field

    return lambda path, clip: _raw_header(path, clip, change)


def _with_type(kind: bytes, data: bytes, size: bytes | None = None) -> Callable[[Path, bytes], None]:
    def change(header: bytearray) -> None:
        header[156:157] = kind
        header[124:136] = size or b"%011o\0" % len(data)

    return lambda path, clip: _raw_header(path, clip, change, data)


def _pax(records: bytes) -> Callable[[Path, bytes], None]:
    """A pax header of these records before a member."""

    def build(path: Path, clip: bytes) -> None:
        _with_type(b"x", records)(path, clip)
        data = path.read_bytes().rstrip(b"\0")
        data += bytes(-len(data) % 512)
        member = tarfile.TarInfo("UCF101_subset/train/Archery/v_Archery_g02_c01.avi")
        member.size = len(clip)
        path.write_bytes(data + member.tobuf(tarfile.USTAR_FORMAT) + clip + bytes(-len(clip) % 512) + bytes(10240))

    return build


def _pax_record(key: str, value: str | bytes) -> bytes:
    tail = b" " + key.encode() + b"=" + (value if isinstance(value, bytes) else value.encode()) + b"\n"
    size = len(tail) + 1
    while size != len(tail) + len(str(size)):
        size = len(tail) + len(str(size))
    return str(size).encode() + tail


def _gzip_bomb(path: Path, clip: bytes) -> None:
    info = tarfile.TarInfo(GOOD)
    info.size = 1 << 30
    with gzip.open(path, "wb", 9) as file:
        file.write(info.tobuf())
        for _ in range(1024):
            file.write(bytes(1 << 20))
        file.write(bytes(10240))


def _many_members(path: Path, clip: bytes) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for number in range(20_000):
            archive.addfile(tarfile.TarInfo(f"UCF101_subset/train/Archery/{number}.avi"))


EVIL = "UCF101_subset/train/Archery/evil.avi"
TARS: dict[str, Callable[[Path, bytes], None]] = {
    "tar-dotdot": _tar(("../evil", b"x", {})),
    "tar-dotdot-inside": _tar(("UCF101_subset/../../evil", b"x", {})),
    "tar-absolute": _tar(("/tmp/phiv-attack-evil", b"x", {})),
    "tar-backslash": _tar(("..\\evil", b"x", {})),
    "tar-drive": _tar(("C:/evil", b"x", {})),
    "tar-link-out": _tar(_link("a", ".."), ("a/evil", b"x", {})),
    "tar-link-absolute": _tar(_link("a", "/etc"), ("a/phiv-attack-evil", b"x", {})),
    "tar-link-to-passwd": _tar(_link(EVIL, "/etc/passwd")),
    "tar-link-chain": _tar(_link("b", "."), _link("b/c", ".."), ("b/c/evil", b"x", {})),
    "tar-link-circle": _tar(_link("a", "b"), _link("b", "a")),
    "tar-link-to-nothing": _tar(_link(EVIL, "nothing")),
    "tar-link-inside": _tar(_link(EVIL, "v_Archery_g01_c01.avi")),
    "tar-link-over-file": _tar(_link(GOOD, "..")),
    "tar-file-over-link": _tar(_link("a", ".."), ("a", b"x", {})),
    "tar-hard-out": _tar(_link(EVIL, "../../evil", hard=True)),
    "tar-hard-absolute": _tar(_link(EVIL, "/etc/passwd", hard=True)),
    "tar-hard-later": _tar(_link(EVIL, "later", hard=True), ("later", b"x", {})),
    "tar-hard-to-itself": _tar(_link(EVIL, EVIL, hard=True)),
    "tar-hard-to-folder": _tar(_link(EVIL, "UCF101_subset", hard=True)),
    "tar-hard-many": _tar(*(_link(f"UCF101_subset/train/Archery/{n}.avi", GOOD, hard=True) for n in range(500))),
    "tar-character-device": _tar((EVIL, b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})),
    "tar-block-device": _tar((EVIL, b"", {"type": tarfile.BLKTYPE})),
    "tar-pipe": _tar((EVIL, b"", {"type": tarfile.FIFOTYPE})),
    "tar-unknown-type": _tar((EVIL, b"x", {"type": b"Z"})),
    "tar-twice": _tar((GOOD, b"other", {})),
    "tar-case": _tar((GOOD.upper(), b"x", {})),
    "tar-file-below-file": _tar((f"{GOOD}/evil", b"x", {})),
    "tar-folder-over-file": _tar((GOOD, b"", {"type": tarfile.DIRTYPE})),
    "tar-file-over-folder": _tar(("UCF101_subset", b"x", {})),
    "tar-long-name": _tar((f"UCF101_subset/train/Archery/{'n' * 300}.avi", b"x", {}), format=tarfile.GNU_FORMAT),
    "tar-long-path": _tar((f"UCF101_subset/train/{'d/' * 3000}x.avi", b"x", {}), format=tarfile.GNU_FORMAT),
    "tar-empty-name": _tar(("", b"x", {})),
    "tar-dot": _tar((".", b"x", {})),
    "tar-escape": _tar(("UCF101_subset/train/Archery/\x1b[31mred\nphiv-convert: FORGED.avi", b"x", {})),
    "tar-escape-refused": _tar(("../\x1b[31mred\nphiv-convert: FORGED", b"x", {})),
    "tar-not-utf8": _tar((os.fsdecode(b"UCF101_subset/train/Archery/\xff\xfe.avi"), b"x", {})),
    "tar-sticky-modes": _tar((EVIL, b"x", {"mode": 0o6777, "uid": 0})),
    "tar-size-8-gib": _with_size(b"\x80" + (8 << 30).to_bytes(11, "big")),
    "tar-size-huge": _with_size(b"\x80" + b"\xff" * 11),
    "tar-size-negative": _with_size(b"\xff" * 12),
    "tar-size-no-number": _with_size(b"9z!!!!!!!!!\0"),
    "tar-gnu-long-name-8-gib": _with_type(b"L", b"n" * 512, b"\x80" + (8 << 30).to_bytes(11, "big")),
    "tar-gnu-long-name-endless": _with_type(b"L", b"n" * 100_000),
    "tar-gnu-long-name-dotdot": _with_type(b"L", b"../evil\0"),
    "tar-gnu-long-link": _with_type(b"K", b"/etc/passwd\0"),
    "tar-pax-size-8-gib": _pax(_pax_record("size", str(8 << 30))),
    "tar-pax-size-negative": _pax(_pax_record("size", "-1")),
    "tar-pax-size-no-number": _pax(_pax_record("size", "many")),
    "tar-pax-header-8-gib": _with_type(b"x", b"30 path=x\n", b"\x80" + (8 << 30).to_bytes(11, "big")),
    "tar-pax-header-4-gib-octal": _with_type(b"x", b"30 path=x\n", b"40000000000\0"),
    "tar-pax-path-dotdot": _pax(_pax_record("path", "../../evil")),
    "tar-pax-path-nul": _pax(_pax_record("path", b"UCF101_subset/train/Archery/a\0b.avi")),
    "tar-pax-path-not-utf8": _pax(_pax_record("path", b"UCF101_subset/train/Archery/\xff.avi")),
    "tar-pax-length-lies": _pax(b"9999999999 path=x\n"),
    "tar-pax-length-zero": _pax(b"0 path=x\n"),
    "tar-pax-no-number": _pax(b"x path=x\n"),
    "tar-pax-sparse": _pax(
        _pax_record("GNU.sparse.major", "1") + _pax_record("GNU.sparse.minor", "0")
        + _pax_record("GNU.sparse.realsize", str(1 << 40))
    ),
    "tar-pax-sparse-map": _pax(
        _pax_record("GNU.sparse.map", "0,1,1099511627776,1") + _pax_record("GNU.sparse.size", "9")
    ),
    "tar-old-sparse": _with_type(b"S", b"x" * 512),
    "tar-volume-header": _with_type(b"V", b""),
    "tar-bomb": _gzip_bomb,
    "tar-many-members": _many_members,
    "tar-no-end": lambda path, clip: (_tar()(path, clip), path.write_bytes(path.read_bytes().rstrip(b"\0")))[0],
    "tar-empty": lambda path, clip: path.write_bytes(bytes(10240)),
    "tar-nothing": lambda path, clip: path.write_bytes(b""),
    "tar-garbage-behind": lambda path, clip: (_tar()(path, clip), path.write_bytes(path.read_bytes() + b"?" * 999))[0],
    "tar-two-in-one": lambda path, clip: (_tar()(path, clip), path.write_bytes(path.read_bytes() * 2))[0],
    "gzip-of-text": lambda path, clip: path.write_bytes(gzip.compress(b"hello" * 1000)),
    "gzip-two-members": lambda path, clip: (
        _tar()(path, clip), path.write_bytes(gzip.compress(path.read_bytes()) + gzip.compress(b"x"))
    )[0],
}  # fmt: skip


def _zip(
    *members: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None
) -> Callable[[Path, bytes], None]:
    """A zip of the good clip and the members, whose entries are changed before they are written."""

    def build(path: Path, clip: bytes) -> None:
        import warnings

        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore")
            archive.writestr(GOOD, clip)
            for name, data in members:
                info = zipfile.ZipInfo("x")
                info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
                change(info)
                archive.writestr(info, data)

    return build


def _with_mode(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = mode << 16

    return change


def _edited(build: Callable[[Path, bytes], None], old: bytes, new: bytes) -> Callable[[Path, bytes], None]:
    def edit(path: Path, clip: bytes) -> None:
        build(path, clip)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return edit


def _central(offset: int, value: bytes) -> Callable[[Path, bytes], None]:
    """A zip in whose last central entry the bytes at `offset` are others."""

    def build(path: Path, clip: bytes) -> None:
        _zip((EVIL, b"x" * 1000))(path, clip)
        data = bytearray(path.read_bytes())
        start = data.rindex(b"PK\x01\x02") + offset
        data[start : start + len(value)] = value
        path.write_bytes(data)

    return build


def _overlapping(path: Path, clip: bytes) -> None:
    """A bomb whose entries share one compressed block: 300 MiB of one of 1 MiB."""
    block = bytes(1 << 20)
    _zip((EVIL, block))(path, clip)
    data = path.read_bytes()
    start, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry = data[start:end]
    first = data[data.index(b"PK\x01\x02") : start]
    name = EVIL.encode()
    entries = b"".join(entry.replace(name, name[:-8] + b"%04d.avi" % number) for number in range(300))
    tail = bytearray(data[end:])
    tail[8:12] = (301).to_bytes(2, "little") * 2
    tail[12:16] = (len(first) + len(entries)).to_bytes(4, "little")
    path.write_bytes(data[: data.index(b"PK\x01\x02")] + first + entries + tail)


ZIPS: dict[str, Callable[[Path, bytes], None]] = {
    "zip-dotdot": _zip(("../evil", b"x")),
    "zip-absolute": _zip(("/tmp/phiv-attack-evil", b"x")),
    "zip-backslash": _zip(("..\\evil", b"x")),
    "zip-backslash-inside": _zip(("UCF101_subset\\train\\Archery\\v_Archery_g02_c01.avi", b"x")),
    "zip-drive": _zip(("C:/evil", b"x")),
    "zip-nul": _edited(_zip((EVIL.replace("evil", "e%il"), b"x")), b"e%il", b"e\0il"),
    "zip-link": _zip((EVIL, b"/etc/passwd"), change=_with_mode(0o120777)),
    "zip-device": _zip((EVIL, b""), change=_with_mode(0o020666)),
    "zip-pipe": _zip((EVIL, b""), change=_with_mode(0o010666)),
    "zip-twice": _zip((GOOD, b"other")),
    "zip-case": _zip((GOOD.upper(), b"x")),
    "zip-file-below-file": _zip((f"{GOOD}/evil", b"x")),
    "zip-folder-over-file": _zip((f"{GOOD}/", b"")),
    "zip-folder-with-bytes": _zip(("UCF101_subset/x/", b"bytes")),
    "zip-file-over-folder": _zip(("UCF101_subset", b"x")),
    "zip-empty-name": _zip(("", b"x")),
    "zip-long-name": _zip((f"UCF101_subset/train/Archery/{'n' * 300}.avi", b"x")),
    "zip-long-path": _zip((f"UCF101_subset/train/{'d/' * 3000}x.avi", b"x")),
    "zip-escape": _zip(("UCF101_subset/train/Archery/\x1b[31mred\nphiv-convert: FORGED.avi", b"x")),
    "zip-escape-refused": _zip(("../\x1b[31mred\nphiv-convert: FORGED", b"x")),
    "zip-bidi-refused": _zip(("../\u202ered", b"x")),
    "zip-size-too-small": _central(24, (1).to_bytes(4, "little")),
    "zip-size-4-gib": _central(24, b"\xfe\xff\xff\xff"),
    "zip-packed-size-4-gib": _central(20, b"\xfe\xff\xff\xff"),
    "zip-zip64-without-extra": _central(24, b"\xff\xff\xff\xff"),
    "zip-checksum": _central(16, b"\0\0\0\0"),
    "zip-method": _central(10, b"\x63\0"),
    "zip-encrypted-flag": _central(8, b"\x01\0"),
    "zip-strong-encryption": _central(8, b"\x41\0"),
    "zip-offset": _central(42, b"\xff\xff\xff\x7f"),
    "zip-name-length": _central(28, b"\xff\xff"),
    "zip-other-name-inside": _central(46, b"XCF101"),
    "zip-disk-number": _central(34, b"\x09\0"),
    "zip-bomb": _zip((EVIL, bytes(300 << 20))),
    "zip-overlapping": _overlapping,
    "zip-in-front": lambda path, clip: (_zip()(path, clip), path.write_bytes(b"#!/bin/sh\n" + path.read_bytes()))[0],
    "zip-cut": lambda path, clip: (_zip()(path, clip), path.write_bytes(path.read_bytes()[:-30]))[0],
    "zip-empty": lambda path, clip: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    "zip-comment": lambda path, clip: (
        _zip()(path, clip), path.write_bytes(path.read_bytes()[:-2] + b"\x09\0\x1b[31m\nred")
    )[0],
}  # fmt: skip


def _harmed(kind: str, how: str, seed: str) -> Callable[[Path, bytes], None]:
    """A good archive, cut or with other bytes at a random place."""

    def build(path: Path, clip: bytes) -> None:
        random = Random(seed)
        good = _zip() if kind == "zip" else _tar(mode="w:" + kind.partition(".")[2])
        good(path, clip)
        data = bytearray(path.read_bytes())
        at = random.randrange(len(data))
        if how == "cut":
            del data[at:]
        elif how == "flip":
            data[at] ^= 1 << random.randrange(8)
        else:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        path.write_bytes(data)

    return build
