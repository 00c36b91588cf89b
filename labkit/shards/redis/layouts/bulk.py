"""Reads many members of a sorted set chunk by chunk, decoding each while the server sends the next one.

Chunks are by rank, the position in score order, so that members with equal scores are neither lost nor read twice at a
chunk's end. Ranks are stable only without writes: WATCH makes the server report, at the end, whether there were any.

Source: Redis documentation, "Transactions" (optimistic locking using check-and-set), "ZRANGE" (log(N) + M by rank).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import pyarrow as pa
from redis.exceptions import ResponseError

from labkit.answer import Answer
from labkit.shards.redis.layouts.base import Run
from labkit.shards.redis.layouts.byte_strings import ByteStrings, Many, pieces_of
from labkit.shards.redis.layouts.columns import columns
from labkit.shards.redis.layouts.records import Records
from labkit.shards.redis.layouts.rows import array, as_list, row
from labkit.tables import PIECE, SCHEMA, InvalidAnswer, to_batch

__all__ = ["CHUNK", "LOOK", "MAX_ONE_BY_ONE", "decoded", "in_chunks"]

Members: TypeAlias = Sequence[Any] | ByteStrings
"""As parsed by `labkit.shards.redis.arrays`."""

CHUNK = 16_384
"""Members per command: one keeps a server busy for 3 to 5 ms, and takes half a megabyte in the client."""
FIRST = 8_192
"""Members of the first chunk; the following ones double, up to `CHUNK`."""
LOOK = 4_096
"""Members requested first, to see whether chunks are worth their round trips; they are then read again."""
MAX_ONE_BY_ONE = 256
"""Most members that are decoded one by one in Python; for more, numpy and Arrow are faster."""


async def decoded(members: list[Any] | ByteStrings | Many, records: Records | None = None) -> Answer:
    """The rows of all members: a table, or a list up to `MAX_ONE_BY_ONE`; always a table of `records`.

    Raises `InvalidAnswer` for the first member that is not a row, or that a table cannot hold.
    """
    if records is not None:
        return await records.table(members)
    if len(members) <= MAX_ONE_BY_ONE:
        return [row(raw) for raw in members]
    found: list[pa.RecordBatch] = []
    before = 0
    for piece in pieces_of(members, CHUNK):
        batch = await _batch(piece)
        found.append(to_batch(await _one_by_one(piece), before) if batch is None else batch)
        before += len(piece)
    return pa.Table.from_batches(found, SCHEMA)


async def in_chunks(
    run: Run, key: str, low: Any, high: Any, limit: int | None, records: Records | None = None
) -> pa.Table | None:
    """The members with scores from `low` to `high` (the first `limit`), from one moment. None if they changed
    meanwhile, or have a row that a table cannot hold: then one command must read them all.

    Raises `InvalidAnswer` for a member that is not a row.
    """
    # A failed read on this connection may have left its watch.
    begin = [("UNWATCH",), ("WATCH", key), ("ZCOUNT", key, low, high)]
    if low != "-inf":
        begin.append(("ZCOUNT", key, "-inf", f"({low}"))
    count, first = map(_counted, [*await _all(run, *begin), 0][2:4])
    stop = first + (count if limit is None else min(count, limit))
    batches: list[pa.RecordBatch] = []
    async with aclosing(_chunks(run, key, _ranges(first, stop))) as chunks:
        async for members in chunks:
            if records is not None:
                batches += (await records.table(members)).to_batches()
                continue
            found = [await _batch(piece) for piece in pieces_of(members, CHUNK)]
            batches += filter(None, found)
            if None in found:
                break
    schema = SCHEMA if records is None else records.schema
    _, changed = await _all(run, ("MULTI",), ("EXEC",))
    whole = sum(batch.num_rows for batch in batches) == stop - first
    return None if changed is None or as_list(changed) or not whole else pa.Table.from_batches(batches, schema)


def _ranges(first: int, stop: int) -> list[range]:
    """The ranks of each chunk. The first is small, so that decoding begins early."""
    found: list[range] = []
    size = FIRST
    while first < stop:
        found.append(range(first, min(first + size, stop)))
        first, size = first + size, min(2 * size, CHUNK)
    return found


async def _chunks(run: Run, key: str, ranges: list[range]) -> AsyncGenerator[list[Any] | ByteStrings | Many, None]:
    """The members of each chunk; the next command is sent before they are decoded."""
    coming: asyncio.Future[Any] | None = None

    def ask(ranks: range) -> asyncio.Future[Any]:
        return asyncio.ensure_future(run("ZRANGE", key, ranks.start, ranks.stop - 1))

    try:
        for ranks, following in zip(ranges, [*ranges[1:], None], strict=True):
            members = array(await (coming or ask(ranks)))
            coming = ask(following) if following else None
            yield members
    finally:
        if coming is not None:
            # An answer is outstanding. A cancellation here cancels that too, and the connection is closed.
            with suppress(Exception):
                await coming


async def _all(run: Run, *questions: tuple[Any, ...]) -> list[Any]:
    """The answers to commands that are sent at once; raises the first error."""
    answers = await run.many(questions)
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return answers


async def _batch(members: Members) -> pa.RecordBatch | None:
    """The rows of one chunk; None if a table cannot hold one of them."""
    await asyncio.sleep(0)
    found = columns(members)
    return found.batch(await _one_by_one([members[place] for place in found.others]))


async def _one_by_one(members: Members) -> list[tuple[Any, Any]]:
    rows: list[tuple[Any, Any]] = []
    for start in range(0, len(members), PIECE):
        rows += map(row, members[start : start + PIECE])
        await asyncio.sleep(0)
    return rows


def _counted(reply: Any) -> int:
    if type(reply) is not int or reply < 0:
        raise InvalidAnswer(f"the answer is not a count but {type(reply).__name__}")
    return reply
