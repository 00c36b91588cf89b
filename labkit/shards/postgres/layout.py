"""The columns that a Postgres shard reads, and how: by SELECT of rows or of records, or by COPY."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from labkit.aggregates import Partial, refuse_misfits
from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.shards.base import Ask
from labkit.shards.postgres.aggregation import between, partial_in
from labkit.shards.postgres.columns import Column, schema_of
from labkit.shards.postgres.copy import copy_rows
from labkit.shards.postgres.records import OtherTable, records_batch
from labkit.shards.postgres.server import Connection, Pool
from labkit.shards.postgres.statements import Statements
from labkit.tables import PIECE, SCHEMA, InvalidAnswer

__all__ = ["Layout"]


class Layout:
    """Some columns of a table, the key first. `width` is `width_of` the table, if a new one must not go unnoticed."""

    def __init__(
        self, table: Any, columns: tuple[Column, ...], width: int | None, others: tuple[Column, ...] = ()
    ) -> None:
        self.columns, self.width = columns, width
        self.schema = schema_of(columns)
        self._table, self._others = table, others
        self._parts: dict[tuple[str, ...], Layout] = {}
        self._last: tuple[Ask, tuple[str, list[int]]] | None = None

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self._table, self.columns, self._others, guarded=self.width is not None)

    def of(self, names: tuple[str, ...] | None) -> Layout:
        """The key and those of `names` that are there; itself if None."""
        if names is None:
            return self
        if names not in self._parts:
            key, *others = self.columns
            by_name = {column.name: column for column in others}
            some = (key, *(by_name[name] for name in names if name in by_name))
            self._parts[names] = Layout(self._table, some, self.width, tuple(others))
        return self._parts[names]

    def query(self, ask: Ask) -> tuple[str, list[int]]:
        """The SELECT for a query, and its parameters: wanted once to find a connection, and again to use it."""
        if self._last is None or self._last[0] is not ask:
            self._last = ask, self._statements.rows(ask) if self._is_pair else self._statements.records(ask)
        return self._last[1]

    def aggregates(self, ask: Ask) -> tuple[str, list[Any]]:
        """The SELECT for the aggregates of a query, and its parameters. Raises `InvalidAnswer` for aggregates that are
        not defined for these columns.
        """
        try:
            refuse_misfits(ask.aggregates, self.schema)
        except UsageError as error:
            raise InvalidAnswer(str(error)) from None
        statement, parameters = self._statements.aggregates(ask)
        gaps = list(between(ask))
        return statement, [*parameters, [low for low, _ in gaps], [high for _, high in gaps]]

    async def aggregate(self, pool: Pool, connection: Connection, ask: Ask) -> Partial:
        """What the server computes. Raises `OtherTable`; `InvalidAnswer` if the columns are others by now, if an ID is
        NULL, there twice or in none of the ranges, or if a value cannot be held; and what asyncpg raises.
        """
        [row] = await pool.fetch(connection, *self.aggregates(ask))
        found = partial_in(row, self.columns, self.schema, ask.aggregates)
        if self.width is not None and row[-1] != self.width:
            raise OtherTable(found, row[-1])
        return found

    async def read(self, pool: Pool, connection: Connection, ask: Ask, *, bulk: bool) -> Answer:
        """The rows in the window that the filters want. Raises `OtherTable`, `InvalidAnswer` if the columns are others
        by now, and what asyncpg raises.
        """
        if bulk:
            return await copy_rows(connection, self._statements.literal(ask), self.columns)
        rows = await pool.fetch(connection, *self.query(ask))
        if not self._is_pair:
            found: Answer = await self.decoded([row[0] for row in rows])
        else:
            found = rows if self.width is None else [(row[0], row[1]) for row in rows]
        if self.width is not None and rows and rows[0][-1] != self.width:
            raise OtherTable(found, rows[0][-1])
        return found

    @property
    def _is_pair(self) -> bool:
        """Whether rows are (id, name), which the reader takes as they are."""
        return self.schema is SCHEMA or bool(self.schema.equals(SCHEMA))

    async def decoded(self, records: Sequence[bytes], order: Sequence[Column] | None = None) -> pa.Table:
        """Records in binary form as a table; `order` is that of the columns in a record, if it is another one. Raises
        what `records_batch` does.
        """
        batches = []
        for start in range(0, len(records), PIECE):
            batches.append(records_batch(self.columns, self.schema, records[start : start + PIECE], start, order))
            await asyncio.sleep(0)
        return pa.Table.from_batches(batches, self.schema)
