"""Rows in a hash: a field an id, in decimal; the value is the whole row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.answer import Answer, InvalidAnswer, to_ids
from labkit.shards.base import Ask
from labkit.shards.layouts.base import BATCH, Can, Run, few, inside
from labkit.shards.layouts.bulk import FEW, decoded
from labkit.shards.layouts.numbers import numbers
from labkit.shards.layouts.rows import batches, id_of, listed, row_under

__all__ = ["Hash"]


class Hash:
    """A row is had by its id; there is no order, so a wide window and a page cost the whole hash."""

    name = "hash"
    can = Can(order=False, prune=False, page=False, moment=True)

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """HMGET of the window's IDs where they are few, else HGETALL. See `Layout.read`."""
        ids = few(ask)
        if ids is not None:
            values = listed(await run("HMGET", key, *ids), len(ids))
            return [row_under(row_id, raw) for row_id, raw in zip(ids, values, strict=True) if raw is not None]
        flat = listed(await run("HGETALL", key))
        if len(flat) % 2:
            raise InvalidAnswer(f"a hash of {len(flat)} fields and values, one of them alone")
        fields, values = flat[::2], flat[1::2]
        found = await _at_once(fields, values, ask) if len(fields) > FEW else None
        return _one_by_one(fields, values, ask) if found is None else found

    def write(self, key: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[tuple[Any, ...]]:
        """HSET. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "HSET", key, *(word for row_id, stored in batch for word in (row_id, stored))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "SUBSCRIBE", f"__keyspace@{database}__:{key}"


async def _at_once(fields: Sequence[Any], values: Sequence[Any], ask: Ask) -> Answer | None:
    """The wanted rows; None where something is wrong, which is to be named."""
    ids = numbers(fields)
    if ids is None:
        return None
    order = np.argsort(ids, kind="stable")
    first = 0 if ask.low is None else np.searchsorted(ids, ask.low, "left", order)
    last = len(ids) if ask.high is None else np.searchsorted(ids, ask.high, "right", order)
    wanted = order[first:last][: ask.limit]
    try:
        rows = await decoded([values[place] for place in wanted.tolist()])
    except InvalidAnswer:
        return None
    held = to_ids(rows) if isinstance(rows, pa.Table) else [row[0] for row in rows if type(row[0]) is int]
    return rows if np.array_equal(held, ids[wanted]) else None


def _one_by_one(fields: Sequence[Any], values: Sequence[Any], ask: Ask) -> Answer:
    held = [(id_of(field), raw) for field, raw in zip(fields, values, strict=True)]
    wanted = sorted(((row_id, raw) for row_id, raw in held if inside(row_id, ask)), key=lambda pair: pair[0])
    return [row_under(row_id, raw) for row_id, raw in wanted[: ask.limit]]
