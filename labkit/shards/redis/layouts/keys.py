"""What the layouts with a key per row share: rows under `key:id`, found by SCAN or by the ids of a narrow window.

SCAN, never KEYS, which blocks all other clients. Every key that begins with `key:` counts as a row. In a cluster `key`
holds a hash tag, so that all are in one slot.
Source: Redis documentation, "SCAN" (what it guarantees) and "Redis cluster specification" (MOVED and ASK).
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Capabilities, Run, narrow
from labkit.shards.redis.layouts.numbers import ids_inside
from labkit.shards.redis.layouts.ordering import SLICE, in_order
from labkit.shards.redis.layouts.rows import as_list, shown
from labkit.tables import InvalidAnswer

__all__ = ["KeyPerRow"]


class KeyPerRow(ABC):
    """Rows are fetched by id; unknown ids are searched among all keys of the server."""

    can = Capabilities(order=False, prune=False, page=False, moment=False)
    schema: pa.Schema

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """Fetches the ids of a narrow window, else those that SCAN finds. See `Layout.read`."""
        known = narrow(ask)
        if known is not None:
            return await self._few(run, key, np.array(known, np.int64), ask)
        ids, parts = await in_order(await _scanned(run, key, ask))
        found, count = [self._columns(ask).empty_table()], 0
        for part in parts:
            if ask.limit is not None and count >= ask.limit:
                break
            left = None if ask.limit is None else ask.limit - count
            found.append(await self._part(run, key, np.unique(ids[part]), ask, left))
            count += found[-1].num_rows
        return self._answer(pa.concat_tables(found))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "PSUBSCRIBE", _literal(f"__keyspace@{database}__:{key}:") + "*"

    @abstractmethod
    async def _batch(self, run: Run, key: str, ids: npt.NDArray[np.int64], ask: Ask) -> pa.RecordBatch:
        """The rows of those ids that exist; `InvalidAnswer` for what is not one."""

    async def _few(self, run: Run, key: str, ids: npt.NDArray[np.int64], ask: Ask) -> Answer:
        """The same for a narrow window."""
        return pa.Table.from_batches([await self._batch(run, key, ids, ask)], self._columns(ask))

    def _columns(self, ask: Ask) -> pa.Schema:
        """The columns of an answer."""
        return self.schema

    def _answer(self, table: pa.Table) -> Answer:
        return table

    def _step(self) -> int:
        """Rows fetched by one command, or in one pipeline."""
        return BATCH

    async def _part(self, run: Run, key: str, ids: npt.NDArray[np.int64], ask: Ask, limit: int | None) -> pa.Table:
        """The rows of those ids that still exist, at least the first `limit`, as one chunk, which is faster to scan."""
        found, count = [], 0
        step = self._step() if limit is None else min(self._step(), limit)
        for start in range(0, len(ids), step):
            if limit is not None and count >= limit:
                break
            found.append(await self._batch(run, key, ids[start : start + step], ask))
            count += found[-1].num_rows
        return pa.Table.from_batches(found, self._columns(ask)).combine_chunks()


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


def _literal(text: str) -> str:
    """`text` as a glob that matches only itself."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
