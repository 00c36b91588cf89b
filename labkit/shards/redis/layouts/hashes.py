"""Rows in hashes `key:id`, a field per column; see `labkit.shards.redis.layouts.keys`.

Values are plain text (`labkit.shards.redis.layouts.values.of_bytes`); a field that is absent is NULL. The key column is
from the Redis key; where a field repeats it, that must be equal. A field that is no column makes the answer invalid, so
that a migration half done is seen; it goes unnoticed only if a read asks for some columns, since only those are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from redis.exceptions import ResponseError

from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Run
from labkit.shards.redis.layouts.keys import KeyPerRow
from labkit.shards.redis.layouts.records import misfit, step_of
from labkit.shards.redis.layouts.rows import as_list, shown
from labkit.shards.redis.layouts.values import WRONG, of_bytes
from labkit.shards.redis.layouts.writing import Rows, parts, texts
from labkit.tables import SCHEMA, InvalidAnswer

__all__ = ["Hashes"]

MANY = 40_000
"""Most strings that the answers to one pipeline are expected to hold."""


class Hashes(KeyPerRow):
    """Rows are fetched by HGETALL, some columns of them by HMGET, in pipelines. Without a `schema` they are
    (id, name).
    """

    name = "hashes"

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self.schema = SCHEMA if schema is None else schema
        self._names = [name.encode() for name in self.schema.names]
        self._known = frozenset(self._names)

    def write(self, key: str, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """DEL of a batch of rows, so that none keeps a field, then HSET of each. See `Layout.write`."""
        for part in parts(rows, BATCH):
            ids = part.column(0).to_pylist()
            yield "DEL", *(f"{key}:{row_id}" for row_id in ids)
            for row_id, pairs in zip(ids, texts(part), strict=True):
                yield "HSET", f"{key}:{row_id}", *(word for pair in pairs for word in pair)

    def _columns(self, ask: Ask) -> pa.Schema:
        if ask.columns is None:
            return self.schema
        key, *others = self.schema
        return pa.schema([key, *(field for field in others if field.name in ask.columns)])

    def _step(self) -> int:
        return min(BATCH, max(1, MANY // (2 * len(self._names))), step_of(self.schema))

    async def _batch(self, run: Run, key: str, ids: npt.NDArray[np.int64], ask: Ask) -> pa.RecordBatch:
        batches, step = [], self._step()
        for start in range(0, len(ids), step):
            some = ids[start : start + step]
            batches.append(
                await (self._whole(run, key, some) if ask.columns is None else self._some(run, key, some, ask))
            )
        return pa.concat_batches(batches)

    async def _whole(self, run: Run, key: str, ids: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """The rows that exist, with all their fields."""
        replies = await _answers(run, [("HGETALL", f"{key}:{row_id}") for row_id in ids.tolist()])
        there = [place for place, reply in enumerate(replies) if reply]
        rows = [replies[place] for place in there]
        if any(reply[::2] != self._names[1:] for reply in rows):
            return _batch(self.schema, ids[there], self._by_column(ids[there].tolist(), rows))
        values = list(zip(*(reply[1::2] for reply in rows), strict=True))
        return _batch(self.schema, ids[there], values or [()] * (len(self._names) - 1))

    def _by_column(self, ids: list[int], replies: list[list[bytes]]) -> list[list[bytes | None]]:
        """The values of each column but the key."""
        rows = []
        for row_id, reply in zip(ids, replies, strict=True):
            row = dict(zip(reply[::2], reply[1::2], strict=True))
            if not self._known.issuperset(row):
                odd = next(name for name in row if name not in self._known)
                known = ", ".join(self.schema.names)
                raise InvalidAnswer(f"row {row_id}: field {_named(odd)} is not in the schema: {known}")
            if row.get(self._names[0], b"%d" % row_id) != b"%d" % row_id:
                raise InvalidAnswer(
                    f"under id {row_id} is another row: {self.schema.names[0]} {_named(row[self._names[0]])}"
                )
            rows.append(row)
        return [[row.get(name) for row in rows] for name in self._names[1:]]

    async def _some(self, run: Run, key: str, ids: npt.NDArray[np.int64], ask: Ask) -> pa.RecordBatch:
        """The rows that exist, with the columns that are wanted."""
        schema = self._columns(ask)
        keys = [f"{key}:{row_id}" for row_id in ids.tolist()]
        rows = await _answers(run, [("HMGET", one, *schema.names) for one in keys])
        for row_id, row in zip(ids.tolist(), rows, strict=True):
            if row[0] not in (None, b"%d" % row_id):
                raise InvalidAnswer(f"under id {row_id} is another row: {schema.names[0]} {_named(row[0])}")
        # Where all are NULL, perhaps nothing is there.
        empty = [place for place, row in enumerate(rows) if not any(value is not None for value in row)]
        counts = await _answers(run, [("EXISTS", keys[place]) for place in empty])
        gone = {place for place, count in zip(empty, counts, strict=True) if not count}
        there = [place for place in range(len(rows)) if place not in gone]
        values = list(zip(*(rows[place] for place in there), strict=True))[1:]
        return _batch(schema, ids[there], values or [()] * (len(schema) - 1))


async def _answers(run: Run, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The answers to several commands, each about one key; `InvalidAnswer` for a key that is not a hash."""
    replies = await run.many(questions) if questions else []
    for (command, key, *_), reply in zip(questions, replies, strict=True):
        if isinstance(reply, ResponseError):
            if str(reply).startswith("WRONGTYPE"):
                raise InvalidAnswer(f"key {shown(key)} holds no row: it is not a hash")
            raise reply
        if command != "EXISTS":
            as_list(reply)
    return replies


def _batch(schema: pa.Schema, ids: npt.NDArray[np.int64], values: Sequence[Sequence[bytes | None]]) -> pa.RecordBatch:
    """The rows by their values, those of the key left out."""
    columns = []
    for field, some in zip(list(schema)[1:], values, strict=True):
        try:
            columns.append(of_bytes(some, field.type))
        except WRONG:
            raise _misfit(ids, field, some) from None
    return pa.RecordBatch.from_arrays([pa.array(ids), *columns], schema=schema)


def _misfit(ids: npt.NDArray[np.int64], field: pa.Field, values: Sequence[bytes | None]) -> InvalidAnswer:
    """The error for the first value that is not of the column's type."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            of_bytes(values[low:middle], field.type)
        except WRONG:
            high = middle
        else:
            low = middle
    return misfit(int(ids[low]), field, values[low])


def _named(raw: Any) -> str:
    return shown(raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else raw)
