"""`phiv-train` under torchrun, of which rank 1 stops doing anything in its second step.

torchrun --nproc_per_node 2 hanging_rank.py FLAGS...
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def main() -> int:
    from phiv_train.cli import train
    from phiv_train.training.trainer import PhivTrainer

    step = PhivTrainer.training_step

    def hang(self: Any, *args: Any) -> Any:
        if self.state.global_step and os.environ["RANK"] == "1":
            time.sleep(600)
        return step(self, *args)

    PhivTrainer.training_step = hang  # type: ignore[method-assign]
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
