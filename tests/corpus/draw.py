"""Makes the data sets of PV0xx to PV4xx that are older than this corpus: `python tests/corpus/draw.py [PVxxx ...]`.

Others are made by a draw.py of their own, or written by hand. Then rewrite the reports (README.md).
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

Draw = Callable[[Path], object]


def image(color: str = "teal", size: tuple[int, int] = (4, 3), kind: str = "PNG") -> bytes:
    """A small image in one color."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind)
    return out.getvalue()


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A plain record; `changes` are to its turn, but for id, source and system."""
    turn = {"images": [], "user": f"What is on page {number}?", "assistant": "a fox"}
    turn |= {key: value for key, value in changes.items() if key not in ("id", "source", "system")}
    top = {key: value for key, value in changes.items() if key in ("id", "source", "system")}
    return {"id": f"val-{number}", "source": "dummy", "conversations": [turn]} | top


def lines(folder: Path, *records: dict[str, Any] | bytes, name: str = "val.jsonl", images: Any = None) -> None:
    """A jsonl file of records, or of lines as they are, and `images`: path to bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in records]
    (folder / name).write_bytes(b"".join(raw))
    for path, data in (images or {}).items():
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / path).write_bytes(data)


def converted(folder: Path, *, arrow: bool = False, names: tuple[str, ...] = ("fox",)) -> Path:
    """What phiv-convert writes of a split val with a row for each of `names`."""
    from toy_converter import ToyOptions, draw_toy_source

    from phiv_data.convert.engine import convert

    source = draw_toy_source(folder.parent / "source", {"val": list(names)})
    convert(ToyOptions(source, splits=("val",)), folder, num_workers=0, arrow=arrow)
    shutil.rmtree(source)
    shutil.rmtree(folder / ".phiv")  # times of this machine
    return folder


def shard(path: Path, **facts: Any) -> None:
    """A shard of one row with one image; `facts` replace the true metadata of the image."""
    import hashlib

    from phiv_data.storage.sample import EncodedImage, Sample
    from phiv_data.storage.shards import write_shard
    from phiv_schemas import Conversation, ImageMeta

    data = image()
    meta = ImageMeta(
        path="fox.png", width=4, height=3, format="PNG", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    row = Conversation.model_validate(record(images=["fox.png"]))
    write_shard(path, [Sample(row, (EncodedImage(meta.model_copy(update=facts), data),))])


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes."""
    path.write_bytes(change(path.read_bytes()))


ONE = record(images=["fox.png"])
FOX = {"fox.png": image()}
NEW_LINE = b"\n"
UMLAUT = json.dumps(record(user="Wie heißt das Tier? 🦊", assistant="Füchslein"), ensure_ascii=False)


def not_json(folder: Path) -> None:
    lines(folder / "broken", record(0), b"{'id': 'val-1'}\n", b"[\n", record(2))
    lines(folder / "clean", record(0), b"\n", b'  {"id":"val-1","source":"dummy",' + TAIL, record(2))


TAIL = b'"conversations":[{"images":[],"user":"{\'id\': [","assistant":null}]}  \r\n'


def schema(folder: Path) -> None:
    one_too_many, typo = record(1, images=[1]), record(2)
    typo["conversation"] = typo.pop("conversations")
    lines(folder / "broken", record(0, assistant=None, answers=[]), one_too_many, typo)
    lines(
        folder / "clean",
        record(0, assistant=None),
        record(1, images=["1"]),
        record(2, system=""),
        images={"1": image()},
    )


def duplicate_key(folder: Path) -> None:
    twice = json.dumps(record(0)).encode().replace(b'"user"', b'"assistant": "a dog", "user"') + NEW_LINE
    lines(folder / "broken", twice, record(1))
    lines(folder / "clean", record(0, user='"user": "user": "assistant"'), record(1))


def cut_line(folder: Path) -> None:
    lines(folder / "broken", record(0), json.dumps(record(1)).encode()[:-9])
    lines(folder / "clean", record(0), json.dumps(record(1)).encode())


def encoding(folder: Path) -> None:
    lone = json.dumps(record(2)).encode().replace(b"a fox", rb"a fox \ud83e")
    lines(folder / "broken", record(0), UMLAUT.replace("🦊", "").encode("latin-1") + NEW_LINE, lone + NEW_LINE)
    escaped = json.dumps(record(2)).encode().replace(b"a fox", rb"a fox \ud83e\udd8a")
    lines(folder / "clean", record(1), UMLAUT.encode() + NEW_LINE, escaped + NEW_LINE)


def byte_order_mark(folder: Path) -> None:
    mark = b"\xef\xbb\xbf"
    lines(folder / "broken", mark + json.dumps(record(0)).encode() + NEW_LINE, record(1))
    inside = json.dumps(record(0, user="What is it?")).encode().replace(b"What is", mark + b"What is")
    lines(folder / "clean", record(1), inside + NEW_LINE)


def unreadable_file(folder: Path) -> None:
    lines(folder / "broken", record(images=["mem"]))
    lines(folder / "clean", record())


def missing_image(folder: Path) -> None:
    lines(folder / "broken", ONE, record(1, images=["fox.png", "Fox.png"]), images=FOX)
    lines(
        folder / "clean",
        ONE,
        record(1, images=["fox.png", "a/fox.png"]),
        record(2),
        images=FOX | {"a/fox.png": FOX["fox.png"]},
    )


def no_images_folder(folder: Path) -> None:
    lines(folder / "broken", record(0), record(1, images=["fox.png"]), record(2, images=["fox.png"]))
    lines(folder / "clean", record(0), record(1))


def pipe(folder: Path) -> None:
    lines(folder / "broken", record(images=["pipe.png"]), record(1, images=["folder.png"]))
    lines(folder / "clean", record(images=["fox.png"]), record(1, images=["folder.png/fox.png"]))


def broken_image(folder: Path) -> None:
    whole = image(kind="JPEG", size=(16, 16))
    bad = {"cut.jpg": whole[:-40], "page.jpg": b"<html>404</html>", "empty.png": b""}
    lines(folder / "broken", record(images=list(bad)), images=bad)
    lines(folder / "clean", record(images=["whole.jpg"]), images={"whole.jpg": whole + b"bytes after the end"})


def path_escapes(folder: Path) -> None:
    names = ["../fox.png", "/data/fox.png", "C:\\fox.png", "link.png"]
    lines(folder / "broken", *(record(i, images=[name]) for i, name in enumerate(names)), images=FOX)
    (folder / "broken" / "images" / "link.png").symlink_to("../val.jsonl")
    lines(
        folder / "clean",
        ONE,
        record(1, images=["a..b/..fox.png", "link.png"]),
        images=FOX | {"a..b/..fox.png": image()},
    )
    (folder / "clean" / "images" / "link.png").symlink_to("fox.png")


def image_bytes_differ(folder: Path) -> None:
    broken = converted(folder / "broken", names=("fox", "cat"))
    (broken / "images/val/fox.png").write_bytes(image("red"))
    lines_of = (broken / "images.sha256").read_bytes().splitlines(keepends=True)
    edit(broken / "images.sha256", lambda _: lines_of[1])  # cat.png is not listed
    converted(folder / "clean", names=("fox", "cat"))


def image_meta_differs(folder: Path) -> None:
    for name, facts in (("size", {"size_bytes": 1}), ("width", {"width": 5})):
        (folder / "broken").mkdir(exist_ok=True)
        shard(folder / "broken" / f"{name}.arrow", **facts)
    (folder / "clean").mkdir()
    shard(folder / "clean" / "good.arrow")


def duplicate_id(folder: Path) -> None:
    lines(folder / "broken", record(0, id="a"), record(1, id="b", user="And this?"), name="train.jsonl")
    lines(folder / "broken", record(2, id="b"), record(3, id="c"), record(4, id="b"), name="val.jsonl")
    lines(folder / "clean", record(0, id="a"), record(1, id="b", user="And this?"), name="train.jsonl")
    lines(folder / "clean", record(2, id="B"), record(3, id="b.0"), record(4, id="b 0"), name="val.jsonl")


def no_rows(folder: Path) -> None:
    lines(folder / "broken", b"\n", b"  \n")
    lines(folder / "clean", b"\n", record())


def missing_file(folder: Path) -> None:
    (converted(folder / "broken") / "toy_val.jsonl").unlink()
    converted(folder / "clean")


def changed_file(folder: Path) -> None:
    same_size = converted(folder / "broken") / "toy_val.jsonl"
    edit(same_size, lambda data: data.replace(b'"fox"', b'"cat"'))
    edit(folder / "broken" / "images.sha256", lambda data: data + b"no line of sha256sum\n")
    (converted(folder / "clean") / ".gitattributes").write_text("*.arrow filter=lfs\n")


def no_manifest(folder: Path) -> None:
    converted(folder / "broken")
    for name in ("manifest.json", "README.md", "images.sha256"):
        (folder / "broken" / name).unlink()
    converted(folder / "clean")


def unfinished(folder: Path) -> None:
    (folder / "broken" / ".phiv").mkdir(parents=True)
    (folder / "broken" / ".phiv" / "plan.json").write_text("{}\n")
    (converted(folder / "clean") / ".phiv").mkdir()
    (folder / "clean" / ".phiv" / "plan.json").write_text("{}\n")


def bad_manifest(folder: Path) -> None:
    edit(converted(folder / "broken") / "manifest.json", lambda data: data.replace(b'"rows": 1', b'"rows": 2'))
    converted(folder / "clean")


def cut_manifest(folder: Path) -> None:
    edit(converted(folder / "broken") / "manifest.json", lambda data: data[:200])
    converted(folder / "clean", names=("cat",))


def broken_shard(folder: Path) -> None:
    converted(folder / "broken", arrow=True)
    edit(folder / "broken/arrow/val/data-00000-of-00001.arrow", lambda data: data[:-64])
    converted(folder / "clean", arrow=True)


def shard_differs(folder: Path) -> None:
    converted(folder / "broken", arrow=True)
    edit(folder / "broken" / "toy_val.jsonl", lambda data: data.replace(b'"fox"', b'"cat"'))
    converted(folder / "clean", arrow=True)
    edit(folder / "clean" / "toy_val.jsonl", lambda data: data.replace(b", ", b",  "))  # the same record


def image_marker(folder: Path) -> None:
    lines(folder / "broken", record(0, user="<image>\nWhat is it?"), record(1, user="<|image_1|> or <|image_2|>?"))
    lines(
        folder / "clean", record(0, user="<p>Is a < b > c?</p>"), record(1, user="an image, <img src=...>, <imagery>")
    )


def unlisted_file(folder: Path) -> None:
    left = converted(folder / "broken") / "images" / "val"
    (left / "old.png").write_bytes(image())
    (folder / "broken" / "notes.txt").write_text("by hand\n")
    (folder / "broken" / ".hidden").mkdir()
    (folder / "broken" / ".hidden" / "notes.txt").write_text("folders with a dot too\n")
    (converted(folder / "clean") / "report.txt").write_text("of --report_dir\n")


def unlabeled(folder: Path) -> None:
    lines(folder / "broken", record(0), record(1, assistant=None), record(2, assistant=None))
    lines(folder / "clean", record(0), record(1, assistant="null"))


def unnamed(folder: Path) -> None:
    rows = [record(i, images=["fox.png"], user=f"What is it in {i}?") for i in range(3)]
    bare = [{key: value for key, value in row.items() if key not in ("id", "source")[i:]} for i, row in enumerate(rows)]
    lines(folder / "broken", *bare, images=FOX)
    lines(folder / "clean", *rows, images=FOX)


FOLDERS: dict[str, Draw] = {
    "PV001-invalid-json": not_json,
    "PV002-schema": schema,
    "PV003-duplicate-key": duplicate_key,
    "PV004-truncated-line": cut_line,
    "PV005-encoding": encoding,
    "PV006-byte-order-mark": byte_order_mark,
    "PV007-unreadable-file": unreadable_file,
    "PV101-missing-image": missing_image,
    "PV101-missing-image-folder": no_images_folder,
    "PV101-missing-image-pipe": pipe,
    "PV102-broken-image": broken_image,
    "PV103-path-traversal": path_escapes,
    "PV104-image-checksum-mismatch": image_bytes_differ,
    "PV105-image-metadata-mismatch": image_meta_differs,
    "PV201-duplicate-id": duplicate_id,
    "PV202-empty-dataset": no_rows,
    "PV301-missing-file": missing_file,
    "PV302-checksum-mismatch": changed_file,
    "PV303-missing-manifest": no_manifest,
    "PV303-missing-manifest-unfinished": unfinished,
    "PV304-invalid-manifest": bad_manifest,
    "PV304-invalid-manifest-cut": cut_manifest,
    "PV305-broken-shard": broken_shard,
    "PV306-shard-differs-from-jsonl": shard_differs,
    "PV401-image-marker-in-text": image_marker,
    "PV402-unlisted-file": unlisted_file,
    "PV403-unlabeled": unlabeled,
    "PV404-unnamed-row": unnamed,
}


if __name__ == "__main__":
    for name, draw in FOLDERS.items():
        if not sys.argv[1:] or name[:5] in sys.argv[1:]:
            for part in ("broken", "clean"):
                shutil.rmtree(HERE / name / part, ignore_errors=True)
            (HERE / name).mkdir(exist_ok=True)
            draw(HERE / name)
