"""Rows in a hash: a field an id, in decimal; the value is the whole row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from labkit.answer import Answer, InvalidAnswer
from labkit.shards.base import Ask
from labkit.shards.layouts.base import BATCH, Can, Run, few, inside
from labkit.shards.layouts.rows import batches, id_of, listed, row_under

__all__ = ["Hash"]


class Hash:
    """A row is had by its id; there is no order, so a wide window and a page cost the whole hash."""

    name = "hash"
    can = Can(order=False, prune=False, page=False, moment=True)
    event = "h"

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """HMGET of the window's IDs where they are few, else HGETALL. See `Layout.read`."""
        ids = few(ask)
        if ids is not None:
            values = listed(await run("HMGET", key, *ids), len(ids))
            return [row_under(row_id, raw) for row_id, raw in zip(ids, values, strict=True) if raw is not None]
        flat = listed(await run("HGETALL", key))
        if len(flat) % 2:
            raise InvalidAnswer(f"a hash of {len(flat)} fields and values, one of them alone")
        held = [(id_of(field), raw) for field, raw in zip(flat[::2], flat[1::2], strict=True)]
        wanted = sorted(((row_id, raw) for row_id, raw in held if inside(row_id, ask)), key=lambda pair: pair[0])
        return [row_under(row_id, raw) for row_id, raw in wanted[: ask.limit]]

    def write(self, key: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[tuple[Any, ...]]:
        """HSET. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "HSET", key, *(word for row_id, stored in batch for word in (row_id, stored))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "SUBSCRIBE", f"__keyspace@{database}__:{key}"
