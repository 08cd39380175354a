"""`phiv-merge RUN --out M`: an adapter merged into its base, a plain checkpoint, with the proof that it is the same.

Exit codes: 0 written, 1 the merged model would differ (nothing is written), 2 usage, 3 the environment, 130
interrupted.
"""

from __future__ import annotations

import os
import sys

import tyro

from phiv_data.cli.common import run
from phiv_data.utils.extras import needs_extra
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_OK, UsageError
from phiv_train.checkpoints.resolve import find_source
from phiv_train.cli.options import MergeOptions
from phiv_train.training.quiet import quiet_libraries


def main() -> int:
    """Entry point of `phiv-merge`."""
    return run("phiv-merge", lambda: _merge(tyro.cli(MergeOptions, prog="phiv-merge", args=sys.argv[1:])))


@needs_extra("train")
def _merge(options: MergeOptions) -> int:
    """Check what is cheap to check, then merge."""
    if options.out.exists() and not options.out.is_dir():
        raise UsageError("--out", f"{options.out} is a file", "Pass a new folder")
    if options.out.is_dir() and any(options.out.iterdir()):
        raise UsageError("--out", f"{options.out} is not empty", "Pass a new folder")
    if not options.run.is_dir():
        raise UsageError(str(options.run), "no such folder", "Pass the folder of a run, or an adapter")
    quiet_libraries()
    adapter, model = (None, str(options.run)) if options.base is None else (options.run, options.base)
    source = find_source(model, adapter=adapter, family=options.family)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed, which comes with accelerate, else searches for a GPU
    from phiv_train.inference.merge import merge  # imports torch and transformers

    how = " as it is in 4 bit" if options.onto == "4bit" else ""
    merged = merge(source, options.out, precision=options.precision, onto=options.onto)
    say(
        f"{merged.folder}: {source.adapter} merged into {source.base}{how} ({merged.adapted} layers)",
        f"  float32, merged against base and adapter: {merged.proof}",
        f"  {merged.precision}, as written, against float32: {merged.rounded}",
    )
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
