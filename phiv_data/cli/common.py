"""What the command lines share: exit codes, one-line errors, signals."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from phiv_data.utils.atomic import environment_problems, find_environment_problem, hush_memory_errors
from phiv_data.utils.signals import Interrupt
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_ENVIRONMENT, EXIT_INTERRUPTED, PhivError


def run(program: str, command: Callable[[], int]) -> int:
    """Run `command` and return its exit code; a PhivError becomes one line on stderr and its own code.

    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 act as Ctrl-C: what is done so far is kept, and the code is 130.
    """
    hush_memory_errors()
    with Interrupt() as interrupt:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 loses no report
        try:
            with environment_problems("stdout"):
                code = command()
            return interrupt.leave() if code == EXIT_INTERRUPTED else code
        except PhivError as error:
            say(f"{program}: {str(error).removeprefix(f'{program}: ')}", to=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            say(f"{program}: interrupted. Run the same command to continue", to=sys.stderr)
            return interrupt.leave()
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            if error.filename is None:
                raise
            where, what = os.fsdecode(error.filename), (error.strerror or "cannot be used").lower()
            say(f"{program}: {where}: {what}. Check the path; it may have changed meanwhile", to=sys.stderr)
            return EXIT_ENVIRONMENT
        except BrokenPipeError:  # the reader of our output has gone
            sys.stderr.close()
            return EXIT_INTERRUPTED
        except Exception as error:
            if (problem := find_environment_problem(error, "memory")) is None:
                raise
            say(f"{program}: {problem}", to=sys.stderr)
            return problem.exit_code
