"""`phiv-train` under torchrun, in float64 if asked, that also notes how each rank was wrapped.

torchrun --nproc_per_node 2 ranks.py NOTES_FOLDER double|single FLAGS...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(notes: Path, precision: str, flags: list[str]) -> int:
    import torch

    torch.set_num_threads(1)
    from phiv_train.cli.train import run_command
    from phiv_train.training import run
    from phiv_train.training.trainer import PhivTrainer

    if precision == "double":
        use_double(run)
    train = PhivTrainer.train

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = train(self, *args, **kwargs)
        name = notes / f"rank{os.environ['RANK']}.json"
        name.write_text(json.dumps({"wrapper": type(self.model_wrapped).__name__, **share(self._plain_model)}))
        return result

    PhivTrainer.train = noted  # type: ignore[method-assign]
    return run_command(flags)


def use_double(run: Any) -> None:
    """Train in float64, so that equal means equal to 1e-9."""
    load = run.load_model

    def load_double(*args: Any, **kwargs: Any) -> Any:
        model, processor = load(*args, **kwargs)
        return model.double(), processor

    run.load_model = load_double


def share(model: Any) -> dict[str, int]:
    """Numbers this rank holds, and of how many tensors it holds a share only."""
    from torch.distributed.tensor import DTensor

    parameters = list(model.parameters())
    local = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return {"held": sum(p.numel() for p in local), "split": sum(isinstance(p, DTensor) for p in parameters)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
