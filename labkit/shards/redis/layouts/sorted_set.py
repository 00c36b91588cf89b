"""Rows in a sorted set: score = id, member = the whole row, so that two rows with the same name are two members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
from redis.exceptions import ResponseError

from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Capabilities, Run, head, inside
from labkit.shards.redis.layouts.bulk import CHUNK, LOOK, decoded, in_chunks
from labkit.shards.redis.layouts.ordering import arranged
from labkit.shards.redis.layouts.records import Records
from labkit.shards.redis.layouts.rows import array
from labkit.shards.redis.layouts.writing import Rows, batches
from labkit.tables import SCHEMA, id_chunks, to_ids

__all__ = ["EXACT", "SortedSet"]

EXACT = 2**53
"""Scores are doubles: from this magnitude on, neighbouring IDs share a score."""


class SortedSet:
    """The server keeps rows in order: it prunes by any window, and a page costs no more than its rows. Without a
    `schema` rows are (id, name).
    """

    name = "sorted-set"
    can = Capabilities(order=True, prune=True, page=True, moment=True)

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self.schema = SCHEMA if schema is None else schema
        self._records = None if schema is None else Records(schema)

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """Many rows in chunks, as a table; few by one command. See `Layout.read`."""
        rows = await _range(run, key, ask, ask.limit, self._records)
        if ask.limit is not None and (_inexact(ask.low) or _any_inexact(rows)):
            # The server limits by score: among IDs that share one, it may have left out the wrong ones.
            rows = await _range(run, key, ask, None, self._records)
        return head(await _settled(rows, ask), ask.limit)

    def write(self, key: str, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """ZADD. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "ZADD", key, *(word for row_id, stored in batch for word in (row_id, stored))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "SUBSCRIBE", f"__keyspace@{database}__:{key}"


async def _range(run: Run, key: str, ask: Ask, limit: int | None, records: Records | None) -> Answer:
    """All rows, from one moment: by one command, or by several without a write in between."""
    low = "-inf" if ask.low is None else ask.low
    high = "+inf" if ask.high is None else ask.high
    words = ("ZRANGEBYSCORE", key, low, high)
    first = () if limit is None else ("LIMIT", 0, limit)
    if not _may_be_many(ask, limit):
        return await decoded(array(await run(*words, *first)), records)
    members = array(await run(*words, "LIMIT", 0, LOOK))
    if len(members) < LOOK:
        return await decoded(members, records)
    with suppress(ResponseError):  # WATCH may be forbidden where reading is not; any other error recurs below
        if (table := await in_chunks(run, key, low, high, limit, records)) is not None:
            return table
    return await decoded(array(await run(*words, *first)), records)


def _may_be_many(ask: Ask, limit: int | None) -> bool:
    """Whether there may be more rows than one chunk."""
    if limit is not None and limit <= CHUNK:
        return False
    return ask.low is None or ask.high is None or ask.high - ask.low >= CHUNK


def _inexact(number: Any) -> bool:
    return type(number) is int and abs(number) >= EXACT


def _any_inexact(rows: Answer) -> bool:
    if not isinstance(rows, pa.Table):
        return any(_inexact(row[0]) for row in rows)
    return any(ids.min() <= -EXACT or ids.max() >= EXACT for ids in id_chunks(rows))


async def _settled(rows: Answer, ask: Ask) -> Answer:
    """Where IDs share a score, the server's order and bounds are coarser than ours: settle both exactly."""
    if not _any_inexact(rows):
        return rows
    if not isinstance(rows, pa.Table):
        if not all(type(row[0]) is int for row in rows):
            return rows  # the reader's check will reject it
        return sorted((row for row in rows if inside(row[0], ask)), key=lambda row: row[0])
    low, high = INT64_MIN if ask.low is None else ask.low, INT64_MAX if ask.high is None else ask.high
    ids = to_ids(rows)
    if ids[0] >= low and ids[-1] <= high and (ids[1:] >= ids[:-1]).all():
        return rows
    settled = await arranged([batch for batch in rows.to_batches() if batch.num_rows], schema=rows.schema)
    ids = to_ids(settled)
    first, last = ids.searchsorted(low, "left"), ids.searchsorted(high, "right")
    return settled.slice(first, last - first)
