"""A whole table in batches, in the order of its IDs: as much memory as two batches take, however long the table is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import pyarrow as pa

from labkit._loops import on
from labkit._types import Range, Ranges, ShardKey
from labkit.errors import IncompleteRead, UsageError
from labkit.reads.paging import Page, joined
from labkit.report import ShardReport
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.scatter import GRACE, Asks, Outcome, skipped
from labkit.tables import SCHEMA

__all__ = ["Stream"]


class Stream:
    """`async for batch in stream` gives pyarrow RecordBatches (id, name), ascending by id over all shards.

    A batch has `size` rows at most, and is never empty. While one is handled the next is read. A shard that fails is
    not asked again by this stream: all that it owns from there on is missing, and the rows of the others go on.
    `aclose()` ends it early, as leaving `async with` does. Batches are of different moments, as pages are: a row that
    is written meanwhile is there where the stream has not passed it.
    """

    def __init__(
        self, scatter: Asks, router: RangeRouter, timeout: float, size: int, low: int | None, high: int | None
    ) -> None:
        self._scatter = _AskedUntilFailed(scatter)
        self._router, self._timeout, self._size = router, timeout, size
        self._low, self._high = low, high
        self._reports: dict[ShardKey, ShardReport] = {}
        self._ranges: dict[ShardKey, list[Range]] = {}
        """Those asked of each shard so far; its report has them when it is asked for."""
        self._missing: list[Range] = []
        self._coming: asyncio.Task[ReadResult] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False
        self._origin = self._asked = self._elapsed = 0.0

    @property
    def missing(self) -> Ranges:
        """ID ranges that nobody answered for, ascending, merged where they touch; of all, once the stream ended."""
        return tuple(self._missing)

    @property
    def complete(self) -> bool:
        """True as long as nothing is missing."""
        return not self._missing

    @property
    def reports(self) -> Mapping[Any, ShardReport]:
        """How each shard did so far, in the router's order; seconds are from the stream's start."""
        reports = {shard: self._reports.get(shard) or skipped(shard) for shard in self._router.shards}
        return {shard: replace(r, ranges=tuple(self._ranges.get(shard, ()))) for shard, r in reports.items()}

    def raise_for_missing(self) -> None:
        """Raises `IncompleteRead` where something is missing so far; it names ranges, shards and causes."""
        if self._missing:
            result = ReadResult(SCHEMA.empty_table(), self.reports, self.missing, self._elapsed, self._timeout)
            raise IncompleteRead(result, [report for report in self._reports.values() if report.failed])

    async def aclose(self) -> None:
        """Ends the stream, also for who waits for a batch just now; what is being read is let go."""
        self._over = True
        coming = self._coming
        self._leave()
        if coming is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait([coming], timeout=GRACE)

    def __del__(self) -> None:
        self._leave()  # a loop over it was left; nobody can ask for the next batch

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> pa.RecordBatch:
        loop = asyncio.get_running_loop()
        if self._loop is None and not self._over:
            self._loop, self._origin = loop, loop.time()
            self._begin(None)
        if self._loop not in (None, loop):
            raise UsageError("a stream stays on the event loop where it began: call stream() again on this one")
        while (coming := self._coming) is not None:
            try:
                await asyncio.wait([coming])
            except BaseException:
                self._leave()  # the caller left
                raise
            if self._coming is coming:  # nobody closed the stream meanwhile
                page, asked = coming.result(), self._asked
                self._coming = None
                if page.next is not None:
                    self._begin(page.next)
                self._note(page, asked)
                if page.table.num_rows:
                    return page.table.combine_chunks().to_batches()[0]
        raise StopAsyncIteration

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begin(self, after: int | None) -> None:
        """Has the page behind `after` read, while the caller does something else."""
        page = Page(self._scatter, self._router, self._timeout, self._size)
        self._asked = asyncio.get_running_loop().time() - self._origin
        self._coming = asyncio.create_task(page.read(after, self._low, self._high))

    def _leave(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            on(coming.get_loop(), coming.cancel)

    def _note(self, page: ReadResult, later: float) -> None:
        self._elapsed = asyncio.get_running_loop().time() - self._origin
        gaps = page.missing
        if gaps and self._missing and self._missing[-1][1] + 1 == gaps[0][0]:
            gaps = ((self._missing.pop()[0], gaps[0][1]), *gaps[1:])
        self._missing += gaps
        for shard, report in page.reports.items():
            if not report.ranges:
                continue
            self._ranges.setdefault(shard, []).extend(report.ranges)
            earlier = self._reports.get(shard)
            if earlier is None or not earlier.failed:  # else it was not asked again
                self._reports[shard] = joined(earlier, replace(report, started=later + report.started, ranges=()))


class _AskedUntilFailed:
    """Asks as the scatter does that it is made of; for a shard that has failed once, the answer is known."""

    def __init__(self, scatter: Asks) -> None:
        self._whole = scatter
        self._failed: dict[ShardKey, ShardReport] = {}

    async def ask(
        self,
        plan: Mapping[Any, Ranges],
        low: int | None,
        high: int | None,
        deadline: float,
        *,
        limit: int | None = None,
    ) -> dict[ShardKey, Outcome]:
        """See `Scatter.ask`."""
        living = {shard: ranges for shard, ranges in plan.items() if shard not in self._failed}
        outcomes = await self._whole.ask(living, low, high, deadline, limit=limit)
        for shard, outcome in outcomes.items():
            if outcome.report.failed:
                self._failed[shard] = outcome.report
        return {
            shard: outcomes.get(shard) or Outcome(replace(self._failed[shard], ranges=ranges, elapsed=0.0), None)
            for shard, ranges in plan.items()
        }
