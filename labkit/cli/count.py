"""`labkit count`: counts the rows on the shards of a topology file, with bounds while a shard is missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import click

from labkit._filters import parsed
from labkit.aggregates import count
from labkit.cli.exits import FAILED
from labkit.cli.files import STDOUT, write
from labkit.cli.read import causes
from labkit.result import AggregateResult
from labkit.router import as_window
from labkit.show.facts import missing_text
from labkit.topology import Topology, load

__all__ = ["command"]


def command(
    topology: str,
    timeout: float | None,
    low: int | None,
    high: int | None,
    filters: Sequence[str],
    strict: bool,
    as_json: bool,
) -> int:
    """Counts and writes; returns the exit code, which is that of a failure if a strict count is not exact."""
    as_window(low, high)
    wanted = [parsed(text) for text in filters]
    counted = asyncio.run(_counted(load(topology).within(timeout), low, high, wanted))
    if not (strict and counted.missing):
        write(STDOUT, f"{json.dumps(counted.to_dict()) if as_json else _bounds(counted)}\n".encode())
    if counted.missing:
        said = [f"incomplete: missing {missing_text(counted.missing)}", *causes(counted.reports.values())]
        click.echo(f"labkit: {'; '.join(said)}", err=True)
    return FAILED if strict and counted.missing else 0


async def _counted(
    topology: Topology, low: int | None, high: int | None, filters: list[tuple[object, ...]]
) -> AggregateResult:
    async with topology.reader() as reader:
        [counted] = await reader.aggregate(count(), low=low, high=high, filters=filters)
        return counted


def _bounds(counted: AggregateResult) -> str:
    """The count; while a shard is missing, what it is at least and at most."""
    return f"{counted.value}" if counted.complete else f"{counted.at_least} to {counted.at_most}"
