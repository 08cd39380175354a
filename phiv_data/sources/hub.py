"""Downloads from the Hugging Face hub, checked against a known sha256."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phiv_data.utils.atomic import sha256_file
from phiv_data.utils.extras import install_hint
from phiv_schemas import EnvironmentProblem


def download(repo: str, filename: str, *, sha256: str, hint: str) -> Path:
    """The file of a dataset repository, from the hub's cache where it is there already.

    EnvironmentProblem, ending in `hint`, without the extra `phiv[hub]`, without a network, or when the file that came
    is not the one known.
    """
    where = f"hub dataset {repo}"
    with _one_line(where, filename, hint):
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(repo_id=repo, filename=filename, repo_type="dataset"))
    if (found := sha256_file(path)) != sha256:
        raise EnvironmentProblem(where, f"{filename} has sha256 {found}, not {sha256}", f"Delete {path}. {hint}")
    return path


def download_folder(repo: str, folder: str, *, hint: str) -> Path:
    """A folder of a dataset repository, from the hub's cache or the network; the hub checks the files' hashes.

    EnvironmentProblem, ending in `hint`, without the extra `phiv[hub]` or without a network.
    """
    where = f"hub dataset {repo}"
    with _one_line(where, f"{folder}/", hint):
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(repo_id=repo, repo_type="dataset", allow_patterns=[f"{folder}/*"])) / folder
    if not path.is_dir():
        raise EnvironmentProblem(where, f"has no folder {folder}/ (any more)", hint)
    return path


@contextmanager
def _one_line(where: str, what: str, hint: str) -> Iterator[None]:
    """EnvironmentProblem for whatever goes wrong inside: no huggingface_hub, no network, no such file."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except ImportError:
        raise EnvironmentProblem(where, "downloading needs huggingface_hub", f"{install_hint('hub')}. {hint}") from None
    except Exception as error:  # every network library below raises its own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblem(where, f"cannot download {what} ({reason})", hint) from error
