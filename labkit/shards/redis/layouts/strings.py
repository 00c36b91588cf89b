"""Rows in string keys `key:id`; in a cluster `key` holds a hash tag, so that all are in one slot.

Source: Redis documentation, "SCAN" (what it guarantees) and "Redis cluster specification" (MOVED and ASK).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Capabilities, Run, narrow
from labkit.shards.redis.layouts.bulk import MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.columns import first_wrong, rows_under
from labkit.shards.redis.layouts.numbers import ids_inside
from labkit.shards.redis.layouts.ordering import SLICE, in_order
from labkit.shards.redis.layouts.rows import as_list, batches, row_under, shown
from labkit.tables import SCHEMA, InvalidAnswer

__all__ = ["Strings"]


class Strings:
    """Rows are fetched by id; unknown ids are searched among all keys of the server.

    It uses SCAN, never KEYS, which blocks all other clients. Every key that begins with `key:` counts as a row.
    """

    name = "strings"
    can = Capabilities(order=False, prune=False, page=False, moment=False)

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """MGET of the IDs of a narrow window, else of those that SCAN finds. See `Layout.read`."""
        known = narrow(ask)
        if known is not None:
            return await _rows(run, key, known)
        ids, parts = await in_order(await _scanned(run, key, ask))
        found, count = [SCHEMA.empty_table()], 0
        for part in parts:
            if ask.limit is not None and count >= ask.limit:
                break
            left = None if ask.limit is None else ask.limit - count
            found.append(await _part(run, key, np.unique(ids[part]), left))
            count += found[-1].num_rows
        table = pa.concat_tables(found)
        if count > MAX_ONE_BY_ONE:
            return table
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def write(self, key: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[tuple[Any, ...]]:
        """MSET. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "MSET", *(word for row_id, stored in batch for word in (f"{key}:{row_id}", stored))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "PSUBSCRIBE", _literal(f"__keyspace@{database}__:{key}:") + "*"


async def _scanned(run: Run, key: str, ask: Ask) -> list[npt.NDArray[np.int64]]:
    """The IDs in the window, in pieces. SCAN may return a key twice, but misses none that existed throughout."""
    prefix = f"{key}:".encode()
    pieces: list[npt.NDArray[np.int64]] = []
    words: list[bytes] = []
    cursor: Any = b"0"
    while True:
        cursor, keys = as_list(await run("SCAN", cursor, "MATCH", _literal(f"{key}:") + "*", "COUNT", BATCH), 2)
        words += [_id_of(one, prefix) for one in as_list(keys)]
        while words and (len(words) >= SLICE or cursor == b"0"):
            await asyncio.sleep(0)
            pieces.append(ids_inside(words[:SLICE], ask)[0])
            del words[:SLICE]
        if cursor == b"0":
            break
    # SCAN covers a node, not a slot: it does not report keys that are migrating or have moved. A command for a missing
    # key does, with MOVED or ASK. On a single server this costs a round trip.
    await run("EXISTS", f"{key}:")
    return [piece for piece in pieces if len(piece)]


def _id_of(key: Any, prefix: bytes) -> bytes:
    """The part of a key after the colon."""
    if not isinstance(key, bytes) or not key.startswith(prefix):
        raise InvalidAnswer(f"SCAN returned {shown(key)}, which does not match")
    return key[len(prefix) :]


async def _part(run: Run, key: str, ids: npt.NDArray[np.int64], limit: int | None) -> pa.Table:
    """The rows of those ids that still exist, at least the first `limit`, as one chunk: many would be slow to scan."""
    found, count = [], 0
    step = BATCH if limit is None else min(BATCH, limit)
    for start in range(0, len(ids), step):
        if limit is not None and count >= limit:
            break
        found.append(await _batch(run, key, ids[start : start + step]))
        count += found[-1].num_rows
    return pa.Table.from_batches(found, SCHEMA).combine_chunks()


async def _batch(run: Run, key: str, ids: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The rows of those ids that still exist."""
    values = await _values(run, key, ids.tolist())
    places = [place for place, raw in enumerate(values) if raw is not None]
    if len(places) < len(values):
        ids, values = ids[places], [values[place] for place in places]
    batch = rows_under(ids, values)
    if batch is None:
        raise first_wrong(ids, values)[1]
    return batch


async def _rows(run: Run, key: str, ids: Sequence[int]) -> list[tuple[int, Any]]:
    values = await _values(run, key, ids)
    return [row_under(row_id, raw) for row_id, raw in zip(ids, values, strict=True) if raw is not None]


async def _values(run: Run, key: str, ids: Sequence[int]) -> list[Any]:
    """The value of each id; None if the key does not exist."""
    values = as_list(await run("MGET", *(f"{key}:{row_id}" for row_id in ids)), len(ids))
    await _check_types(run, [f"{key}:{row_id}" for row_id, raw in zip(ids, values, strict=True) if raw is None])
    return values


async def _check_types(run: Run, missing: list[str]) -> None:
    """Raises `InvalidAnswer` for keys that are not strings: MGET returns NULL for them, so rows would be lost."""
    if not missing or not await run("EXISTS", *missing):
        return
    for one in missing:
        kind = await run("TYPE", one)
        if kind not in (b"none", b"string"):  # a string was written since: the row did not exist when it was requested
            raise InvalidAnswer(f"key {shown(one)} holds no row: its type is {shown(kind)}")


def _literal(text: str) -> str:
    """`text` as a glob that matches only itself."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
