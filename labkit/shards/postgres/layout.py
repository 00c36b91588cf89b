"""The columns that a Postgres shard reads, and how: by SELECT of rows or of records, or by COPY."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.postgres.columns import Column, schema_of
from labkit.shards.postgres.copy import batch_of, copy_rows
from labkit.shards.postgres.decoding import PADDING, integers
from labkit.shards.postgres.server import Connection, Pool
from labkit.shards.postgres.statements import Statements
from labkit.tables import PIECE, SCHEMA, InvalidAnswer

__all__ = ["CHANGED", "Layout"]

CHANGED = "the columns of the table changed during the read"


class Layout:
    """Some columns of a table, the key first. `width` is how many the table has, if a new one must not go unnoticed."""

    def __init__(
        self, table: Any, columns: tuple[Column, ...], width: int | None, others: tuple[Column, ...] = ()
    ) -> None:
        self.columns, self._width = columns, width
        self.schema = schema_of(columns)
        self._table, self._others = table, others
        self._parts: dict[tuple[str, ...], Layout] = {}

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self._table, self.columns, self._others, guarded=self._width is not None)

    def of(self, names: tuple[str, ...] | None) -> Layout:
        """The key and those of `names` that are there; itself if None."""
        if names is None:
            return self
        if names not in self._parts:
            key, *others = self.columns
            by_name = {column.name: column for column in others}
            some = (key, *(by_name[name] for name in names if name in by_name))
            self._parts[names] = Layout(self._table, some, self._width, tuple(others))
        return self._parts[names]

    def query(self, ask: Ask) -> tuple[str, list[int]]:
        """The SELECT for a query, and its parameters."""
        return self._statements.rows(ask) if self._is_pair else self._statements.records(ask)

    async def read(self, pool: Pool, connection: Connection, ask: Ask, *, bulk: bool) -> Answer:
        """The rows in the window that the filters want. Raises `InvalidAnswer` if the table has other columns by now,
        and what asyncpg raises.
        """
        if bulk:
            return await copy_rows(connection, self._statements.literal(ask), self.columns)
        rows = await pool.fetch(connection, *self.query(ask))
        if self._width is not None and rows and rows[0][-1] != self._width:
            raise InvalidAnswer(CHANGED)
        if self._is_pair:
            return rows if self._width is None else [(row[0], row[1]) for row in rows]
        return await self._decoded([row[0] for row in rows])

    @property
    def _is_pair(self) -> bool:
        """Whether rows are (id, name), which the reader takes as they are."""
        return self.schema is SCHEMA or bool(self.schema.equals(SCHEMA))

    async def _decoded(self, records: Sequence[bytes]) -> pa.Table:
        batches = []
        for start in range(0, len(records), PIECE):
            batches.append(self._batch(records[start : start + PIECE], start))
            await asyncio.sleep(0)
        return pa.Table.from_batches(batches, self.schema)

    def _batch(self, records: Sequence[bytes], before: int) -> pa.RecordBatch:
        """Records in the format of `record_send`: the number of values, and of each its type, length and bytes.

        Source: PostgreSQL, `rowtypes.c`.
        """
        data = b"".join([*records, PADDING])
        ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)))
        at = np.concatenate([[0], ends[:-1]])
        if (integers(data, at, 4) != len(self.columns)).any():
            raise InvalidAnswer(CHANGED)
        at, begins, lengths = at + 4, [], []
        for column in self.columns:
            if (integers(data, at, 4) != column.declared).any():
                raise InvalidAnswer(CHANGED)
            length = integers(data, at + 4, 4).astype(np.int64)
            begins.append(at + 8)
            lengths.append(length)
            at = np.minimum(at + 8 + np.maximum(length, 0), len(data) - len(PADDING))
        if (at != ends).any():
            raise InvalidAnswer("the answer cannot be understood: a record is malformed")
        if (lengths[0] < 0).any():
            row = before + int(np.argmax(lengths[0] < 0)) + 1
            raise InvalidAnswer(f"row {row} has NULL for {self.columns[0].name}, the key")
        return batch_of(self.columns, self.schema, data, begins, lengths, before)
