"""How a command ends: with an exit code and at most one line on stderr, whatever happens to it and to its streams."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import click

from labkit._streams import give_up, make_ready, visible
from labkit.errors import LabkitError, UsageError

__all__ = ["FAILED", "INTERRUPTED", "NOBODY_READS", "WRONG_USE", "ended", "on_signals", "run_and_exit"]

WRONG_USE, FAILED, INTERRUPTED, NOBODY_READS = 2, 1, 130, 141
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Runs a command and exits with its code; any exception becomes an exit code and one line on stderr.

    When nobody reads stdout any more, as behind `| head`, it exits silently with the code of SIGPIPE. Characters that
    a stream cannot encode are escaped.
    """
    make_ready()
    raise SystemExit(_flushed(ended(command)))


def ended(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; errors are reported on stderr."""
    try:
        return command()
    except (BrokenPipeError, SystemExit) as end:
        if isinstance(end, BrokenPipeError) or isinstance(end.__context__, BrokenPipeError):  # rich exits instead
            give_up(sys.stdout)
            return NOBODY_READS
        return end.code if isinstance(end.code, int) else FAILED if end.code else 0
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except LabkitError as error:
        return _fail(str(error), WRONG_USE if isinstance(error, UsageError) else FAILED)
    except MemoryError:
        return _fail("out of memory", FAILED)
    except OSError as error:
        return _fail(_stdout_failure() or _system_words(error), FAILED)
    except BaseException as error:
        return _fail(_unexpected(error), FAILED)


@contextmanager
def on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Calls `stop` on the event loop for each SIGINT, SIGTERM and SIGHUP that is not ignored (nohup ignores SIGHUP)."""
    loop = asyncio.get_running_loop()
    caught = [sign for sign in STOPPING if signal.getsignal(sign) is not signal.SIG_IGN]
    for sign in caught:
        loop.add_signal_handler(sign, stop)
    try:
        yield
    finally:
        for sign in caught:
            loop.remove_signal_handler(sign)


def _flushed(code: int) -> int:
    """Flushes the streams now: at interpreter exit, a failure would print its own message and exit with 120."""
    failure = None
    try:
        failure = _stdout_failure()
    except BrokenPipeError:
        code = code or NOBODY_READS
    if failure and code == 0:
        code = _fail(failure, FAILED)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        give_up(sys.stderr)
    return code


def _stdout_failure() -> str | None:
    """Why stdout cannot be flushed, None if it can; raises BrokenPipeError for a broken pipe."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        give_up(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        return f"stdout was not written: {_system_words(error)}"
    return None


def _system_words(error: Exception) -> str:
    strerror, filename = getattr(error, "strerror", None), getattr(error, "filename", None)
    words = (strerror or str(error) or type(error).__name__).lower()
    return f"{filename!r}: {words}" if filename is not None else words


def _unexpected(error: BaseException) -> str:
    """The line for a bug: what and where, for the report."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"a bug in labkit, please report it: {type(error).__name__}: {error}{where}"


def _fail(message: str, code: int) -> int:
    with suppress(OSError, ValueError):  # stderr is closed
        click.echo(f"labkit: {visible(' '.join(message.split()))}", err=True)
    return code
