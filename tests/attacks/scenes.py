"""The commands that are attacked, each with its input: made once, copied for every trial.

A scene's command reads `src` (or `o`, a converted folder) and writes `outputs`; all paths are relative to its folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attacks.running import run_forked

JSONL = ("phiv-convert", "jsonl", "--source", "src", "--out_dir", "o", "--num_workers", "0")
UCF101 = ("phiv-convert", "ucf101", "--source", "src", "--num_frames", "2", "--out_dir", "o", "--num_workers", "0")
EXPORTS = ("cauldron", "hub", "llava", "sharegpt", "swift", "trl", "webdataset")


@dataclass(frozen=True)
class Scene:
    """A command, how to make its input, and what it writes. `by_file`: each file of the output is whole by itself."""

    name: str
    argv: tuple[str, ...]
    prepare: Callable[[Path], None]
    outputs: tuple[str, ...] = ("o",)
    by_file: bool = False

    @property
    def makes_new_folder(self) -> bool:
        """True where a second call refuses a finished output."""
        return "--fix" in self.argv or "--undo" in self.argv


def write_rows(folder: Path, *, color: int = 0) -> None:
    """Six rows in three splits, one without images, one with two."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    for number in range(6):
        image = Image.new("RGB", (24, 16), (number * 37 % 256, color, 90))
        image.save(folder / "images" / f"{number}.png")
    shown = {"train": [["0.png"], ["1.png", "2.png"], []], "val": [["3.png"]], "test": [["4.png"], ["5.png"]]}
    for split, rows in shown.items():
        lines = []
        for k, images in enumerate(rows):
            turn = {"images": images, "user": f"{split} {k}: which?", "assistant": f"a{k}"}
            lines.append(json.dumps({"id": f"{split}-{k}", "source": "own", "conversations": [turn]}))
        (folder / f"own_{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_fixable_rows(folder: Path) -> None:
    """Rows that --fix changes: a suffix, a letter and its accent as two characters, keys that are missing."""
    write_rows(folder)
    (folder / "images" / "0.png").rename(folder / "images" / "0.jpg")
    turns = [
        {"images": ["0.jpg"], "user": "cafe\u0301?", "assistant": "yes"},
        {"images": ["1.png", "2.png"], "user": "both?", "assistant": "cafe\u0301"},
        {"images": [], "user": "none", "assistant": "no"},
    ]
    lines = [json.dumps({"id": f"r{k}", "source": "own", "conversations": [turn]}) for k, turn in enumerate(turns)]
    (folder / "own_train.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_clip(path: Path, seed: int, num_frames: int = 4) -> None:
    """A clip of 64x64 pixels."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for k in range(num_frames):
            pixels = np.full((64, 64, 3), (seed * 40 + k * 20) % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_clips(folder: Path) -> None:
    """Two classes in three splits."""
    for number, (split, name) in enumerate((s, c) for s in ("train", "val", "test") for c in ("Archery", "Fencing")):
        write_clip(folder / "UCF101_subset" / split / name / f"v_{name}_g0{number + 1}_c01.avi", number)


def _converted(work: Path, write: Callable[[Path], None] = write_rows) -> None:
    write(work / "src")
    must(work, JSONL)


def must(work: Path, argv: tuple[str, ...]) -> None:
    """Run a command that is not attacked."""
    done = run_forked(argv, work)
    assert done.code in (0, 1), f"{' '.join(argv)}: {done.short()}"
    assert not done.has_traceback, done.short()


def _zipped_clips(work: Path) -> None:
    write_clips(work / "all")
    shutil.make_archive(str(work / "src"), "zip", work / "all")
    shutil.rmtree(work / "all")
    (work / "src.zip").rename(work / "src")


def _of_older_rows(work: Path) -> None:
    """A finished output of other rows, to be replaced."""
    _converted(work, lambda folder: write_rows(folder, color=200))
    shutil.rmtree(work / "src")
    write_rows(work / "src")


def _chat_rows(work: Path) -> None:
    _converted(work)
    must(work, ("phiv-export", "llava", "o", "src2"))
    shutil.rmtree(work / "src")
    (work / "src2").rename(work / "src")
    shutil.rmtree(work / "o")


def _cauldron_tables(work: Path) -> None:
    """Parquet tables, which Arrow reads."""
    _converted(work)
    must(work, ("phiv-export", "cauldron", "o", "exported"))
    shutil.rmtree(work / "src")
    (work / "exported").rename(work / "src")
    shutil.rmtree(work / "o")


def _exported_before(work: Path) -> None:
    _of_older_rows(work)
    must(work, ("phiv-export", "hub", "o", "e"))
    must(work, (*JSONL, "--overwrite"))


def _fixed(work: Path, write: Callable[[Path], None]) -> None:
    write(work)
    must(work, ("phiv-validate", "o", "--fix", "fixed", "--num_workers", "0"))


def _plain_fixable(work: Path) -> None:
    write_fixable_rows(work / "o")


def _converted_fixable(work: Path) -> None:
    _converted(work, write_fixable_rows)


def _scenes() -> dict[str, Scene]:
    llava = ("phiv-convert", "llava", "--source", "src", "--out_dir", "o", "--num_workers", "0")
    fix, undo = ("phiv-validate", "o", "--fix", "f", "--num_workers", "0"), ("phiv-validate", "fixed", "--undo", "u")
    report = ("phiv-validate", "o", "--num_workers", "0")
    scenes = [
        Scene("convert-jsonl", JSONL, lambda work: write_rows(work / "src")),
        Scene("convert-overwrite", (*JSONL, "--overwrite"), _of_older_rows),
        Scene("convert-ucf101", UCF101, lambda work: write_clips(work / "src")),
        Scene("convert-zip", UCF101, _zipped_clips),
        Scene("convert-llava", llava, _chat_rows),
        Scene("convert-cauldron", ("phiv-convert", "cauldron", *llava[2:]), _cauldron_tables),
        *(Scene(f"export-{name}", ("phiv-export", name, "o", "e"), _converted, ("e",)) for name in EXPORTS),
        Scene("export-overwrite", ("phiv-export", "hub", "o", "e", "--overwrite"), _exported_before, ("e",)),
        Scene("fix", fix, _converted_fixable, ("f",)),
        Scene("fix-plain", fix, _plain_fixable, ("f",)),
        Scene("undo", undo, lambda work: _fixed(work, _converted_fixable), ("u",)),
        Scene("undo-plain", undo, lambda work: _fixed(work, _plain_fixable), ("u",)),
        Scene("validate", report, _converted, ()),
        Scene("validate-report", (*report, "--report_dir", "r"), _converted, ("r",), by_file=True),
        Scene("validate-output", (*report, "--format", "json", "--output", "r.json"), _converted, ("r.json",)),
        Scene("validate-source", (*report, "--source", "src"), _converted, ()),
        Scene("validate-plain", ("phiv-validate", "src", "--num_workers", "0"), lambda w: write_rows(w / "src"), ()),
        Scene("validate-llava", ("phiv-validate", "src", "--num_workers", "0"), _chat_rows, ()),
    ]
    return {scene.name: scene for scene in scenes}


SCENES = _scenes()
