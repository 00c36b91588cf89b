"""`labkit notebook`: makes, records and checks notebooks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from labkit._imports import need
from labkit._streams import visible
from labkit.cli.exits import FAILED, ended
from labkit.errors import UsageError

if TYPE_CHECKING:
    from labkit.notebook.book import Book, Problem

__all__ = ["notebook"]

_files = click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
_timeout = click.option("--timeout", default=120.0, show_default=True, help="Seconds that one cell may take.")


@click.group(short_help="Make a notebook of your own, record it, check it.", invoke_without_command=True)
@click.pass_context
def notebook(context: click.Context) -> None:
    """Make a notebook of your own, record its outputs, and check that it still shows them.

    \b
    Example:
      labkit notebook new frozen_shard
      labkit notebook record frozen_shard.ipynb
      labkit notebook check frozen_shard.ipynb
    """
    if context.invoked_subcommand is None:
        raise UsageError("labkit notebook needs a command: new, record or check")


@notebook.command(short_help="Write NAME.ipynb from a template.")
@click.argument("name")
def new(name: str) -> None:
    """Write NAME.ipynb from a template: a question, a prediction, a fault on a real server, what it does, an exercise.

    Never overwrites a file.

    \b
    Example:
      labkit notebook new frozen_shard
    """
    from labkit.notebook.new import new as write

    def command() -> int:
        path = write(name)
        shown = visible(str(path))
        click.echo(f"wrote {shown}; next: labkit notebook record {shown}")
        return 0

    _exit(command)


@notebook.command(short_help="Run notebooks and store their outputs.")
@_files
@_timeout
def record(paths: Sequence[Path], timeout: float) -> None:
    """Run notebooks from top to bottom in fresh kernels, and store their outputs.

    Outputs that are compared hold no measured times, ports, paths, process IDs, passwords or versions. Cells tagged
    nbval-ignore-output are stored as they are. If a cell raises an error and is not tagged raises-exception, nothing is
    written, and the exit code is 1.

    \b
    Example:
      labkit notebook record frozen_shard.ipynb
      LABKIT_LAUNCHER=embedded labkit notebook record *.ipynb
    """
    need("notebooks")
    from labkit.notebook.record import record as run

    _exit(lambda: _each(paths, lambda path: run(path, timeout), "recorded"))


@notebook.command(short_help="Run notebooks and compare with their stored outputs.")
@_files
@_timeout
def check(paths: Sequence[Path], timeout: float) -> None:
    """Run notebooks again, and compare with their stored outputs; write nothing.

    Also checked: every cell ran, in order, without an error that no tag announces; an assert follows each picture;
    every fault fired; no lab is left running. Each failure is one line; exit 1 if there is one.

    \b
    Example:
      labkit notebook check frozen_shard.ipynb
    """
    need("notebooks")
    from labkit.notebook.check import check as run

    _exit(lambda: _each(paths, lambda path: run(path, timeout), "as recorded, and nothing is left"))


def _exit(command: Callable[[], int]) -> NoReturn:
    raise click.exceptions.Exit(ended(command))


def _each(paths: Sequence[Path], run: Callable[[Path], Awaitable[tuple[Book, list[Problem]]]], done: str) -> int:
    async def all_of_them() -> int:
        code = 0
        for path in paths:
            book, problems = await run(path)
            for problem in problems:
                click.echo(f"labkit: {problem}", err=True)
            if not problems:
                click.echo(f"{visible(str(path))}: {len(book.cells)} cells {done}")
            code = FAILED if problems else code
        return code

    return asyncio.run(all_of_them())
