"""Rows in a hash: the field is the id, in decimal; the value is the whole row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Capabilities, Run, inside, narrow
from labkit.shards.redis.layouts.bulk import MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.byte_strings import ByteStrings, Many, Offsets, pieces_of
from labkit.shards.redis.layouts.columns import Pairs
from labkit.shards.redis.layouts.numbers import ids_inside
from labkit.shards.redis.layouts.ordering import arranged
from labkit.shards.redis.layouts.records import Records
from labkit.shards.redis.layouts.rows import array, as_list, id_of, row_under
from labkit.shards.redis.layouts.writing import Rows, batches
from labkit.tables import SCHEMA, InvalidAnswer

__all__ = ["Hash"]


class Hash:
    """Rows are fetched by id; there is no order, so a wide window or a page costs the whole hash. Without a `schema`
    they are (id, name).
    """

    name = "hash"
    can = Capabilities(order=False, prune=False, page=False, moment=True)

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self.schema = SCHEMA if schema is None else schema
        self._records = None if schema is None else Records(schema)

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """HMGET of the IDs of a narrow window, else HGETALL. See `Layout.read`."""
        ids = narrow(ask)
        if ids is not None:
            values = as_list(await run("HMGET", key, *ids), len(ids))
            if self._records is not None:
                return _under(self._records, ids, values)
            return [row_under(row_id, raw) for row_id, raw in zip(ids, values, strict=True) if raw is not None]
        flat = array(await run("HGETALL", key))
        if len(flat) % 2:
            raise InvalidAnswer(f"the answer to HGETALL has an odd number of elements: {len(flat)}")
        if self._records is not None:
            return await _at_once(self._records, flat, ask)
        return (
            _one_by_one(as_list(flat), ask) if len(flat) <= 2 * MAX_ONE_BY_ONE else await _at_once(Pairs(), flat, ask)
        )

    def write(self, key: str, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """HSET. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "HSET", key, *(word for row_id, stored in batch for word in (row_id, stored))

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """See `Layout.subscription`."""
        return "SUBSCRIBE", f"__keyspace@{database}__:{key}"


def _under(records: Records, ids: Sequence[int], values: list[Any]) -> pa.Table:
    """The rows that there are of those ids."""
    there = [place for place, raw in enumerate(values) if raw is not None]
    some, held = np.array(ids, np.int64)[there], [values[place] for place in there]
    batch = records.rows_under(some, held)
    if batch is None:
        raise records.first_wrong(some, held)[1]
    return pa.Table.from_batches([batch], records.schema)


async def _at_once(form: Records | Pairs, flat: list[Any] | ByteStrings | Many, ask: Ask) -> pa.Table:
    """The wanted rows as a table. An invalid row does not affect a page that ends before it."""
    batches: list[pa.RecordBatch] = []
    wrong: tuple[int, InvalidAnswer] | None = None
    for piece in pieces_of(flat, 2 * form.step):
        await asyncio.sleep(0)
        ids, values = _wanted(piece[::2], piece[1::2], ask)
        batch = form.rows_under(ids, values)
        if batch is None:
            found = form.first_wrong(ids, values)
            wrong = min(wrong or found, found, key=lambda one: one[0])
            before = np.flatnonzero(ids < wrong[0])
            batch = form.rows_under(ids[before], _at(values, before))
        if batch is not None and batch.num_rows:
            batches.append(batch)
    table = await arranged(batches, ask.limit, form.schema)
    if wrong is not None and (ask.limit is None or table.num_rows < ask.limit or _last(table, ask.limit) > wrong[0]):
        raise wrong[1]
    return table


def _wanted(fields: Any, values: Any, ask: Ask) -> tuple[npt.NDArray[np.int64], Any]:
    """The IDs in the window, and their values."""
    ids, places = ids_inside(fields, ask)
    return ids, values if len(places) == len(values) else _at(values, places)


def _at(values: Any, places: Offsets) -> Any:
    return values.at(places) if isinstance(values, ByteStrings) else [values[place] for place in places.tolist()]


def _last(table: pa.Table, limit: int) -> int:
    """The last id of a page."""
    return int(table.column(0)[limit - 1].as_py())


def _one_by_one(flat: list[Any], ask: Ask) -> Answer:
    held = [(id_of(field), raw) for field, raw in zip(flat[::2], flat[1::2], strict=True)]
    wanted = sorted(((row_id, raw) for row_id, raw in held if inside(row_id, ask)), key=lambda pair: pair[0])
    return [row_under(row_id, raw) for row_id, raw in wanted[: ask.limit]]
