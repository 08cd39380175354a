"""What started this process: torchrun, as one rank of several, or a person; from the environment alone.

check_environment()                # UsageError for half of a launcher's variables
rank(), world_size()               # 0, 1 without torchrun
"""

from __future__ import annotations

import os
import re

from phiv_schemas.errors import UsageError

_OF_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_OF_ACCELERATE = r"ACCELERATE_(USE_.*|MIXED_PRECISION|TORCH_DEVICE|DYNAMO_BACKEND)"
_OFF = ("", "0", "no", "false", "none", "off")


def world_size() -> int:
    """Number of processes of this run, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from torchrun's environment."""
    return int(os.environ.get("RANK", "0"))


def check_environment() -> None:
    """UsageError for variables that name other processes, and for those by which accelerate changes the training.

    Cluster operators set them, and shells keep them: half of what torchrun sets would make this process wait for others
    for ever, or be another than the first, which writes nothing.
    """
    start = "Start with torchrun, which sets all of them, or unset it"
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise UsageError(name, f"this variable of the environment must be a number (found {value!r})", start)
    several = world_size() > 1 or rank() > 0 or "LOCAL_RANK" in os.environ
    if several and (missing := [name for name in _OF_TORCHRUN if name not in os.environ]):
        found = next(name for name in _OF_TORCHRUN if name in os.environ)
        what = f"this variable of the environment is set ({os.environ[found]}), but not {', '.join(missing)}"
        raise UsageError(found, what, start)
    if rank() >= world_size():
        raise UsageError("RANK", f"is {rank()} of {world_size()} processes (WORLD_SIZE)", start)
    for name in _MPI_SIZES:
        if os.environ.get(name, "1") != "1" and "WORLD_SIZE" not in os.environ:
            raise UsageError(name, "processes of MPI do not find each other", "Start with torchrun instead")
    for name, value in sorted(os.environ.items()):
        if re.fullmatch(_OF_ACCELERATE, name) and value.lower() not in _OFF:
            what = f"this variable of the environment ({value}) would change the training behind phiv's back"
            hint = "Unset it: --distributed and --precision decide, and torchrun starts several processes"
            raise UsageError(name, what, hint)
