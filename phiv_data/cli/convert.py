"""`phiv-convert DATASET --out_dir OUT`: convert a raw dataset.

Exit codes: 0 everything written, 1 some inputs rejected, 2 usage, 3 something of the environment is missing,
130 interrupted (the same command resumes).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import get_type_hints

from phiv_data.cli.common import run
from phiv_data.cli.convert_options import ConvertCommand, OutputOptions
from phiv_data.convert.base import ConverterOptions
from phiv_data.utils.plugins import CONVERTERS, load_plugins
from phiv_data.utils.terminal import say
from phiv_schemas.errors import UsageError


def main() -> int:
    """Entry point of `phiv-convert`."""
    return run("phiv-convert", lambda: _convert(_parse(sys.argv[1:])))


def _convert(command: ConvertCommand) -> int:
    from phiv_data.cli.run_convert import run_convert  # imports pydantic and pyarrow: not for --help

    return run_convert(command)


def _parse(argv: list[str]) -> ConvertCommand:
    import tyro

    plugins = load_plugins(CONVERTERS)
    for name, options in list(plugins.loaded.items()):
        if (reason := _why_no_options(options)) is not None:
            del plugins.loaded[name]
            plugins.broken[name] = f"{name}: {reason}"
    for line in plugins.broken.values():
        say(f"phiv-convert: plugin left out: {line}", to=sys.stderr)
    if argv and not argv[0].startswith("-") and argv[0] not in plugins.loaded:
        close = get_close_matches(argv[0], plugins.loaded, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(plugins.loaded))}"
        raise UsageError(argv[0], "is no converter", hint)
    # One sub-command per converter, under the description of its options class.
    commands: dict[str, Callable[..., ConvertCommand]] = {
        name: dataclasses.make_dataclass(
            options.__name__,
            [("dataset", options), ("output", OutputOptions)],
            bases=(ConvertCommand,),
            frozen=True,
            namespace={"__doc__": options.__doc__},
        )
        for name, options in plugins.loaded.items()
    }
    command: ConvertCommand = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="phiv-convert",
        description="Convert a raw dataset to conversations.",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return command


def _why_no_options(options: object) -> str | None:
    """Why a plugin cannot be a sub-command: one that is none would end the others' command line, too."""
    if not (isinstance(options, type) and dataclasses.is_dataclass(options) and issubclass(options, ConverterOptions)):
        return "is no dataclass that is a ConverterOptions or a Converter"
    try:
        get_type_hints(options)
    except Exception as error:  # whatever a third party's annotation raises
        return f"its fields have types that cannot be read ({type(error).__name__}: {error})"
    return None
