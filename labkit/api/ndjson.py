"""The table as newline-delimited JSON: one row a line, page by page, then one line that says what is missing."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, TypeAlias

from labkit.api.bodies import row_pieces, to_json, without_rows
from labkit.api.queries import DataQuery
from labkit.reader import ShardReader
from labkit.result import ReadResult

__all__ = ["MEDIA_TYPE", "PAGE", "Results", "lines", "paged", "pieces"]

MEDIA_TYPE = "application/x-ndjson"
PAGE = 1_000
"""Rows that are in memory at a time."""
Results: TypeAlias = AsyncGenerator[ReadResult, None]


async def lines(results: Results) -> AsyncGenerator[bytes, None]:
    """The rows of all results, and the last line: `complete`, `missing`, `next` and `shards` of all together."""
    summary = _Summary()
    async with aclosing(results):
        async for result in results:
            for rows in row_pieces(result):
                yield b"".join(to_json(row) + b"\n" for row in rows)
            summary.add(without_rows(result))
    yield to_json(summary.to_dict()) + b"\n"


async def paged(reader: ShardReader, query: DataQuery, stopping: asyncio.Event) -> Results:
    """Pages until there are `query.limit` rows; when the server stops the page at hand is the last."""
    after, left = query.after, query.limit
    while True:
        result = await reader.page(PAGE if left is None else min(PAGE, left), after, query.low, query.high)
        yield result
        if left is not None:
            left -= result.table.num_rows
        if result.next is None or left == 0 or stopping.is_set():
            return
        after = result.next


async def pieces(result: ReadResult) -> Results:
    """A result that was read already."""
    yield result


class _Summary:
    """What several pages say together."""

    def __init__(self) -> None:
        self._missing: list[list[int]] = []
        self._shards: dict[str, dict[str, Any]] = {}
        self._next: int | None = None

    def add(self, body: dict[str, Any]) -> None:
        self._missing = _grown(self._missing, body["missing"])
        for shard, report in body["shards"].items():
            self._shards[shard] = _joined(self._shards[shard], report) if shard in self._shards else report
        self._next = body["next"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "complete": not self._missing,
            "missing": self._missing,
            "next": self._next,
            "shards": self._shards,
        }


def _joined(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The report of a shard over several pages: rows and seconds added up, and a failure stays."""
    asked = [report for report in (earlier, later) if report["status"] != "skipped"]
    if len(asked) < 2:
        return asked[0] if asked else later
    told = earlier if earlier["error"] is not None else later
    return {
        **told,
        "rows": earlier["rows"] + later["rows"],
        "started": earlier["started"],
        "elapsed": earlier["elapsed"] + later["elapsed"],
        "ranges": _grown(earlier["ranges"], later["ranges"]),
    }


def _grown(union: list[list[int]], later: list[list[int]]) -> list[list[int]]:
    """The union with the ranges of a later page; of many only the last are looked at, since pages ascend."""
    if later:
        first = max(bisect_left(union, later[0]) - 1, 0)
        union[first:] = _union(union[first:] + later)
    return union


def _union(ranges: Iterable[list[int]]) -> list[list[int]]:
    """The same IDs in as few ranges as can be: their number does not grow with that of the pages."""
    union: list[list[int]] = []
    for low, high in sorted(ranges):
        if union and low <= union[-1][1] + 1:
            union[-1][1] = max(union[-1][1], high)
        else:
            union.append([low, high])
    return union
