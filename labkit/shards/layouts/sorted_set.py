"""Rows in a sorted set: score = id, member = the whole row, so that two rows of one name stay two members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.layouts.base import BATCH, Can, Run, inside
from labkit.shards.layouts.rows import batches, listed, row

__all__ = ["EXACT", "SortedSet"]

EXACT = 2**53
"""Scores are doubles: from this magnitude on neighbouring IDs share a score."""


class SortedSet:
    """The server keeps order: it prunes by any window, and a page costs no more than its rows."""

    name = "sorted-set"
    can = Can(order=True, prune=True, page=True, moment=True)
    event = "z"

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """See `Layout.read`."""
        rows = await _range(run, key, ask, ask.limit)
        if ask.limit is not None and any(_inexact(number) for number in (ask.low, *(row[0] for row in rows))):
            # The server counts by scores: among IDs that share one, it may have left out the wrong ones.
            rows = await _range(run, key, ask, None)
        return _settled(rows, ask)[: ask.limit]

    def write(self, key: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[tuple[Any, ...]]:
        """ZADD. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "ZADD", key, *(word for row_id, stored in batch for word in (row_id, stored))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "SUBSCRIBE", f"__keyspace@{database}__:{key}"


async def _range(run: Run, key: str, ask: Ask, limit: int | None) -> list[tuple[Any, Any]]:
    low = "-inf" if ask.low is None else ask.low
    high = "+inf" if ask.high is None else ask.high
    first = () if limit is None else ("LIMIT", 0, limit)
    return [row(raw) for raw in listed(await run("ZRANGEBYSCORE", key, low, high, *first))]


def _inexact(number: Any) -> bool:
    return type(number) is int and abs(number) >= EXACT


def _settled(rows: list[tuple[Any, Any]], ask: Ask) -> Answer:
    """Where IDs share a score, the server's order and bounds are coarser than ours: settle both exactly."""
    ids = [row[0] for row in rows]
    if not all(type(row_id) is int for row_id in ids) or not any(map(_inexact, ids)):
        return rows  # exact as they are, or for the check to find out
    return sorted((row for row in rows if inside(row[0], ask)), key=lambda row: row[0])
