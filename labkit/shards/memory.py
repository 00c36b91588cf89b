"""`MemoryShard`: the public test mode. A shard without a server, as slow, wrong or broken as you like."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labkit.answer import Answer
from labkit.shards.base import Ask, Shard
from labkit.tables import SCHEMA

__all__ = ["MemoryShard"]


class MemoryShard(Shard):
    """Rows in memory, for tests of readers and of code that uses them.

    `rows` are (id, name) pairs, or a `pyarrow.Table` with the key first, returned as they are: unsorted, repeated or
    foreign rows are for the reader to detect. `delay` is in seconds; `error` is raised after it. All three may be
    changed between reads.

    >>> slow = MemoryShard([(1, "Test 1")], delay=3.0)
    >>> broken = MemoryShard(error=ConnectionRefusedError("connection refused"))
    """

    def __init__(
        self,
        rows: Iterable[Sequence[Any]] | pa.Table = (),
        *,
        delay: float = 0.0,
        error: BaseException | None = None,
    ) -> None:
        self.rows = rows if isinstance(rows, pa.Table) else list(rows)
        self.delay = delay
        self.error = error
        self.asks: list[Ask] = []
        """The queries so far, in order."""

    def prepare(self, timeout: float) -> None:
        """Nothing to prepare."""

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window (the first `ask.limit`) after `delay` seconds, or `error`; waits until the deadline at
        most.
        """
        self.asks.append(ask)
        async with asyncio.timeout_at(ask.deadline):
            await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        if isinstance(self.rows, pa.Table):
            return _part(self.rows, ask)
        return [row for row in self.rows if _inside(row, ask)][: ask.limit]

    async def describe(self, deadline: float) -> pa.Schema:
        """The columns of its rows; without `delay` or `error`."""
        return self.rows.schema if isinstance(self.rows, pa.Table) else SCHEMA

    async def aclose(self) -> None:
        """Nothing to close."""


def _part(table: pa.Table, ask: Ask) -> pa.Table:
    """The rows in the window; those without a key are outside every bounded one."""
    for bound, inside in ((ask.low, pc.greater_equal), (ask.high, pc.less_equal)):
        if bound is not None:
            table = table.filter(inside(table.column(0), bound))
    return table.slice(0, ask.limit)


def _inside(row: Any, ask: Ask) -> bool:
    """Whether a server would return this row; one without an integer ID is outside every bounded window."""
    try:
        row_id = row[0]
        return (ask.low is None or row_id >= ask.low) and (ask.high is None or row_id <= ask.high)
    except (TypeError, IndexError):
        return ask.low is None and ask.high is None
