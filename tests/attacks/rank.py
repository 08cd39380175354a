"""`phiv-train` as torchrun starts it, that also writes its exit code: torchrun ends with 1 for every signal.

torchrun --nproc_per_node 2 rank.py FOLDER FLAGS...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from phiv_train.cli.train import main

if __name__ == "__main__":
    folder, sys.argv = Path(sys.argv[1]), ["phiv-train", *sys.argv[2:]]
    code = main()
    (folder / f"rank{os.environ['RANK']}").write_text(str(code))
    sys.exit(code)
