"""How a command ends: an exit code and at most one line on stderr, whatever happened and wherever its output goes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from labkit._streams import give_up, make_ready, visible
from labkit.errors import LabkitError, UsageError

__all__ = ["FAILED", "INTERRUPTED", "NOBODY_READS", "WRONG_USE", "ended", "run_and_exit"]

WRONG_USE, FAILED, INTERRUPTED, NOBODY_READS = 2, 1, 130, 141


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Runs a command and exits as it says; any exception becomes an exit code and one line on stderr.

    Where nobody reads its stdout any more, as behind `| head`, it says nothing and exits as a program that SIGPIPE
    ended. What a stream cannot encode is written as an escape.
    """
    make_ready()
    raise SystemExit(_flushed(ended(command)))


def ended(command: Callable[[], int]) -> int:
    """Runs a command to its exit code; what went wrong is said on stderr."""
    try:
        return command()
    except (BrokenPipeError, SystemExit) as end:
        if isinstance(end, BrokenPipeError) or isinstance(end.__context__, BrokenPipeError):  # Rich makes it an exit
            give_up(sys.stdout)
            return NOBODY_READS
        return end.code if isinstance(end.code, int) else FAILED if end.code else 0
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", INTERRUPTED)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except LabkitError as error:
        return _say(str(error), WRONG_USE if isinstance(error, UsageError) else FAILED)
    except MemoryError:
        return _say("out of memory", FAILED)
    except OSError as error:
        return _say(_stdout_failure() or _words(error), FAILED)
    except BaseException as error:
        return _say(_unexpected(error), FAILED)


def _flushed(code: int) -> int:
    """Python flushes what is left at its exit, where a failure would be a complaint of its own and exit code 120."""
    failure = None
    try:
        failure = _stdout_failure()
    except BrokenPipeError:
        code = code or NOBODY_READS
    if failure and code == 0:
        code = _say(failure, FAILED)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        give_up(sys.stderr)
    return code


def _stdout_failure() -> str | None:
    """Why stdout does not take what is left to write, None where it does; raises BrokenPipeError for a broken pipe."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        give_up(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        return f"stdout was not written: {_words(error)}"
    return None


def _words(error: Exception) -> str:
    strerror, filename = getattr(error, "strerror", None), getattr(error, "filename", None)
    words = (strerror or str(error) or type(error).__name__).lower()
    return f"{filename!r}: {words}" if filename is not None else words


def _unexpected(error: BaseException) -> str:
    """A bug: what and where, for who reports it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"a bug in labkit, please report it: {type(error).__name__}: {error}{where}"


def _say(message: str, code: int) -> int:
    with suppress(OSError, ValueError):  # nobody listens
        click.echo(f"labkit: {visible(' '.join(message.split()))}", err=True)
    return code
