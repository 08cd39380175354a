"""Where a checkpoint's files are: a folder as it is, or a hub repository fetched. No torch: lengths need none."""

from __future__ import annotations

import re
from pathlib import Path

from phiv_schemas.errors import EnvironmentProblem, UsageError

_ALLOW = ("*.json", "*.safetensors", "tokenizer.model")


def local_folder(path: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """`path` if it is a folder, else the hub repository of that name, downloaded (weights and json files only).

    Without `weights` only the json files are fetched.
    """
    folder = Path(path)
    if folder.is_dir():
        return model_folder(folder)
    name = str(path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(name, "no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    patterns = [pattern for pattern in _ALLOW if weights or not pattern.endswith(".safetensors")]
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if weights and not any(found.glob("*.safetensors")):  # saved with safe_serialization=False
            snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"])
        return found
    except Exception as error:  # the hub client raises a dozen types; each means we have no files
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "Check the name and the network, or pass a local folder; the model tiny needs neither"
        raise EnvironmentProblem(name, f"no such folder, and the hub does not give it ({first})", hint) from error


def model_folder(folder: Path) -> Path:
    """`folder`, or of the output folder of a finished run its final/. UsageError naming the checkpoint of another."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return folder
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    newest = max(checkpoints, key=lambda path: int(path.name.partition("-")[2]), default=None)
    # A final/ that was saved before a checkpoint is of the run before, which this one replaces.
    if (final := folder / "final").is_dir() and (newest is None or _saved_at(newest) <= _saved_at(final)):
        return final
    if newest is not None:
        what = "is the folder of a run that has not finished"
        raise UsageError(str(folder), what, f"Its newest checkpoint is {newest}")
    return folder


def _saved_at(checkpoint: Path) -> float:
    """When its last file was written; evaluations, which add files later, do not count. 0 where that file is not."""
    metadata = checkpoint / "phiv_checkpoint.json"
    return metadata.stat().st_mtime if metadata.is_file() else 0.0
