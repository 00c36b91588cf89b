"""`labkit read`: one read of the shards of a topology file, for people or as data."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console

from labkit._checks import positive_integer
from labkit._streams import is_terminal
from labkit.cli.files import STDOUT, check_target, write
from labkit.cli.formats import BINARY, format_of, render, rendered_for_terminal
from labkit.cli.summary import summary
from labkit.errors import UsageError
from labkit.result import ReadResult
from labkit.router import as_id, as_window
from labkit.topology import Topology, load

__all__ = ["Target", "Wanted", "command"]


@dataclass(frozen=True)
class Wanted:
    """Which rows: all of a window, or a page of it."""

    low: int | None
    high: int | None
    limit: int | None
    after: int | None

    def check(self) -> None:
        """`UsageError` for what no read can be asked for."""
        as_window(self.low, self.high)
        if self.limit is not None:
            positive_integer(self.limit, "the size of a page")
        if self.after is not None:
            as_id(self.after, "after")
            if self.limit is None:
                raise UsageError(f"--after {self.after} is where a page goes on: pass --limit too, or --low instead")

    async def read(self, topology: Topology) -> ReadResult:
        """Connects, reads once, and closes everything."""
        async with topology.reader() as reader:
            if self.limit is None:
                return await reader.read(self.low, self.high)
            return await reader.page(self.limit, self.after, self.low, self.high)


@dataclass(frozen=True)
class Target:
    """Where to and in which format; "-" is stdout."""

    path: str
    format: str

    @classmethod
    def of(cls, path: str, name: str | None) -> Target:
        """The format is what is said, else what the file's suffix means; `UsageError` for what cannot be written."""
        if name is None:
            name = "table" if path == STDOUT else format_of(path)
        check_target("--output", path)
        target = cls(path, name)
        if name in BINARY and target.is_terminal:
            raise UsageError(f"{name} is not for a terminal: pass --output FILE, or pipe it on")
        return target

    @property
    def is_terminal(self) -> bool:
        """Whether it obeys what is in data."""
        return sys.stdout.isatty() if self.path == STDOUT else is_terminal(self.path)

    def write(self, result: ReadResult) -> None:
        """Writes the result; what it admits to be missing is said on stderr where its rows stand alone."""
        shown = self.path == STDOUT and self.format == "table"
        rendered = rendered_for_terminal if self.is_terminal else render
        write(self.path, _for_terminal(result) if shown else rendered(result, self.format))
        apart = not shown and (not result.complete or sys.stderr.isatty())
        if apart or result.next is not None:
            click.echo(f"labkit: {summary(result)}", err=True)


def command(
    topology: str,
    timeout: float | None,
    format: str | None,  # noqa: A002
    output: str,
    strict: bool,
    **window: Any,
) -> int:
    """Reads and writes; returns the exit code. Raises `IncompleteRead` where a strict read is not complete, and has
    written nothing then.
    """
    wanted = Wanted(**window)
    wanted.check()
    target = Target.of(output, format)
    with _ended_by_sigterm():
        result = asyncio.run(wanted.read(load(topology).within(timeout)))
        if strict:
            result.raise_for_missing()
        target.write(result)
    return 0


def _for_terminal(result: ReadResult) -> bytes:
    """As rich would print it on this stdout, in colours where it has them."""
    there, text = Console(), io.StringIO()
    Console(file=text, width=there.width, force_terminal=there.is_terminal, no_color=there.no_color).print(result)
    return text.getvalue().encode(sys.stdout.encoding or "utf-8", errors="replace")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is done here as an exception does, so that no half-written file is left."""

    def end(signum: int, _frame: Any) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
