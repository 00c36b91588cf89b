"""What the layouts with a key per row share: rows under `key:id`, found by SCAN or by the ids of a narrow window.

SCAN, never KEYS, which blocks all other clients. Every key that begins with `key:` counts as a row. In a cluster `key`
holds a hash tag, so that all are in one slot.
Source: Redis documentation, "SCAN" (what it guarantees) and "Redis cluster specification" (MOVED and ASK).
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Capabilities, Run, narrow
from labkit.shards.redis.layouts.numbers import ids_inside
from labkit.shards.redis.layouts.ordering import SLICE, Ids, in_order
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
    async def _fetched(self, run: Run, key: str, ids: Ids, ask: Ask) -> Any:
        """What the server has under those ids, `_step()` at most; raises as `Layout.read` does."""

    @abstractmethod
    def _decoded(self, ids: Ids, found: Any, ask: Ask) -> pa.RecordBatch:
        """The rows in what was fetched; `InvalidAnswer` for what is not one."""

    async def _few(self, run: Run, key: str, ids: Ids, ask: Ask) -> Answer:
        """The rows of a narrow window."""
        return await self._part(run, key, ids, ask, None)

    def _columns(self, ask: Ask) -> pa.Schema:
        """The columns of an answer."""
        return self.schema

    def _answer(self, table: pa.Table) -> Answer:
        return table

    def _step(self) -> int:
        """Rows fetched by one command, or in one pipeline."""
        return BATCH

    async def _part(self, run: Run, key: str, ids: Ids, ask: Ask, limit: int | None) -> pa.Table:
        """The rows of those ids that still exist, at least the first `limit`, as one chunk, which is faster to scan."""
        found, count = [], 0
        step = self._step() if limit is None else min(self._step(), limit)
        async with aclosing(self._pieces(run, key, ids, ask, step, ahead=limit is None)) as pieces:
            async for some, raw in pieces:
                found.append(self._decoded(some, raw, ask))
                count += found[-1].num_rows
                if limit is not None and count >= limit:
                    break
        return pa.Table.from_batches(found, self._columns(ask)).combine_chunks()

    async def _pieces(
        self, run: Run, key: str, ids: Ids, ask: Ask, step: int, ahead: bool
    ) -> AsyncGenerator[tuple[Ids, Any], None]:
        """What the server has, `step` ids at a time; with `ahead`, the next ones are on their way meanwhile."""
        parts = [ids[start : start + step] for start in range(0, len(ids), step)]
        coming: asyncio.Task[Any] | None = None
        try:
            for number, part in enumerate(parts):
                raw = await (coming or self._fetched(run, key, part, ask))
                coming = None
                if ahead and number + 1 < len(parts):
                    coming = asyncio.create_task(self._fetched(run, key, parts[number + 1], ask))
                await asyncio.sleep(0)
                yield part, raw
        finally:
            if coming is not None and not coming.done():
                coming.cancel()  # an answer is outstanding, so the connection will be closed
                with suppress(Exception, asyncio.CancelledError):
                    await coming


async def _scanned(run: Run, key: str, ask: Ask) -> list[Ids]:
    """The IDs in the window, in pieces. SCAN may return a key twice, but misses none that existed throughout."""
    prefix = f"{key}:".encode()
    pieces: list[Ids] = []
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
