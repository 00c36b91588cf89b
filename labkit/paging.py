"""Keyset paging by ID across shards: a page is read by one scatter over the few ranges that can be in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.answer import SCHEMA, to_ids
from labkit.errors import UsageError
from labkit.result import ReadResult, ShardReport
from labkit.router import INT64_MAX, RangeRouter, Ranges, ShardKey, Span, as_id, as_window
from labkit.scatter import Asks, Outcome, gather, skipped

__all__ = ["Page", "joined", "page_size"]


def page_size(size: int, what: str = "page") -> int:
    """`size` when it is a positive integer; else `UsageError`."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"the size of a {what} must be a positive integer, not {size!r}")
    return size


class Page:
    """One page of `size` rows at most; it is read once.

    Ranges that follow the cursor are asked until there are rows enough: first as few as could hold them if every ID
    were there, then twice as many each time, all under one deadline. A range that failed ends the page: what
    lies behind it is for the next one, when its shard may be back.
    """

    def __init__(self, scatter: Asks, router: RangeRouter, timeout: float, size: int) -> None:
        self._scatter, self._router, self._timeout, self._size = scatter, router, timeout, size
        self._rows: pa.Table = SCHEMA.empty_table()
        self._missing: Ranges = ()
        self._reports: dict[ShardKey, ShardReport] = {}

    async def read(self, after: int | None, low: int | None, high: int | None) -> ReadResult:
        """The page that begins behind `after`. See `ShardReader.page`."""
        clock = asyncio.get_running_loop().time
        origin = clock()
        start, end = as_window(low, high)
        if after is not None:
            after = as_id(after, "after")
            low = start = max(start, after + 1)  # beyond int64 no range begins
        upto: int | None = start - 1
        count = self._fewest(start, end)
        while upto is not None and not self._over(clock() - origin):
            window = list(islice(self._router.within(upto + 1, end), count + 1)) if upto < INT64_MAX else []
            upto = await self._extend(window[:count], window[count:], low, high, origin)
            low = None if upto is None else upto + 1
            count *= 2
        return ReadResult(
            table=self._rows,
            reports={shard: self._reports.get(shard) or skipped(shard) for shard in self._router.shards},
            missing=self._missing,
            elapsed=clock() - origin,
            timeout=self._timeout,
            next=upto,
        )

    def _over(self, elapsed: float) -> bool:
        """Full, or ended by a gap; or too late to give another question a fair time."""
        return self._rows.num_rows >= self._size or bool(self._missing) or elapsed > self._timeout / 2

    def _fewest(self, low: int, high: int) -> int:
        """How many ranges from `low` on have `size` IDs."""
        ids = count = 0
        for first, last, _ in self._router.within(low, high):
            ids += last - first + 1
            count += 1
            if ids >= self._size:
                break
        return max(count, 1)

    async def _extend(
        self, spans: list[Span], following: list[Span], low: int | None, high: int | None, origin: float
    ) -> int | None:
        """Asks for these ranges; returns up to which ID the page is known now, None where nothing follows."""
        if not spans:
            return None
        if following:
            high = following[0][0] - 1  # also what lies between two ranges, where no row should be
        wanted = self._size - self._rows.num_rows
        clock = asyncio.get_running_loop().time
        asked = clock()
        plan = _plan(spans)
        outcomes = await self._scatter.ask(plan, low, high, origin + self._timeout, limit=wanted)
        found = gather(plan, outcomes, tuple(plan), elapsed=0.0, timeout=self._timeout)
        rows, missing = found.table, found.missing
        upto = high if following else None
        if rows.num_rows >= wanted:
            # An answer that was cut by the limit has `wanted` rows, so that none of the first of all is beyond it.
            rows = rows.slice(0, wanted)
            last = int(to_ids(rows)[-1])
            upto = last if following or last < spans[-1][1] else None
            missing = tuple((low, min(high, last)) for low, high in missing if low <= last)
        self._rows = pa.concat_tables([self._rows, rows])
        self._missing += missing
        self._note(outcomes, rows, asked - origin)
        return upto

    def _note(self, outcomes: Mapping[Any, Outcome], rows: pa.Table, later: float) -> None:
        """Adds the outcomes of one question to the reports; rows that were cut off do not count."""
        positions = self._router.locate_many(to_ids(rows))
        numbers = dict(
            zip(self._router.shards, np.bincount(positions, minlength=len(self._router.shards)), strict=True)
        )
        for shard, outcome in outcomes.items():
            report = replace(outcome.report, rows=int(numbers[shard]), started=later + outcome.report.started)
            self._reports[shard] = joined(self._reports.get(shard), report)


def _plan(spans: list[Span]) -> dict[ShardKey, Ranges]:
    plan: dict[ShardKey, Ranges] = {}
    for low, high, shard in spans:
        plan[shard] = (*plan.get(shard, ()), (low, high))
    return plan


def joined(earlier: ShardReport | None, later: ShardReport) -> ShardReport:
    """The report of a shard that was asked once more: as it ended, over all that it was asked."""
    if earlier is None:
        return later
    return replace(
        later,
        rows=earlier.rows + later.rows,
        started=earlier.started,
        elapsed=later.started + later.elapsed - earlier.started,
        ranges=(*earlier.ranges, *later.ranges),
    )
