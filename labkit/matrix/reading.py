"""Reading a lab so that it can be judged: by its own reader, and by one that has no connection yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from labkit.lab.lab import Lab
from labkit.matrix.cells import COLD, WARM
from labkit.matrix.evidence import Observation
from labkit.reader import ShardReader
from labkit.result import ReadResult

__all__ = ["Read", "Reads", "cold_read", "observed", "our_reads"]


@dataclass(frozen=True)
class Read:
    """One read: who read, and what came of it."""

    who: str
    seen: Observation
    result: ReadResult | None = None
    """Of a reader that returns one; it draws the timeline."""


Reads: TypeAlias = "Callable[[], Awaitable[list[Read]]]"
"""Reads the shards in each of the ways that are judged, at the same time."""


def our_reads(lab: Lab) -> Reads:
    """By the lab's reader, and at the same time by one without connections, which is closed after that."""

    async def read() -> list[Read]:
        return list(await asyncio.gather(_read(WARM, lab.reader), cold_read(lab)))

    return read


async def cold_read(lab: Lab) -> Read:
    """By a reader made for it."""
    async with ShardReader(lab.router, lab.sources(), timeout=lab.timeout) as reader:
        return await _read(COLD, reader)


async def _read(who: str, reader: ShardReader) -> Read:
    clock = asyncio.get_running_loop().time
    started = clock()
    try:
        result = await reader.read()
    except Exception as error:
        return Read(who, Observation(None, clock() - started, error=f"{type(error).__name__}: {error}"))
    return Read(who, observed(result, clock() - started), result)


def observed(result: ReadResult, elapsed: float) -> Observation:
    """What a result says; `elapsed` by the clock of who waited for it."""
    rows = [(row["id"], row["name"]) for row in result.table.to_pylist()]
    statuses = {shard: report.status for shard, report in result.reports.items()}
    return Observation(rows, elapsed, result.missing, statuses)
