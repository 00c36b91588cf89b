"""The concurrent shard reader: asks all shards at once under one absolute deadline, and reports what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any

import pyarrow as pa

from labkit._checks import as_names, positive_integer, positive_seconds, shown
from labkit._filters import Filters, as_filters
from labkit._types import ShardKey
from labkit.aggregates import Aggregate
from labkit.errors import ShardUnavailable, UsageError
from labkit.reads.aggregating import Aggregation
from labkit.reads.paging import Page
from labkit.reads.streaming import Stream
from labkit.reads.watching import Results, Watches
from labkit.result import AggregateResult, ReadResult
from labkit.router import RangeRouter, as_id, as_window
from labkit.scatter import Question, Scatter, gather
from labkit.shards.base import Shard
from labkit.tables import SCHEMA

__all__ = ["ShardReader"]


class ShardReader:
    """Reads a table that is distributed by ID range over shards: scatter, gather, merge.

    `shards` maps each shard of `router` to its source. `timeout` is in seconds and covers connecting,
    querying, fetching and checking. The reader owns the shards: `aclose()` closes them.
    Raises `UsageError` (a ValueError) if `router` is not a `RangeRouter`, if a shard has no source or no range, or if
    `timeout` is not a positive number of at most 2,147,483 (24 days).
    """

    def __init__(self, router: RangeRouter, shards: Mapping[Any, Shard], timeout: float = 2.0) -> None:
        self._router = router
        self._shards = MappingProxyType(_matched(router, shards))
        self._timeout = positive_seconds(timeout)
        self._scatter = Scatter(self._shards)
        self._aggregation = Aggregation(self._scatter, router, self._timeout)
        self._watches = Watches(self._scatter, router, self._timeout)
        self._closed = False
        for source in self._shards.values():
            source.prepare(self._timeout)

    @property
    def router(self) -> RangeRouter:
        """Which shard owns which IDs. Read-only, like `shards` and `timeout`: connections and watches rely on them."""
        return self._router

    @property
    def shards(self) -> Mapping[Any, Shard]:
        """The source of each shard, in the router's order."""
        return self._shards

    @property
    def timeout(self) -> float:
        """Seconds a read may take."""
        return self._timeout

    @property
    def schema(self) -> pa.Schema | None:
        """The columns that most shards had when last read in whole, the key first; None before the first answer."""
        return self._scatter.columns.common()

    @property
    def closed(self) -> bool:
        """True once `aclose()` was called; every read then raises `UsageError`."""
        return self._closed

    async def describe(self) -> pa.Schema | None:
        """Asks all shards for their columns, at once; returns those that most have, the key first, and None if no shard
        says any within `timeout`.
        """
        self._check_open()
        return await self._scatter.columns.describe(asyncio.get_running_loop().time() + self._timeout)

    async def read(
        self,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> ReadResult:
        """Rows with low <= key <= high (None = open end) from all shards that can hold them.

        `columns` are those wanted besides the key, which comes first; None is all. All rows of a result have the same
        columns, those of most shards: a shard that has others is `invalid`, and its rows are missing (see
        `labkit.merge.agreed`). `filters` are conditions on columns, as pandas and pyarrow take them (see
        `labkit._filters`): rows for which they hold are returned, and `missing` is what it would be without them.
        `missing` is exact under the router's map: rows on a shard that does not own them are neither found nor missing.
        Never raises for a shard's failure, and returns within `timeout` (+ 50 ms) whatever the shards do.
        Raises `RangeError` (a ValueError) if low > high or a bound is not an integer, `UsageError` for a column that no
        shard has, and for filters that do not fit the columns.
        """
        self._check_open()
        low, high = _bound(low, "low"), _bound(high, "high")
        names, wanted = _selection(columns, filters)
        clock, shards, seconds = asyncio.get_running_loop().time, self._router.shards, self._timeout
        started = clock()
        plan = self._router.prune(low, high)
        outcomes = await self._scatter.ask(Question(plan, low, high, started + seconds, columns=names, filters=wanted))
        answered = any(outcome.rows is not None for outcome in outcomes.values())
        schema = SCHEMA if answered else self._scatter.columns.schema(names)
        return await gather(plan, outcomes, shards, elapsed=clock() - started, seconds=seconds, schema=schema)

    async def get(self, row_id: int, *, columns: Sequence[str] | None = None) -> dict[str, Any] | None:
        """The row, such as `{"id": …, "name": …}`; None if the ID's owner has no such row, or if no shard owns the ID.

        Asks only the owner for rows. Raises `ShardUnavailable` if that shard failed, `RangeError` if `row_id` is not an
        integer.
        """
        row_id = as_id(row_id)
        result = await self.read(row_id, row_id, columns=columns)
        for report in result.reports.values():
            if report.failed:
                raise ShardUnavailable(row_id, report)
        rows = result.table.to_pylist()
        return rows[0] if rows else None

    async def aggregate(
        self,
        *aggregates: Aggregate,
        low: int | None = None,
        high: int | None = None,
        filters: Sequence[Any] | None = None,
        bounds: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> list[AggregateResult]:
        """What `labkit.aggregates` makes: `await reader.aggregate(count(), sum_("amount"), top(10, "amount"))`, of the
        rows with low <= key <= high for which the filters hold; a result for each.

        Postgres computes its part on the server, in one statement; rows of other shards are read. Each result says what
        is missing, and bounds of the true value as far as they are known: of a count always; of others if `bounds` says
        what a value can be, `{"amount": (0, 500)}`, or CHECK constraints do. A CHECK counts if all shards that answered
        have it, and those that are silent had it when they last did; one that never did is taken to have it.
        Never raises for a shard's failure. Raises `RangeError` as `read` does, `UsageError` for what is not an
        aggregate, and for columns, filters and bounds that do not fit.
        """
        self._check_open()
        if not aggregates or not all(isinstance(one, Aggregate) for one in aggregates):
            odd = next((one for one in aggregates if not isinstance(one, Aggregate)), None)
            raise UsageError(f"aggregate() takes count(), sum_(column), … of labkit.aggregates, not {shown(odd)}")
        low, high = _bound(low, "low"), _bound(high, "high")
        return await self._aggregation.read(aggregates, low, high, as_filters(filters), bounds)

    async def page(
        self,
        size: int,
        after: int | None = None,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> ReadResult:
        """At most `size` rows with id > `after` (None: from the start), in [low, high].

        Only shards whose ranges can be on the page are asked, under one deadline. A page that meets a failed shard ends
        early, and `missing` holds the gaps inside it; `result.next` is the `after` of the next page, None at the end.
        Raises `UsageError` for a size below 1, `RangeError` if low > high or an ID is not an integer.
        """
        self._check_open()
        low, high = _bound(low, "low"), _bound(high, "high")
        size = positive_integer(size, "the size of a page")
        page = Page(self._scatter.ask, self._router, self._timeout, size, *_selection(columns, filters))
        return await page.read(after, low, high)

    def pages(
        self,
        size: int = 1000,
        after: int | None = None,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> AsyncGenerator[ReadResult, None]:
        """All pages from `after` on, ascending: `async for result in reader.pages(size=100)`. See `page`.

        Each row is on exactly one page, or its ID is in one page's `missing`, whatever fails or recovers between two
        pages.
        """
        self._check_open()
        positive_integer(size, "the size of a page")
        low, high = _window(low, high)
        _selection(columns, filters)
        page = partial(self.page, size, low=low, high=high, columns=columns, filters=filters)
        return _Pages(page, None if after is None else as_id(after, "after"))

    def stream(
        self,
        batch: int = 65_536,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> Stream:
        """All rows in [low, high] in batches of at most `batch` rows: `async for record_batch in reader.stream()`.

        Batches are `pyarrow.RecordBatch`, ascending by id over all shards; memory is bounded by the batch, not by the
        table. `timeout` bounds each wait for a shard, not the whole. `stream.missing` holds the gaps; see `Stream`.
        Raises `UsageError` for a batch below 1, `RangeError` if low > high or a bound is not an integer.
        """
        self._check_open()
        low, high = _window(low, high)
        size = positive_integer(batch, "the size of a batch")
        return Stream(self._scatter.ask, self._router, self._timeout, size, low, high, *_selection(columns, filters))

    def watch(
        self,
        low: int | None = None,
        high: int | None = None,
        interval: float = 1.0,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> Results:
        """The rows in [low, high] now, and again whenever they change: `async for result in reader.watch()`.

        Each shard is read again `interval` seconds after its last read ended, so every change, failure and recovery is
        seen within the interval plus the time of two reads. A server that sends notifications shows changes sooner:
        Postgres by NOTIFY, if the table has the trigger of `labkit.shards.postgres.change_trigger`; Redis if
        `notify-keyspace-events` has K, g and z. Reads of a shard never overlap, and after each it rests for as long as
        the read took. A slow consumer gets the latest result, not a queue. Consumers with the same arguments on the
        same event loop share their reads; all consumers on one loop share one listening connection per shard. A watch
        ends when the reader is closed, or with the event loop where it began; on another loop it raises `UsageError`.
        Raises `RangeError` if low > high, `UsageError` if the interval is not a positive number.
        """
        self._check_open()
        low, high = _window(low, high)
        return self._watches.results(low, high, positive_seconds(interval, "interval"), *_selection(columns, filters))

    async def aclose(self) -> None:
        """Closes all connections on all event loops, and ends abandoned reads. Watches end; reads under way return at
        once with what they have, the other shards as `error`; later reads raise `UsageError`.

        A source that does not close is given up after `timeout`; if closing one fails, its exception is raised once all
        are done.
        """
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self._watches.aclose()
        await self._scatter.aclose(self._timeout)

    async def __aenter__(self) -> ShardReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this reader was closed: make another one")


class _Pages(AsyncGenerator[ReadResult, None]):
    """Page by page; it is not tied to an event loop, so another one may continue it."""

    def __init__(self, page: Callable[[int | None], Awaitable[ReadResult]], after: int | None) -> None:
        self._page, self._after = page, after
        self._first, self._over = True, False

    async def asend(self, _value: None) -> ReadResult:
        """The next page with rows or gaps; the first page in any case."""
        while not self._over:
            result = await self._page(self._after)
            wanted = self._first or result.table.num_rows or result.missing
            self._first, self._after, self._over = False, result.next, result.next is None
            if wanted:
                return result
        raise StopAsyncIteration

    async def athrow(self, kind: Any, value: Any = None, trace: Any = None) -> ReadResult:
        """Ends the pages, and raises what was thrown."""
        self._over = True
        raise kind if value is None else value


def _bound(value: int | None, what: str) -> int | None:
    """A bound as shards take it: a plain int, whatever kind of integer it was."""
    return value if value is None or type(value) is int else as_id(value, what)


def _selection(
    columns: Sequence[str] | None, filters: Sequence[Any] | None
) -> tuple[tuple[str, ...] | None, Filters | None]:
    """The columns and filters of a read, checked as far as they can be without knowing the table."""
    return None if columns is None else as_names(columns), as_filters(filters)


def _window(low: int | None, high: int | None) -> tuple[int | None, int | None]:
    as_window(low, high)
    return _bound(low, "low"), _bound(high, "high")


def _matched(router: RangeRouter, shards: Mapping[Any, Shard]) -> dict[ShardKey, Shard]:
    if not isinstance(router, RangeRouter):
        raise UsageError(f"a reader needs a RangeRouter({{shard: [(low, high), …]}}), not {shown(router)}")
    for shard in shards:
        if shard not in router.shards:
            raise UsageError(f"unknown shard {shard!r}: the router has {list(router.shards)}")
    for shard in router.shards:
        if shard not in shards:
            raise UsageError(f"shard {shard!r} has ranges but no source: pass one in `shards`")
        if not isinstance(shards[shard], Shard):
            raise UsageError(f"shard {shard!r}: {shown(shards[shard])} is not a source of rows (read, prepare, aclose)")
    return {shard: shards[shard] for shard in router.shards}
