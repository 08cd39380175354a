"""Run the tools that exports are made for on every export, and print what each of them reads.

    python benchmarks/export_tools.py FOLDER [--tools trl webdataset]

FOLDER gets an environment per tool (kept, a second run is quick), the exports, and a log per reader. The rows differ in
what tools trip over: text alone first, several images, images inside the text, JPEG, PNG, two turns, literal markers,
an empty system prompt, a split without images. "rows" are those that reach the tool with all their texts and as many
images as phiv has for them (for trainers: in the tokens that the model gets).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.engine import export
from phiv_data.export.hub import Hub
from phiv_data.export.webdataset import WebDataset
from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas import Conversation, Turn

SPLITS = ("train", "val", "dev")
WRITERS = [Hub(), CauldronExport(), Llava(), ShareGpt(), Swift(), Trl(), WebDataset()]
TORCH = "torch==2.13.0"
READERS = Path(__file__).with_name("export_readers.py")


class Tool(NamedTuple):
    """A tool: what is installed for it, in two steps, the exports that it is for, and what a user does by hand."""

    exports: tuple[str, ...]
    packages: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    absent_modules: tuple[str, ...] = ()  # imported by the tool but not needed here: empty modules stand in for them
    by_hand: str = "none"
    prepare: str = ""


TOOLS = {
    "datasets": Tool(("hub", "cauldron", "llava", "sharegpt", "swift", "trl", "webdataset"), ("datasets", "pillow")),
    "webdataset": Tool(("webdataset",), ("webdataset", "pillow"), by_hand="name the tars of a split"),
    "mlcroissant": Tool(("hub",), ("mlcroissant[parquet,image]",)),
    "trl": Tool(("trl",), (TORCH, "trl", "pillow")),
    "llamafactory": Tool(
        ("sharegpt",),
        (
            TORCH,
            *("datasets<=4.0.0", "transformers<=5.6.0", "accelerate<=1.11.0", "peft<=0.18.1", "trl<=0.24.0", "av<=16"),
            *("einops", "omegaconf", "scipy", "sentencepiece", "tiktoken", "pyyaml", "fire", "matplotlib", "pillow"),
        ),
        ("llamafactory", "torchdata==0.11.0"),
        ("torchaudio",),
        by_hand="dataset_dir, media_dir, dataset",
    ),
    "ms-swift": Tool(
        ("swift",),
        (
            *(TORCH, "datasets<4.8.5", "transformers<5.20.0", "accelerate", "peft<0.21", "trl<1.0", "pillow", "addict"),
            *(
                "aiohttp",
                "attrdict",
                "binpacking",
                "dacite",
                "einops",
                "importlib-metadata",
                "json-repair",
                "zstandard",
            ),
            *("modelscope", "nltk", "openai", "oss2", "rouge", "scipy", "sentencepiece", "simplejson", "tiktoken"),
            *("sortedcontainers", "tensorboard", "fastapi", "uvicorn", "matplotlib", "charset-normalizer"),
        ),
        ("ms-swift", "transformers-stream-generator", "cpm-kernels"),
        by_hand="ROOT_IMAGE_DIR=OUT/images",
    ),
    "megatron-energon": Tool(
        ("webdataset",),
        (
            *(TORCH, "braceexpand", "click", "filetype", "mfusepy", "multi-storage-client", "numpy", "pillow"),
            *("pyyaml", "rapidyaml", "s3fs", "tqdm", "webdataset"),
        ),
        ("megatron-energon",),
        by_hand="energon prepare (crude), a Cooker",
    ),
    "litdata": Tool(
        ("hub",),
        (TORCH, "lightning-utilities", "filelock", "boto3", "requests", "tifffile", "obstore", "pyarrow", "polars"),
        ("litdata",),
        ("torchvision",),
        by_hand="index_parquet_dataset on a folder per split",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    options = parser.parse_args()
    folder = options.folder.resolve()
    data = folder / "data"
    if not data.exists():
        make_data(folder)
    losses = {}
    for writer in WRITERS:
        done = export(writer, data, folder / "exports" / writer.name)
        losses[writer.name] = sum(done.losses.values())
    sys.stdout.write("| export | tool | rows | losses reported | by hand |\n|---|---|---|---|---|\n")
    for name in options.tools:
        for exported in TOOLS[name].exports:
            version, rows = read(name, folder, exported, data)
            row = (exported, f"{name} {version}", rows, losses[exported], TOOLS[name].by_hand)
            sys.stdout.write(f"| {' | '.join(map(str, row))} |\n")
            sys.stdout.flush()


def make_data(folder: Path) -> None:
    """A converted dataset of rows that differ, by phiv-convert itself."""
    source = folder / "source"
    (source / "images").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.png"):
        Image.new("RGB", (24, 16), "red").save(source / "images" / name)

    def turn(user: str, *images: str, offsets: tuple[int, ...] | None = None) -> Turn:
        return Turn(images=images, user=user, assistant=f"Answer to {len(user)}.", image_offsets=offsets)

    rows = {
        "train": [
            [turn("What is a text row?")],
            [turn("What is red?", "b.jpg")],
            [turn("Which is larger?", "a.png", "b.jpg")],
            [turn("Is it larger than that one?", "a.png", "c.png", offsets=(6, 18))],
            [turn("What is it?", "a.png"), turn("And this one?", "b.jpg"), turn("Sure?")],
            [turn("Do <video> and <audio> mean anything?", "c.png")],
            [turn("Does <image> in a text row?")],
        ],
        "val": [[turn("Only text?")], [turn("Text again?")]],
        "dev": [[turn("What is green?", "a.png")]],
    }
    for split, conversations in rows.items():
        systems = [None, "Be brief.", ""] if split == "train" else []
        systems += [None] * (len(conversations) - len(systems))
        lines = [
            Conversation(id=f"{split}-{i}", source="tools", conversations=turns, system=system).to_line()
            for i, (turns, system) in enumerate(zip(conversations, systems, strict=True))
        ]
        (source / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    program = Path(sys.executable).with_name("phiv-convert")
    arguments = ["jsonl", "--source", source, "--out_dir", folder / "data"]
    subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)


def read(name: str, folder: Path, exported: str, data: Path) -> tuple[str, str]:
    """The tool's version, and how many rows it reads as they are: `10 of 10`, or the last line of its error."""
    tool, env = TOOLS[name], folder / "envs" / name
    python = env / "bin" / "python"
    log = folder / f"{name}-{exported}.log"
    with log.open("w") as out:
        if not (env / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", env], check=True)
            pip = [python, "-m", "pip", "install", "-q"]
            done = subprocess.run([*pip, *tool.packages], stdout=out, stderr=out).returncode
            if tool.without_dependencies and not done:
                bare = [*pip, "--no-deps", *tool.without_dependencies]
                done = subprocess.run(bare, stdout=out, stderr=out).returncode
            if done:
                return "", f"could not be installed: {log}"
            (site,) = env.glob("lib/python*/site-packages")
            for module in tool.absent_modules:
                (site / f"{module}.py").touch()
            (env / "installed").touch()
        ask = f"from importlib.metadata import version; print(version({name!r}))"
        version = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()
        command = [python, READERS, name, folder / "exports" / exported, *SPLITS]
        done_reading = subprocess.run(command, stdout=subprocess.PIPE, stderr=out, text=True)
    if done_reading.returncode:
        return version, f"error: {log.read_text().strip().splitlines()[-1][:200]}"
    found = json.loads(done_reading.stdout.strip().splitlines()[-1])
    return version, compared(found, data)


def compared(found: dict[str, list[tuple[int, str]]], data: Path) -> str:
    """How many rows have all their texts and images; the first one that does not."""
    good, total, first = 0, 0, ""
    for split in SPLITS:
        rows = list(ConversationDataset(data, split))
        total += len(rows)
        if len(found[split]) != len(rows):
            first = first or f"{len(found[split])} rows of {len(rows)} in {split}"
        for sample, (images, text) in zip(rows, found[split], strict=False):
            wanted = [part for turn in sample.conversation.turns for part in (turn.user[:6], turn.assistant or "")]
            plain = text.replace("\\", "")  # literal markers are escaped
            if images == len(sample.images) and all(part in plain for part in wanted):
                good += 1
            else:
                first = first or f"{sample.id}: {images} images of {len(sample.images)}, {text[:80]!r}"
    return f"{good} of {total}" + (f" ({first})" if first else "")


if __name__ == "__main__":
    main()
