"""docs/own_data.md: every command block runs as printed, in a folder with the shapes that it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[1] / "docs/own_data.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources that the page shows, with a few rows each."""
    root = tmp_path_factory.mktemp("own")
    names = [f"photos/{label}/{label}{i}.jpg" for label in ("cat", "dog") for i in range(8)]
    captions = [f"val2017/{i:012d}.jpg" for i in range(4)]
    vqa = [f"coco/COCO_val2014_{i:012d}.jpg" for i in range(4)]
    own = [f"data/images/a/{i}.jpg" for i in range(4)]
    for number, name in enumerate([*names, *captions, *vqa, *own]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32 + number, 24), (number * 9 % 256, 90, 30)).save(root / name)
    rows = [f"{name},Which animal is {i}?,{name.split('/')[1]}" for i, name in enumerate(names)]
    (root / "birds.csv").write_text("\n".join(["image,question,answer", *rows]) + "\n")
    for number, label in enumerate(["jump", "sit"] * 5):
        put_clip(root / f"clips/{label}/{number}.mp4", number)
    turns = [{"role": "user", "content": "<video>\nWhat happens?"}, {"role": "assistant", "content": "A jump."}]
    chats = [{"messages": turns, "videos": [f"clips/jump/{number}.mp4"]} for number in range(0, 10, 2)]
    (root / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    for folder in ("annotations", "vqa"):
        (root / folder).mkdir()
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(4)]
    annotations = [{"image_id": i, "caption": f"caption {i}"} for i in range(4)]
    (root / "annotations/captions_val2017.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    asked = [{"image_id": i, "question": "What?", "question_id": i} for i in range(4)]
    given = [{"question_id": i, "multiple_choice_answer": "x", "answers": [{"answer": "x"}]} for i in range(4)]
    (root / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": asked}))
    (root / "vqa/v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": given}))
    results = [{"type": "choices", "value": {"choices": ["cat"]}}]
    uploads = ({"image": f"/data/upload/1/0a1b2c3d-{Path(name).name}"} for name in names[:8])
    tasks = [{"data": data, "annotations": [{"result": results}]} for data in uploads]
    (root / "export.json").write_text(json.dumps(tasks))
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        turns = [[{"images": [f"a/{i}.jpg"], "user": "Which bird?", "assistant": "a wren"}] for i in numbers]
        lines = [json.dumps({"conversations": turn}) + "\n" for turn in turns]
        (root / f"data/birds_{split}.jsonl").write_text("".join(lines))
    return root


def put_clip(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for k in range(8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * k + number, np.uint8), "rgb24")))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[block.split(" --")[0].strip() + f" {i}" for i, block in enumerate(BLOCKS)]
)
def test_a_block_runs_as_printed(block: str, shapes: Path) -> None:
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", block], cwd=shapes, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "rejected" not in done.stderr.replace("0 rejected", ""), done.stderr
