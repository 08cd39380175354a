"""Draws PV244: an image and the same at half the size, with one question; in clean/ with another question."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent


def main() -> None:
    noise = Image.frombytes("L", (9, 8), random.Random(0).randbytes(72)).resize((72, 64), Image.Resampling.BICUBIC)
    for part, second in (("broken", "What is it?"), ("clean", "What color is it?")):
        (HERE / part / "images").mkdir(parents=True, exist_ok=True)
        noise.save(HERE / part / "images" / "fox.png")
        noise.resize((36, 32)).save(HERE / part / "images" / "half.png")
        rows = [("fox.png", "What is it?", "a fox"), ("half.png", second, "a cat"), ("fox.png", "Where is it?", "here")]
        lines = []
        for i, (image, user, answer) in enumerate(rows):
            turn = {"images": [image], "user": user, "assistant": answer}
            lines.append(json.dumps({"id": f"train-{i}", "source": "dummy", "conversations": [turn]}) + "\n")
        (HERE / part / "train.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
