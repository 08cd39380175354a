"""Names and texts that a terminal obeys or that forge a line of phiv, in every place where data can hold them.

No control character but the line feed, no mark that turns the direction of writing and no line break of Unicode may
reach stdout or stderr, no line that a name or text begins, and no traceback.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from attacks.running import PROGRAMS, Done, run_forked, run_process
from attacks.scenes import JSONL, UCF101, write_clip, write_clips, write_rows
from attacks.trials import HELD, Bench, Trial

FORGED = "phiv-validate: all is well"
PAYLOADS = {
    "escape": "x\x1b[31mred",
    "line": f"x\n{FORGED}",
    "return": f"x\r{FORGED}",
    "link": "x\x1b]8;;http://x\x07y\x1b]8;;\x07",
    "bidi": "x\u202egpj.\u2066y\u200f",
    "c1": "x\x9b31mred\x85y",
    "delete": "x\x7f\x08\x08y",
    "separator": f"x\u2028{FORGED}\u2029y",
    "form-feed": f"x\x0b{FORGED}\x0cy\x1cz",
    "tab": "x\ty",
    "long": "x" * 200,
    "workflow": "x\n::error::forged",
    "mark-up": "<b onload=x>&]]>",
    "not-utf8": os.fsdecode(b"x\xff\xfe"),
}
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FORMATS = ("text", "json", "junit", "sarif", "html", "github")
Commands = list[tuple[str, ...]]


def control_characters(output: bytes, *, is_page: bool = False) -> str | None:
    """What a terminal would obey in this output, or None. In a page (HTML) a text may have lines."""
    text = output.decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        for character in line:
            is_control = unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") or character in BIDI
            if is_control and character != "\t":
                return f"raw {character!a} in line {number} of the output: {line[:200]!a}"
        if line.startswith((FORGED, "::error::forged")) and not is_page:
            return f"forged line {number}: {line[:100]!a}"
    return HELD


def terminal(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Every payload in every place."""
    for place, payload in ((place, payload) for place in PLACES for payload in PAYLOADS):
        yield Trial("terminal", f"{place} {payload}", _shown(PLACES[place], PAYLOADS[payload]))


def _shown(place: Callable[[Path, str], Commands], payload: str) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = folder / "work"
        work.mkdir()
        try:
            commands = place(work, payload)
        except (OSError, ValueError, UnicodeError):  # no file can have this name, no text hold it
            return HELD
        for argv in commands:
            done = run_forked(argv, work) if argv[0] in PROGRAMS else run_process(argv, work)
            if problem := _judge(argv, done):
                return f"{' '.join(argv)[:120]!a}: {problem}"
        return HELD

    return run


def _judge(argv: tuple[str, ...], done: Done) -> str | None:
    if done.hung or done.code not in (0, 1, 2, 3) or done.has_traceback:
        return done.short()
    return control_characters(done.stdout + done.stderr, is_page="html" in argv)


def _convert(name: str, *flags: str) -> tuple[str, ...]:
    return ("phiv-convert", name, "--source", "src", "--out_dir", "o", "--num_workers", "0", *flags)


def _validations(*paths: str) -> Commands:
    return [("phiv-validate", path, "--num_workers", "0", "--format", form) for path in paths for form in FORMATS]


EXPORTS: Commands = [("phiv-export", name, "o", f"e-{name}") for name in ("llava", "hub", "webdataset", "cauldron")]
FIX: Commands = [("phiv-validate", "src", "--fix", "f", "--num_workers", "0"), ("phiv-validate", "f", "--undo", "u")]


def _row(**changes: object) -> dict[str, object]:
    turn = {"images": ["0.png"], "user": "which?", "assistant": "a"}
    turn |= {key: changes.pop(key) for key in list(changes) if key in turn}
    return {"id": "r0", "source": "own", "conversations": [turn], **changes}


def _rows(work: Path, *rows: object, name: str = "own_train.jsonl") -> None:
    if not (work / "src").exists():
        write_rows(work / "src")
        for path in (work / "src").glob("*.jsonl"):
            path.unlink()
    lines = [json.dumps(row) for row in rows]
    (work / "src" / name).write_text("".join(f"{line}\n" for line in lines))


def in_field(field: str) -> Callable[[Path, str], Commands]:
    """The payload as the text of a field, in a good row, in one that repeats its id, and in one with a wrong type."""

    def place(work: Path, payload: str) -> Commands:
        value: object = [payload] if field == "images" else payload
        rows = [_row(**{field: value}), _row(**{field: value}), _row(**{field: {payload: payload}})]
        rows.append(_row(id="r2", **({field: value} if field != "id" else {})) | {payload: payload})
        _rows(work, *rows)
        return [_convert("jsonl"), *_validations("src", "src/own_train.jsonl", "o"), *EXPORTS, *FIX]

    return place


def in_split_name(work: Path, payload: str) -> Commands:
    """Files of rows with the payload in their names; the same rows in two splits."""
    _rows(work, _row(), name=f"{payload}_train.jsonl")
    _rows(work, _row(), _row(id="r1"), {"bad": 1}, name=f"{payload}_val.jsonl")
    return [_convert("jsonl"), *_validations("src", "o"), *EXPORTS[:2], *FIX]


def in_split_flag(work: Path, payload: str) -> Commands:
    """Values of flags."""
    _rows(work, _row())
    source = "src/own_train.jsonl"
    return [
        ("phiv-convert", "jsonl", "--source", source, "--split", payload, "--out_dir", "o", "--num_workers", "0"),
        ("phiv-convert", "jsonl", "--source", source, "--name", payload, "--out_dir", "p", "--num_workers", "0"),
        ("phiv-convert", "jsonl", "--source", payload, "--out_dir", "q", "--num_workers", "0"),
        ("phiv-convert", "jsonl", "--source", source, "--images", payload, "--out_dir", "s", "--num_workers", "0"),
        *_validations(payload),
        ("phiv-validate", source, "--images_root", payload),
        ("phiv-validate", source, "--ignore", payload),
        ("phiv-validate", source, "--family", payload),
        ("phiv-validate", source, "--fix", f"{payload}/f"),
        ("phiv-export", "hub", payload, "e"),
        ("phiv-export", "hub", "o", "e", "--split", payload),
    ]


def in_output_name(work: Path, payload: str) -> Commands:
    """The payload in the names of the folders that are written and read."""
    _rows(work, _row(), {"bad": 1})
    (work / payload).mkdir()
    argv = ("phiv-convert", "jsonl", "--source", "src", "--out_dir", f"{payload}/o", "--num_workers", "0")
    exports: Commands = [("phiv-export", "hub", f"{payload}/o", f"{payload}/e")] * 2
    fixes: Commands = [
        ("phiv-validate", "src", "--fix", f"{payload}/f"),
        ("phiv-validate", f"{payload}/f", "--undo", "u"),
    ]
    return [argv, argv, *_validations(f"{payload}/o"), *exports, *fixes]


def in_image_name(work: Path, payload: str) -> Commands:
    """Images whose names have the payload: good, damaged, not named by any row, in a folder of that name."""
    _rows(work, _row(images=[f"{payload}.png"]), _row(id="r1", images=[f"{payload}/1.png"]))
    images = work / "src" / "images"
    shutil.copyfile(images / "0.png", images / f"{payload}.png")
    (images / payload).mkdir()
    (images / payload / "1.png").write_bytes((images / "1.png").read_bytes()[:50])
    shutil.copyfile(images / "0.png", images / f"{payload}.jpg")
    shutil.copytree(work / "src", work / "src2")
    return [_convert("jsonl"), *_validations("src", "o"), *EXPORTS, *FIX]


def in_clip_name(work: Path, payload: str) -> Commands:
    """Clips and classes with the payload in their names: whole, damaged, identical."""
    write_clips(work / "src")
    home = work / "src" / "UCF101_subset" / "train"
    write_clip(home / payload / f"v_{payload}_g01_c01.avi", 1)
    shutil.copyfile(home / payload / f"v_{payload}_g01_c01.avi", home / "Archery" / f"v_{payload}_g02_c01.avi")
    (home / "Archery" / f"{payload}_g03_c01.avi").write_bytes(b"no clip")
    argv = (*UCF101[:4], "--num_frames", "2", *UCF101[-4:])
    return [argv, *_validations("o"), ("phiv-validate", "o", "--source", "src", "--num_workers", "0"), *EXPORTS]


def in_manifest(work: Path, payload: str) -> Commands:
    """A converted folder whose manifest, hashes and rejects were edited."""
    _rows(work, _row())
    assert run_forked(JSONL, work).code == 0
    manifest = json.loads((work / "o" / "manifest.json").read_text())
    manifest["source"] = manifest["name"] = payload
    manifest["options"] |= {payload: payload}
    manifest["splits"][0] |= {"name": payload}
    (work / "o" / "manifest.json").write_text(json.dumps(manifest))
    (work / "o" / "rejects.jsonl").write_text(json.dumps({"input": payload, "code": payload, payload: payload}) + "\n")
    with (work / "o" / "images.sha256").open("a", errors="surrogateescape") as file:
        file.write(f"{'0' * 64}  images/{payload}.png\n{payload}\n")
    return [*_validations("o"), *EXPORTS, JSONL, (*JSONL, "--overwrite")]


def in_shard(work: Path, payload: str) -> Commands:
    """A shard whose rows and metadata were edited."""
    import pyarrow as pa

    _rows(work, _row(), _row(id="r1"))
    assert run_forked(JSONL, work).code == 0
    (path,) = (work / "o" / "arrow" / "train").glob("*.arrow")
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    ids = pa.array([payload] * len(table))
    table = table.set_column(table.schema.get_field_index("id"), "id", ids)
    table = table.append_column(payload, ids).replace_schema_metadata({payload: payload})
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    (path.parent / f"{payload}.arrow").write_bytes(b"?")
    return [*_validations("o", "o/arrow/train", str(path.relative_to(work))), *EXPORTS[:2]]


def in_chat_rows(tool: str) -> Callable[[Path, str], Commands]:
    """Rows of another tool with the payload in every text and key."""

    def place(work: Path, payload: str) -> Commands:
        write_rows(work / "src")
        for path in (work / "src").glob("*.jsonl"):
            path.unlink()
        marker = "<image>\n"
        parts = [{"type": payload, "text": payload}]
        texts = {
            "llava": {
                "id": payload, "image": f"{payload}.png",
                "conversations": [{"from": "human", "value": marker + payload}, {"from": "gpt", "value": payload}],
            },
            "sharegpt": {"images": [payload], "messages": [{"role": payload, "content": payload}, {payload: payload}]},
            "trl": {"images": [payload], "messages": [{"role": "user", "content": parts}]},
            "swift": {"images": [payload], "messages": [{"role": "user", "content": payload}], payload: payload},
        }  # fmt: skip
        row = texts[tool]
        rows = [row, row | {payload: payload}, row | {"id": 3}, payload, {payload: 1}]
        name = "train.json" if tool in ("llava", "sharegpt") else "train.jsonl"
        text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (work / "src" / name).write_text(text)
        (work / "src" / f"{payload}_val.{name.partition('.')[2]}").write_text(text)
        explicit: Commands = [
            ("phiv-validate", "src", "--input_format", tool, "--format", form, "--num_workers", "0") for form in FORMATS
        ]
        return [_convert(tool), *explicit, *_validations("src", "o")]

    return place


def in_training(work: Path, payload: str) -> Commands:
    """What reads a converted folder to train: its texts, its folder's name, its manifest, flags."""
    _rows(work, _row(user=payload, id=payload, source=payload), _row(id="r1"), _row(id="r2", assistant=payload))
    assert run_forked(JSONL, work).code in (0, 1)
    (work / payload).mkdir()
    shutil.copytree(work / "o", work / payload / "o")
    manifest = work / payload / "o" / "manifest.json"
    text = json.loads(manifest.read_text())
    text["splits"][0] |= {"name": payload}
    manifest.write_text(json.dumps(text))
    (work / payload / "config.json").write_text(json.dumps({"model_type": payload}))
    (work / "c.yaml").write_text(json.dumps({payload: payload}))
    train = ("phiv-train", "--dry_run", "--device", "cpu", "--model_name_or_path")
    return [
        ("phiv-inspect", "o", "0", "--family", "tiny"),
        ("phiv-inspect", "o", payload, "--family", "tiny"),
        ("phiv-inspect", "o", "0", "--family", payload),
        ("phiv-inspect", f"{payload}/o", "0", "--family", "tiny"),
        (*train, "tiny", "--data_dir", "o"),
        (*train, "tiny", "--data_dir", f"{payload}/o"),
        (*train, payload, "--data_dir", "o"),
        (*train, "tiny", "--data_dir", "o", "--train_split", payload),
        (*train, "tiny", "--data_dir", "o", "--config", "c.yaml"),
        (*train, "tiny", "--data_dir", "o", "--image_option", payload),
        ("phiv-eval", "--model_name_or_path", payload, "--data_dir", "o", "--device", "cpu"),
        ("phiv-eval", "--model_name_or_path", "tiny", "--data_dir", f"{payload}/o", "--device", "cpu"),
        ("phiv-eval", "--model_name_or_path", "tiny", "--data_dir", "o", "--split", payload, "--device", "cpu"),
    ]


PLACES: dict[str, Callable[[Path, str], Commands]] = {
    **{
        f"field-{name}": in_field(name) for name in ("id", "source", "user", "assistant", "images", "system", "answers")
    },
    "split-name": in_split_name,
    "flags": in_split_flag,
    "output-name": in_output_name,
    "image-name": in_image_name,
    "clip-name": in_clip_name,
    "manifest": in_manifest,
    "shard": in_shard,
    **{f"chat-{tool}": in_chat_rows(tool) for tool in ("llava", "sharegpt", "trl", "swift")},
    "training": in_training,
}
"""Where the payload is put; each returns the commands to run."""
