"""Keyset paging by ID across shards: each scatter asks only the few ranges that the page can need."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pyarrow as pa

from labkit._filters import Filters
from labkit._types import Ranges, ShardKey
from labkit.answer import SmallAnswer
from labkit.report import ShardReport, combined, skipped
from labkit.result import ReadResult
from labkit.router import RangeRouter, as_id, as_window
from labkit.scatter import AskShards, Question, ShardOutcome, gather
from labkit.tables import SCHEMA, id_chunks

__all__ = ["Page"]


class Page:
    """One page of at most `size` rows; it is read once.

    Ranges after the cursor are asked until there are enough rows: first as few ranges as could hold them if every ID
    existed, then twice as many each time, all under one deadline. A range that fails ends the page: what lies after it
    is left to the next page, when its shard may be back.
    """

    def __init__(
        self,
        ask: AskShards,
        router: RangeRouter,
        timeout: float,
        size: int,
        columns: tuple[str, ...] | None = None,
        filters: Filters | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        self._ask, self._router, self._timeout, self._size = ask, router, timeout, size
        self._columns, self._filters = columns, filters
        self._schema = schema
        """The columns of the pages before, or of this one as soon as a shard has answered; None before that."""
        self._tables: list[pa.Table] = []
        self._count = 0
        self._missing: Ranges = ()
        self._reports: dict[ShardKey, ShardReport] = {}

    async def read(self, after: int | None, low: int | None, high: int | None) -> ReadResult:
        """The page that begins after `after`. See `ShardReader.page`."""
        clock = asyncio.get_running_loop().time
        origin = clock()
        start, end = as_window(low, high)
        if after is not None:
            after = as_id(after, "after")
            low = start = max(start, after + 1)  # beyond int64 no range begins
        upto: int | None = start - 1
        count = self._router.fewest(start, end, self._size)
        while upto is not None and not self._over(clock() - origin):
            upto = await self._extend(self._router.places(upto + 1, end), count, low, high, end, origin)
            low = None if upto is None else upto + 1
            count *= 2
        return ReadResult(
            table=pa.concat_tables(self._tables) if self._tables else (self._schema or SCHEMA).empty_table(),
            reports={shard: self._reports.get(shard) or skipped(shard) for shard in self._router.shards},
            missing=self._missing,
            elapsed=clock() - origin,
            timeout=self._timeout,
            next=upto,
        )

    def _over(self, elapsed: float) -> bool:
        """Whether the page is full, was ended by a gap, or has too little time left to ask once more."""
        return self._count >= self._size or bool(self._missing) or elapsed > self._timeout / 2

    async def _extend(
        self, places: range, count: int, low: int | None, high: int | None, end: int, origin: float
    ) -> int | None:
        """Asks for the first `count` ranges at these places; returns the last ID that the page now covers, None if
        nothing follows.
        """
        if not places:
            return None
        spans, following = self._router.spans, len(places) > count
        upto = min(spans[places[:count][-1]][1], end)
        if following:
            high = spans[places[count]][0] - 1  # includes the space between two ranges, where no row should be
        clock = asyncio.get_running_loop().time
        asked, wanted = clock(), self._size - self._count
        plan = self._router.prune(low, upto)
        deadline = origin + self._timeout
        question = Question(plan, low, high, deadline, wanted, self._columns, self._filters, schema=self._schema)
        outcomes = await self._ask(question)
        found = await gather(plan, outcomes, tuple(plan), elapsed=0.0, seconds=self._timeout)
        if any(outcome.rows is not None for outcome in outcomes.values()):
            self._schema = found.table.schema
        # An answer cut by the limit has `wanted` rows, so the first `wanted` rows of all shards are in the answers.
        last: int | None = None if found.table.num_rows < wanted else found.table.column(0)[wanted - 1].as_py()
        if found.table.num_rows:
            self._tables.append(found.table.slice(0, wanted))
            self._count += self._tables[-1].num_rows
        self._missing += found.missing if last is None else _upto(found.missing, last)
        self._note(outcomes, last, asked - origin)
        if last is None:
            return high if following else None
        return last if following or last < upto else None

    def _note(self, outcomes: Mapping[Any, ShardOutcome], last: int | None, later: float) -> None:
        """Adds the outcomes of one scatter to the reports; rows after `last` were cut off and do not count."""
        for shard, outcome in outcomes.items():
            rows = outcome.report.rows if last is None or outcome.rows is None else _rows_upto(outcome.rows, last)
            report = replace(outcome.report, rows=rows, started=later + outcome.report.started)
            self._reports[shard] = combined(self._reports.get(shard), report)


def _upto(ranges: Ranges, last: int) -> Ranges:
    """The parts of ascending ranges that are not above `last`."""
    within = ranges[: bisect_right(ranges, last, key=itemgetter(0))]
    return (*within[:-1], (within[-1][0], min(within[-1][1], last))) if within else ()


def _rows_upto(rows: pa.Table | SmallAnswer, last: int) -> int:
    if isinstance(rows, SmallAnswer):
        return bisect_right(rows.ids, last)
    return sum(int(ids.searchsorted(last, "right")) for ids in id_chunks(rows))
