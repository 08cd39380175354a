"""The converter that converters/README.md shows is real: it converts, validates and loads."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

from phiv_data import ConversationDataset, validate
from phiv_data.engine import convert

README = Path(__file__).resolve().parents[2] / "converters" / "README.md"


def test_the_example_of_the_readme_converts(tmp_path: Path) -> None:
    from PIL import Image

    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    module = types.ModuleType("readme_pets")
    sys.modules["readme_pets"] = module
    exec(compile(code[1], str(README), "exec"), module.__dict__)
    for i, label in enumerate(("cat", "dog")):
        (tmp_path / "in/train" / label).mkdir(parents=True)
        Image.new("RGB", (8 + i, 6), (i, 2, 3)).save(tmp_path / f"in/train/{label}/{i}.jpg")
    (tmp_path / "in/train/dog/broken.jpg").write_bytes(b"\xff\xd8 cut")
    convert(module.PetsOptions(tmp_path / "in"), tmp_path / "out", num_workers=0)
    assert validate(tmp_path / "out").ok
    samples = list(ConversationDataset(tmp_path / "out", "train"))
    assert [(s.conversation.turns[0].assistant, s.images[0].open().size) for s in samples] == [
        ("cat", (8, 6)),
        ("dog", (9, 6)),
    ]
    assert "broken.jpg" in (tmp_path / "out/rejects.jsonl").read_text()
