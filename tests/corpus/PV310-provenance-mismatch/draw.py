"""Draws the data sets of PV310 to PV313, each with the `source/` that its images are held against."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CORPUS.parent), str(CORPUS.parent / "phiv_data")]


def main() -> None:
    from data_builders import rewrite_shard, seal_manifest
    from PIL import Image
    from toy_converter import ToyOptions, draw_toy_source

    from phiv_data.convert.engine import convert
    from phiv_data.storage.dataset import read_manifest
    from phiv_data.storage.sample import EncodedImage

    def converted(folder: Path, *, arrow: bool = True) -> None:
        convert(ToyOptions(folder.parent / "source", splits=("train", "val")), folder, num_workers=0, arrow=arrow)
        shutil.rmtree(folder / ".phiv")  # times of this machine
        # Only images are compared: the toy converter is not installed.
        seal_manifest(folder, read_manifest(folder).model_copy(update={"converter": None, "converter_version": None}))

    def other(image: EncodedImage) -> EncodedImage:
        """Bytes of another image under the facts of a copy."""
        out = io.BytesIO()
        Image.new("RGB", (4, 3), "red").save(out, "PNG")
        return EncodedImage(image.meta, out.getvalue())

    names = ("PV310-provenance-mismatch", "PV311-source-missing", "PV312-source-changed", "PV313-source-unchecked")
    for folder in (CORPUS / name for name in names):
        for part in ("broken", "clean", "source"):
            shutil.rmtree(folder / part, ignore_errors=True)
        source = draw_toy_source(folder / "source", {"train": ["fox"], "val": ["owl"]})
        converted(folder / "broken", arrow=not folder.name.startswith("PV313"))
        if folder.name.startswith("PV310"):
            rewrite_shard(folder / "broken", "val", other)
        if folder.name.startswith("PV311"):
            (source / "val" / "owl.png").unlink()
        if folder.name.startswith("PV312"):
            Image.new("RGB", (4, 3), "red").save(source / "val" / "owl.png")
        converted(folder / "clean")


if __name__ == "__main__":
    main()
