"""The concurrent shard reader: asks every shard at once, under one absolute deadline, and says what is missing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import pyarrow as pa

from labkit.answer import check
from labkit.errors import ShardUnavailable, UsageError
from labkit.merge import join, merge
from labkit.result import ReadResult, ShardReport
from labkit.router import RangeRouter, Ranges, ShardKey, as_id
from labkit.shards.base import Ask, Shard
from labkit.shards.failures import classify
from labkit.status import Status

__all__ = ["GRACE", "ShardReader"]

GRACE = 0.02
"""Seconds past the deadline that a shard gets to give up by itself before the reader returns without it."""

_LATE = (Status.TIMEOUT, "no answer before the deadline")


class ShardReader:
    """Reads a table that is distributed by ID range over shards: scatter, gather, merge.

    `shards` maps each shard of `router` to its source. `timeout` is in seconds and covers connecting,
    querying, fetching and checking. The reader owns the shards: `aclose()` closes them.
    Raises `UsageError` (a ValueError) for a shard without a source or without a range, and for a timeout
    that is not a positive number.
    """

    def __init__(self, router: RangeRouter, shards: Mapping[Any, Shard], timeout: float = 2.0) -> None:
        self.router = router
        self.shards = _matched(router, shards)
        self.timeout = positive_seconds(timeout)
        self._strays: set[asyncio.Task[Any]] = set()
        for source in self.shards.values():
            source.prepare(self.timeout)

    async def read(self, low: int | None = None, high: int | None = None) -> ReadResult:
        """Rows with low <= id <= high (None = open end) from all shards that can hold them.

        Never raises for a shard's failure, and returns within `timeout` (+ 50 ms) whatever the shards do.
        Raises `RangeError` (a ValueError) where low > high or a bound is not an integer.
        """
        started = asyncio.get_running_loop().time()
        plan = self.router.prune(low, high)
        outcomes = await self._scatter(plan, low, high)
        return self._gather(plan, outcomes, started)

    async def get(self, row_id: int) -> dict[str, Any] | None:
        """The row `{"id": …, "name": …}`, or None where there is none; asks only the shard that owns it.

        Raises `ShardUnavailable` when that shard failed, `RangeError` for what is not an integer.
        """
        row_id = as_id(row_id)
        result = await self.read(row_id, row_id)
        for report in result.reports.values():
            if report.failed:
                raise ShardUnavailable(row_id, report)
        rows = result.table.to_pylist()
        return rows[0] if rows else None

    async def aclose(self) -> None:
        """Closes all connections, and whatever an abandoned read left; the reader is not used after that.

        A source that does not close is given up after `timeout`; the failure of one is raised when all are done.
        """
        for task in self._strays:
            task.cancel()
        if self._strays:
            await asyncio.wait(self._strays, timeout=GRACE)
        closing = [asyncio.ensure_future(source.aclose()) for source in self.shards.values()]
        done, hanging = await asyncio.wait(closing, timeout=self.timeout)
        for task in hanging:
            self._let_go(task)
        for task in closing:
            if task in done:
                task.result()

    async def __aenter__(self) -> ShardReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _scatter(
        self, plan: Mapping[Any, Ranges], low: int | None, high: int | None
    ) -> dict[ShardKey, tuple[ShardReport, pa.Table | None]]:
        """Asks all shards of the plan; each has an outcome when this returns, the deadline at the latest.

        A task that outlives the deadline is cancelled and let go, not awaited: drivers may take
        seconds to take back a query from a server that does not answer.
        """
        if not plan:
            return {}
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = started + self.timeout
        tasks = {
            shard: loop.create_task(self._ask(shard, Ask(ranges, low, high, deadline), started))
            for shard, ranges in plan.items()
        }
        try:
            await asyncio.wait(tasks.values(), timeout=self.timeout + GRACE)
        finally:
            for task in tasks.values():
                self._let_go(task)
        late = loop.time() - started
        return {
            shard: task.result() if task.done() and not task.cancelled() else _lost(shard, plan[shard], late)
            for shard, task in tasks.items()
        }

    async def _ask(self, shard: ShardKey, ask: Ask, origin: float) -> tuple[ShardReport, pa.Table | None]:
        """One shard's outcome; every exception becomes a status here, and nowhere else."""
        clock = asyncio.get_running_loop().time
        started = clock()
        table = None
        try:
            table = check(await self.shards[shard].read(ask), ask.ranges)
            status, cause = Status.OK, None
        except Exception as error:
            status, cause = classify(error)
        ended = clock()
        if status is Status.OK and ended > ask.deadline:
            table, (status, cause) = None, _LATE
        rows = 0 if table is None else table.num_rows
        return ShardReport(shard, status, rows, started - origin, ended - started, cause, ask.ranges), table

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        if not task.done():
            task.cancel()
            self._strays.add(task)
            task.add_done_callback(self._strays.discard)

    def _gather(
        self,
        plan: Mapping[Any, Ranges],
        outcomes: Mapping[Any, tuple[ShardReport, pa.Table | None]],
        started: float,
    ) -> ReadResult:
        answers = {shard: table for shard, (_, table) in outcomes.items() if table is not None}
        table = merge(plan, answers)
        reports = {shard: outcomes[shard][0] if shard in outcomes else _skipped(shard) for shard in self.router.shards}
        return ReadResult(
            table=table,
            reports=reports,
            missing=join(plan, [shard for shard in plan if shard not in answers]),
            elapsed=asyncio.get_running_loop().time() - started,
            timeout=self.timeout,
        )


def positive_seconds(timeout: float) -> float:
    """`timeout` when it is a positive, finite number of seconds; else `UsageError`."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise UsageError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)


def _matched(router: RangeRouter, shards: Mapping[Any, Shard]) -> dict[ShardKey, Shard]:
    for shard in shards:
        if shard not in router.shards:
            raise UsageError(f"unknown shard {shard!r}: the router has {list(router.shards)}")
    for shard in router.shards:
        if shard not in shards:
            raise UsageError(f"shard {shard!r} has ranges but no source: pass one in `shards`")
        if not isinstance(shards[shard], Shard):
            raise UsageError(f"shard {shard!r}: {shards[shard]!r} is no source of rows (read, prepare, aclose)")
    return {shard: shards[shard] for shard in router.shards}


def _lost(shard: ShardKey, ranges: Ranges, elapsed: float) -> tuple[ShardReport, None]:
    status, cause = _LATE
    return ShardReport(shard, status, 0, 0.0, elapsed, cause, ranges), None


def _skipped(shard: ShardKey) -> ShardReport:
    return ShardReport(shard, Status.SKIPPED, 0, 0.0, 0.0, None, ())
