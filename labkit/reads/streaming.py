"""A whole table in batches, in the order of its IDs: it takes the memory of two batches, however long the table is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import pyarrow as pa

from labkit._filters import Filters
from labkit._loops import on
from labkit._types import Range, Ranges, ShardKey
from labkit.errors import IncompleteRead, UsageError
from labkit.reads.paging import Page
from labkit.report import ShardReport, combined, skipped
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.scatter import GRACE, AskShards, Question, ShardOutcome
from labkit.tables import SCHEMA

__all__ = ["Stream"]


class Stream:
    """`async for batch in stream` gives pyarrow RecordBatches, ascending by key over all shards.

    A batch has at most `size` rows and is never empty. The next one is read while you handle the current one. A shard
    that fails is not asked again by this stream: everything it owns from there on is missing, and the rows of the
    others continue. `aclose()` ends it early, and so does leaving `async with`. Batches are read at different moments,
    as pages are: a row written meanwhile appears if the stream has not passed its ID yet.
    """

    def __init__(
        self,
        ask: AskShards,
        router: RangeRouter,
        timeout: float,
        size: int,
        low: int | None,
        high: int | None,
        columns: tuple[str, ...] | None = None,
        filters: Filters | None = None,
    ) -> None:
        self._ask = _until_failed(ask)
        self._router, self._timeout, self._size = router, timeout, size
        self._low, self._high, self._columns, self._filters = low, high, columns, filters
        self._schema: pa.Schema | None = None
        """The columns of the batches, once there was one."""
        self._reports: dict[ShardKey, ShardReport] = {}
        """Without their ranges, which are in `_ranges`."""
        self._ranges: dict[ShardKey, list[Range]] = {}
        """Those asked of each shard so far."""
        self._missing: list[Range] = []
        self._coming: asyncio.Task[ReadResult] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False
        self._origin = self._asked = self._elapsed = 0.0

    @property
    def missing(self) -> Ranges:
        """ID ranges that no shard answered for so far, ascending, merged where they touch."""
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
        """Raises `IncompleteRead` if anything is missing so far; it names ranges, shards and causes."""
        if self._missing:
            result = ReadResult(
                (self._schema or SCHEMA).empty_table(), self.reports, self.missing, self._elapsed, self._timeout
            )
            raise IncompleteRead(result, [report for report in self._reports.values() if report.failed])

    async def aclose(self) -> None:
        """Ends the stream, also for a consumer that is waiting for a batch; the read under way is cancelled."""
        self._over = True
        coming = self._coming
        self._leave()
        if coming is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait([coming], timeout=GRACE)

    def __del__(self) -> None:
        self._leave()  # the consumer left its loop early, and nothing can ask for the next batch

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
            if self._coming is coming:  # the stream was not closed meanwhile
                page, asked = coming.result(), self._asked
                self._coming = None
                if page.table.num_rows:
                    self._schema = page.table.schema
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
        """Starts to read the page after `after`, in the background."""
        page = Page(self._ask, self._router, self._timeout, self._size, self._columns, self._filters, self._schema)
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
            if earlier is None or not earlier.failed:  # a shard that had failed was not asked again
                self._reports[shard] = combined(earlier, replace(report, started=later + report.started, ranges=()))


def _until_failed(ask: AskShards) -> AskShards:
    """Like `ask`, but a shard that has failed once is not asked again: it fails with the same cause."""
    failed: dict[ShardKey, ShardReport] = {}

    # Not a method of `Stream`: a running read would then keep an abandoned stream from being collected.
    async def ask_living(question: Question) -> dict[ShardKey, ShardOutcome]:
        living = {shard: ranges for shard, ranges in question.plan.items() if shard not in failed}
        outcomes = await ask(replace(question, plan=living))
        failed.update((shard, outcome.report) for shard, outcome in outcomes.items() if outcome.report.failed)
        return {
            shard: outcomes.get(shard) or ShardOutcome(replace(failed[shard], ranges=ranges, elapsed=0.0), None)
            for shard, ranges in question.plan.items()
        }

    return ask_living
