"""Rows in hashes `key:id`, a field per column; see `labkit.shards.redis.layouts.keys`.

Values are plain text (`labkit.shards.redis.layouts.values.of_bytes`); a field that is absent is NULL. The key column is
from the Redis key; where a field repeats it, that must be equal. A field that is no column makes the answer invalid, so
that a migration half done is seen; it goes unnoticed only if a read asks for some columns, since only those are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from redis.exceptions import ResponseError

from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Run
from labkit.shards.redis.layouts.keys import KeyPerRow
from labkit.shards.redis.layouts.ordering import Ids
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

    async def _fetched(self, run: Run, key: str, ids: Ids, ask: Ask) -> list[list[Any]]:
        """The fields and values of each hash; of one that does not exist, an empty list."""
        keys = [f"{key}:{row_id}" for row_id in ids.tolist()]
        if ask.columns is None:
            return await _answers(run, [("HGETALL", one) for one in keys])
        names = self._columns(ask).names
        rows = [as_list(row, len(names)) for row in await _answers(run, [("HMGET", one, *names) for one in keys])]
        # Where all are NULL, perhaps nothing is there.
        empty = [place for place, row in enumerate(rows) if row.count(None) == len(row)]
        for place, count in zip(empty, await _answers(run, [("EXISTS", keys[place]) for place in empty]), strict=True):
            rows[place] = rows[place] if count else []
        return rows

    def _decoded(self, ids: Ids, found: list[list[Any]], ask: Ask) -> pa.RecordBatch:
        there = [place for place, row in enumerate(found) if row]
        ids, rows, schema = ids[there], [found[place] for place in there], self._columns(ask)
        if ask.columns is None:
            columns = self._by_field(ids, rows)
        else:
            columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        for row_id, value in zip(ids.tolist(), columns[0], strict=True):
            if value is not None and value != b"%d" % row_id:
                raise InvalidAnswer(f"under id {row_id} is another row: {schema.names[0]} {_named(value)}")
        return _batch(schema, ids, columns[1:])

    def _by_field(self, ids: Ids, replies: list[list[bytes]]) -> Sequence[Sequence[bytes | None]]:
        """The values of each column, the key's too, from the fields and values of rows."""
        try:
            rows = [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in replies]
        except (TypeError, ValueError):
            raise InvalidAnswer("an answer to HGETALL is not fields with their values") from None
        if not self._known.issuperset(set().union(*rows)):
            row_id, odd = next(
                (row_id, name)
                for row_id, row in zip(ids.tolist(), rows, strict=True)
                for name in row
                if name not in self._known
            )
            known = ", ".join(self.schema.names)
            raise InvalidAnswer(f"row {row_id}: field {_named(odd)} is not in the schema: {known}")
        return [[row.get(name) for row in rows] for name in self._names]


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


def _batch(schema: pa.Schema, ids: Ids, values: Sequence[Sequence[bytes | None]]) -> pa.RecordBatch:
    """The rows by their values, those of the key left out."""
    columns = []
    for field, some in zip(list(schema)[1:], values, strict=True):
        try:
            columns.append(of_bytes(some, field.type))
        except WRONG:
            raise _misfit(ids, field, some) from None
    return pa.RecordBatch.from_arrays([pa.array(ids), *columns], schema=schema)


def _misfit(ids: Ids, field: pa.Field, values: Sequence[bytes | None]) -> InvalidAnswer:
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
