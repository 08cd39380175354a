"""Converts a drawn clip with the libraries that are here: with others, bytes that differ are no matter."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path


def make(folder: Path) -> None:
    """`source/`, `clean/` as converted, and `broken/` with its frames encoded again at another quality."""
    from data_builders import rewrite_shard
    from media_tools import numbered_clip

    from phiv_converters.ucf101.convert import Ucf101Options
    from phiv_data.convert.engine import convert
    from phiv_data.storage.sample import EncodedImage

    def again(image: EncodedImage) -> EncodedImage:
        out = io.BytesIO()
        image.open().save(out, "JPEG", quality=95)
        facts = {"sha256": hashlib.sha256(out.getvalue()).hexdigest(), "size_bytes": len(out.getvalue())}
        return EncodedImage(image.meta.model_copy(update=facts), out.getvalue())

    for split, num_frames in (("train", 5), ("val", 9)):
        (folder / "source" / split / "Run").mkdir(parents=True)
        numbered_clip(folder / "source" / split / "Run" / f"v_Run_{split}.avi", num_frames)
    for part in ("broken", "clean"):
        convert(Ucf101Options(folder / "source", num_frames=2), folder / part, num_workers=0)
    rewrite_shard(folder / "broken", "val", again)
