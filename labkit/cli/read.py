"""`labkit read`: reads the shards of a topology file once, for people or as data."""

from __future__ import annotations

import asyncio
import csv
import io
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console

from labkit._checks import as_names, positive_integer
from labkit._filters import parsed
from labkit._streams import is_terminal
from labkit.cli.files import STDOUT, check_target, write
from labkit.cli.formats import BINARY, format_of, render, rendered_for_terminal
from labkit.errors import UsageError
from labkit.report import ShardReport
from labkit.result import ReadResult
from labkit.router import as_id, as_window
from labkit.show.facts import headline
from labkit.show.format import plain
from labkit.topology import Topology, load

__all__ = ["Output", "Query", "causes", "command", "summary"]


@dataclass(frozen=True)
class Query:
    """Which rows to read: all in a window, or one page of it; which columns of them, and for which filters hold."""

    low: int | None
    high: int | None
    limit: int | None
    after: int | None
    columns: tuple[str, ...] | None
    filters: list[tuple[Any, ...]] | None

    def check(self) -> None:
        """`UsageError` for values that no read accepts."""
        as_window(self.low, self.high)
        if self.limit is not None:
            positive_integer(self.limit, "the size of a page")
        if self.after is not None:
            as_id(self.after, "after")
            if self.limit is None:
                raise UsageError(f"--after {self.after} continues a page: pass --limit too, or use --low instead")

    async def read(self, topology: Topology) -> ReadResult:
        """Connects, reads once and closes everything."""
        wanted: dict[str, Any] = {"columns": self.columns, "filters": self.filters}
        async with topology.reader() as reader:
            if self.limit is None:
                return await reader.read(self.low, self.high, **wanted)
            return await reader.page(self.limit, self.after, self.low, self.high, **wanted)


@dataclass(frozen=True)
class Output:
    """Where to write, and in which format; "-" is stdout."""

    path: str
    format: str

    @classmethod
    def of(cls, path: str, name: str | None) -> Output:
        """The format defaults to that of the file's suffix; `UsageError` for an output that cannot be written."""
        if name is None:
            name = "table" if path == STDOUT else format_of(path)
        check_target("--output", path)
        output = cls(path, name)
        if name in BINARY and output.is_terminal:
            raise UsageError(f"{name} is binary and cannot go to a terminal: pass --output FILE, or pipe it")
        return output

    @property
    def is_terminal(self) -> bool:
        """Whether the output is a terminal, which obeys control characters."""
        return sys.stdout.isatty() if self.path == STDOUT else is_terminal(self.path)

    def write(self, result: ReadResult) -> None:
        """Writes the result. If the output holds rows only, stderr gets a summary with what is missing."""
        shown = self.path == STDOUT and self.format == "table"
        rendered = rendered_for_terminal if self.is_terminal else render
        write(self.path, _for_terminal(result) if shown else rendered(result, self.format))
        rows_only = not shown and (not result.complete or sys.stderr.isatty())
        if rows_only or result.next is not None:
            click.echo(f"labkit: {summary(result)}", err=True)


def command(
    topology: str,
    timeout: float | None,
    format: str | None,  # noqa: A002
    output: str,
    strict: bool,
    columns: str | None,
    filters: Sequence[str],
    **window: Any,
) -> int:
    """Reads and writes; returns the exit code. Raises `IncompleteRead`, with nothing written, if a strict read is not
    complete.
    """
    names = None if columns is None else as_names(next(csv.reader([columns], skipinitialspace=True), []))
    query = Query(**window, columns=names, filters=[parsed(text) for text in filters])
    query.check()
    target = Output.of(output, format)
    with _ended_by_sigterm():
        result = asyncio.run(query.read(load(topology).within(timeout)))
        if strict:
            result.raise_for_missing()
        target.write(result)
    return 0


def _for_terminal(result: ReadResult) -> bytes:
    """The result as rich prints it on this stdout, in colour if supported."""
    stdout, text = Console(), io.StringIO()
    Console(file=text, width=stdout.width, force_terminal=stdout.is_terminal, no_color=stdout.no_color).print(result)
    return text.getvalue().encode(sys.stdout.encoding or "utf-8", errors="replace")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that no half-written file is left."""

    def end(signum: int, _frame: Any) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_NAMED = 3
"""Failed shards named with their causes; further ones are only counted."""


def summary(result: ReadResult) -> str:
    """The result on one line: how many rows, what is missing and why, and where the next page starts."""
    parts = [headline(result), *causes(result.reports.values())]
    if result.next is not None:
        parts.append(f"continue with --after {result.next}")
    return "; ".join(parts)


def causes(reports: Iterable[ShardReport]) -> list[str]:
    """Why shards failed, for the first of them."""
    failed = [report for report in reports if report.failed]
    causes = [f"shard {plain(r.shard)} {r.status}: {plain(r.error or 'no cause given')}" for r in failed[:_NAMED]]
    return [*causes, f"{len(failed) - _NAMED} more shards"] if len(failed) > _NAMED else causes
