"""The table as newline-delimited JSON: one row per line, page by page; the last line says what is missing."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from labkit._types import Range, Ranges, ShardKey
from labkit.api.queries import DataQuery
from labkit.api.responses import row_batches, to_json
from labkit.merge import union
from labkit.reader import ShardReader
from labkit.report import ShardReport, Status, combined
from labkit.result import ReadResult
from labkit.tables import SCHEMA

__all__ = ["MEDIA_TYPE", "PAGE", "Results", "lines", "paged", "single"]

MEDIA_TYPE = "application/x-ndjson"
PAGE = 1_000
"""Rows in memory at a time."""
Results: TypeAlias = AsyncGenerator[ReadResult, None]


async def lines(results: Results) -> AsyncGenerator[bytes, None]:
    """The rows of all results, then a last line: `complete`, `missing`, `next` and `shards` of all of them together."""
    total = _Total()
    async with aclosing(results):
        async for result in results:
            for rows in row_batches(result):
                yield b"".join(to_json(row) + b"\n" for row in rows)
            total.add(result)
    yield to_json(total.to_dict()) + b"\n"


async def paged(reader: ShardReader, query: DataQuery, stopping: asyncio.Event) -> Results:
    """Pages until there are `query.limit` rows; if the server is stopping, the current page is the last."""
    after, left = query.after, query.limit
    while True:
        size = PAGE if left is None else min(PAGE, left)
        result = await reader.page(size, after, query.low, query.high, columns=query.columns, filters=query.filter)
        yield result
        if left is not None:
            left -= result.table.num_rows
        if result.next is None or left == 0 or stopping.is_set():
            return
        after = result.next


async def single(result: ReadResult) -> Results:
    """A result that was read already."""
    yield result


class _Total:
    """Several pages as one result without its rows."""

    def __init__(self) -> None:
        self._missing: list[Range] = []
        self._reports: dict[ShardKey, ShardReport] = {}
        self._ranges: dict[ShardKey, list[Range]] = {}
        """Of each report; kept apart, so that a page does not copy those of all pages before it."""
        self._next: int | None = None

    def add(self, page: ReadResult) -> None:
        _extend(self._missing, page.missing)
        for shard, later in page.reports.items():
            earlier = self._reports.get(shard)
            if earlier is None or earlier.status is Status.SKIPPED:
                self._reports[shard], self._ranges[shard] = later, list(later.ranges)
            elif later.status is not Status.SKIPPED:
                self._reports[shard] = _joined(earlier, later)
                _extend(self._ranges[shard], later.ranges)
        self._next = page.next

    def to_dict(self) -> dict[str, Any]:
        reports = {shard: replace(r, ranges=tuple(self._ranges[shard])) for shard, r in self._reports.items()}
        total = ReadResult(SCHEMA.empty_table(), reports, tuple(self._missing), 0.0, 0.0, next=self._next).to_dict()
        return {name: total[name] for name in ("complete", "missing", "next", "shards")}


def _joined(earlier: ShardReport, later: ShardReport) -> ShardReport:
    """A shard's report over both pages, without the time between them; a failure stays. `ranges` are not added."""
    report = combined(earlier, replace(later, started=earlier.started + earlier.elapsed, ranges=()))
    return replace(report, status=earlier.status, error=earlier.error) if earlier.failed else report


def _extend(known: list[Range], later: Ranges) -> None:
    """Adds the ranges of a later page. Pages ascend, so these can overlap only the last of `known`."""
    if later:
        first = max(bisect_left(known, later[0]) - 1, 0)
        known[first:] = union([*known[first:], *later])
