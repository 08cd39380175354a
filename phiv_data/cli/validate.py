"""`phiv-validate PATH`: `phiv_data.validation`, and the fixes of `phiv_data.repair`, as a command."""

from __future__ import annotations

import sys

import tyro
from tyro.conf import FlagCreatePairsOff

from phiv_data.cli.common import run
from phiv_data.cli.validate_options import ValidateOptions
from phiv_data.stores.address import require_local
from phiv_data.stores.folder_copy import local_copy
from phiv_data.utils.outputs import check_output_file, check_output_folder
from phiv_schemas.errors import UsageError


def main() -> int:
    """Entry point of `phiv-validate`."""
    return run("phiv-validate", lambda: _validate(sys.argv[1:]))


def _validate(argv: list[str]) -> int:
    options = tyro.cli(ValidateOptions, prog="phiv-validate", args=argv, config=(FlagCreatePairsOff,))
    if not options.paths:
        raise UsageError("PATH", "is missing", "Pass what to check")
    one_only = options.report_dir or options.output or options.fix or options.undo
    if len(options.paths) > 1 and (one_only or options.format not in ("text", "github")):
        raise UsageError("PATH", "several go with --format text or github only", "Check them one by one")
    from phiv_data.cli.checking import check, fix_and_check, undo_fixes  # imports pydantic and pyarrow: not for --help

    for flag in ("fix", "undo", "output", "report_dir"):
        require_local(f"--{flag}", getattr(options, flag))
    if not options.undo:
        _check_outputs(options)
    if options.fix or options.undo:
        with local_copy(options.paths[0]) as path:
            if options.undo:
                return undo_fixes(options, path, options.undo)
            assert options.fix is not None
            return fix_and_check(options, path, options.fix)
    return max([check(options, path) for path in options.paths])


def _check_outputs(options: ValidateOptions) -> None:
    """PhivError where a report cannot be written, or would replace data: before hours of checking."""
    if options.report_dir is not None:
        check_output_folder("--report_dir", options.report_dir)
    if (out := options.output) is None:
        return
    real = out.resolve()
    inside = any(real.is_relative_to(path.resolve()) for path in options.paths if path.is_dir())
    is_data = inside and (real.suffix in (".jsonl", ".arrow", ".sha256") or real.name == "manifest.json")
    if out.exists() and (is_data or any(real == path.resolve() for path in options.paths)):
        raise UsageError("--output", f"{out} is part of the data to check", "Choose another name")
    check_output_file("--output", out)
