"""`PostgresShard`: a table on a Postgres server, read with SQLAlchemy and asyncpg."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import asyncpg
import pyarrow as pa
import sqlalchemy as sa

from labkit._checks import as_names
from labkit._filters import fitted
from labkit.aggregates import Partial
from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.shards.base import Ask, Shard
from labkit.shards.limiter import ANSWER_LIMIT, Limiter, checked_limit
from labkit.shards.postgres.changes import change_trigger, listen_on
from labkit.shards.postgres.columns import CATALOGUE, KEYS, columns_of, width_of
from labkit.shards.postgres.failures import SessionEnded
from labkit.shards.postgres.layout import Layout
from labkit.shards.postgres.records import OtherTable
from labkit.shards.postgres.rows import CHANGED
from labkit.shards.postgres.server import Connection, Pool, PostgresServer
from labkit.shards.postgres.statements import quoted_table, table_of, with_catalogue
from labkit.shards.postgres.url import as_url, shown
from labkit.shards.secrets import Secrets
from labkit.tables import InvalidAnswer, to_ids

__all__ = ["BULK", "PostgresShard", "change_trigger"]

BULK = 2000
"""IDs in a window from which on COPY is worth its extra round trip for the catalogue."""
_CHANGED = (asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError, asyncpg.GroupingError)
"""What a statement for other columns raises: one is gone, or of a type that cannot be compared. (Where a column `count`
is gone, Postgres takes `t.count` for `count(t)`.)"""
_T = TypeVar("_T")


class PostgresShard(Shard):
    """Reads one table.

    `url` is `postgresql+asyncpg://user:password@host:port/database`, or the same with `postgresql://`. `table` is a
    name, optionally with its schema (`schema.table`), or a `sqlalchemy.Table`. `key` is the column of its IDs: a
    smallint, integer or bigint, the first column of every answer. `columns` are the others to read; None is all, also
    those that are added later.

    Answers have the table's names, and Arrow types from its catalogue: integers, floats, boolean, text, bytea, date,
    time, timestamp, timestamp with time zone (as UTC), interval; numeric with a precision as decimal128; uuid, json,
    jsonb and enums as text; arrays of these, of one dimension, as lists; domains as their base. Everything else, such
    as numeric without a precision, is the server's text. The first read, and every later one after the table has
    changed, asks for the catalogue first.

    Connections are pooled, at most `pool_size` per event loop, without a transaction. They pass the reader's timeout on
    as `statement_timeout`, so that abandoned queries end on the server too; a pooler that refuses that setting needs
    `?statement_timeout=off` in the URL. `listen` uses one connection more.

    `answer_limit` bounds the bytes of the answer to one read; a longer one is cut off, and `Status.INVALID`. A read
    takes up to five times as much memory. A password takes the server's number of SCRAM rounds, on a separate thread;
    more than `MOST_ROUNDS` of `labkit.shards.postgres.scram` are refused.

    `bulk`: True reads by COPY BINARY, straight into Arrow; False uses a prepared SELECT, which is faster for a
    few rows; None (the default) uses COPY if the shard owns `BULK` IDs or more in the window. The answer is the same.
    Raises `UsageError` for a URL of another kind or with unknown options, a `key` that is not a name, `columns` that
    are not a list of different names, or not of the `sqlalchemy.Table`, any other `bulk`, a `pool_size` below 1, and an
    `answer_limit` below 1.
    """

    selects = True
    """See `Selects`."""
    aggregates = True
    """See `Aggregates`."""

    def __init__(
        self,
        url: str,
        table: str | sa.Table,
        *,
        key: str = "id",
        columns: Sequence[str] | None = None,
        pool_size: int = 10,
        bulk: bool | None = None,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        if bulk not in (None, True, False):
            raise UsageError(f"bulk must be True, False or None (by the size of the window), not {bulk!r}")
        self.url = as_url(url)
        self.table = table.fullname if isinstance(table, sa.Table) else table
        self.key, self.columns = _checked_names(table, key, columns)
        self._bulk = bulk
        self._source = table_of(table)
        self._name = quoted_table(self._source)
        self._layout: Layout | None = None
        self._server = PostgresServer(self.url, Limiter(pool_size).count, checked_limit(answer_limit))

    def __repr__(self) -> str:
        return f"PostgresShard({shown(self.url)!r}, table={self.table!r})"

    @property
    def secrets(self) -> Secrets:
        """What was sent to the server and must not be shown."""
        return self._server.secrets

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers becomes the `statement_timeout` of new connections."""
        self._server.timeout = max(self._server.timeout, timeout)

    async def read(self, ask: Ask) -> Answer | Partial:
        """The rows in the window, ascending by key, or their aggregates. See `Shard.read`."""
        return await self._once(partial(self._read, ask), ask.deadline)

    async def describe(self, deadline: float) -> pa.Schema:
        """The columns. See `Describes.describe`."""
        return await self._once(partial(self._described, deadline), deadline)

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by LISTEN, if the table has the trigger of `change_trigger`. See `Listens.listen`."""
        async with self._server.pool().apart() as connection:  # not from the pool, which is for reads
            await listen_on(connection, self._name, notify, beat, self._server.timeout)

    async def aclose(self) -> None:
        """Closes every socket immediately, and keeps none from then on; does not wait for the server."""
        await self._server.aclose()

    async def _once(self, ask: Callable[[Pool], Awaitable[_T]], deadline: float) -> _T:
        pool = self._server.pool()
        async with pool.limiter.one(deadline):
            for _ in range(pool.limiter.count):
                try:
                    return await ask(pool)
                except SessionEnded as error:
                    ended = error  # not a retry: nothing was executed, and the pool has other connections
            raise ended

    async def _described(self, deadline: float, pool: Pool) -> pa.Schema:
        async with pool.connected(deadline, CATALOGUE, named=True) as connection:
            self._layout = await self._look(pool, connection)
            return self._layout.schema

    async def _read(self, ask: Ask, pool: Pool) -> Answer | Partial:
        """Reads by the columns that are known. If that fails because they are others now, reads again by those."""
        known = self._layout
        if known is not None:
            try:
                return await self._read_by(known, ask, pool)
            except InvalidAnswer:
                self._layout = None
        if self._is_bulk(ask) or ask.filters or ask.aggregates:
            return await self._read_by(None, ask, pool)
        return await self._read_first(ask, pool)

    async def _read_first(self, ask: Ask, pool: Pool) -> Answer | Partial:
        """Reads the catalogue and the rows by one statement, without a round trip more than by columns that are known.
        The rows are read again if some column must be converted by the server.
        """
        names = self._wanted(ask)
        statement, parameters = with_catalogue(self._source, self.key, names, ask)
        async with pool.connected(ask.deadline, statement, named=True) as connection:
            try:
                rows = await pool.fetch(connection, statement, parameters)
            except _CHANGED:
                rows = None
        if rows is None:
            return await self._read_by(None, ask, pool)  # which says what is missing
        catalogue = [row[:-1] for row in rows if row[-1] is None]
        layout = self._layout = self._layout_of(catalogue)
        part = layout.of(ask.columns)
        if any(column.cast for column in part.columns):
            return await self._read_by(layout, ask, pool)
        order = columns_of(catalogue) if names is None else None
        table = await part.decoded([row[-1] for row in rows if row[-1] is not None], order)
        ids = to_ids(table)
        # A server that reads in parallel may put sorted rows of a UNION in another order.
        return table.sort_by(self.key) if (ids[1:] < ids[:-1]).any() else table

    def _wanted(self, ask: Ask) -> tuple[str, ...] | None:
        """The columns to read, the key first; None is all of the table's, in its order."""
        if self.columns is None and ask.columns is None:
            return None
        some = self.columns if ask.columns is None else ask.columns
        return self.key, *(name for name in some or () if name != self.key and name in (self.columns or some or ()))

    def _is_bulk(self, ask: Ask) -> bool:
        if ask.filters or ask.aggregates:
            return False
        return self._bulk if self._bulk is not None else _is_large(ask)

    async def _read_by(self, known: Layout | None, ask: Ask, pool: Pool) -> Answer | Partial:
        bulk = self._is_bulk(ask)
        if known is None:
            first = CATALOGUE
        else:
            ask = _fitted(ask, known)
            layout = known.of(ask.columns)
            first = "" if bulk else (layout.aggregates(ask) if ask.aggregates else layout.query(ask))[0]
        async with pool.connected(ask.deadline, first, named=True) as connection:
            layout = known or await self._look(pool, connection)
            if known is None:
                ask = _fitted(ask, layout)
            try:
                answer = await _answer(layout.of(ask.columns), pool, connection, ask, bulk)
            except OtherTable as other:
                now = await self._look(pool, connection)
                if now.columns != layout.columns or now.width != other.width:
                    raise InvalidAnswer(CHANGED) from None
                layout, answer = now, other.answer
            except _CHANGED:
                if known is None:
                    raise
                raise InvalidAnswer(CHANGED) from None
            if bulk and layout.columns != (await self._look(pool, connection)).columns:
                raise InvalidAnswer(CHANGED)
        self._layout = layout
        return answer

    async def _look(self, pool: Pool, connection: Connection) -> Layout:
        """The columns that the table has now. Raises what `_layout_of` does."""
        return self._layout_of(await pool.fetch(connection, CATALOGUE, [self._name]))

    def _layout_of(self, rows: Sequence[Any]) -> Layout:
        """The wanted columns in the rows of `CATALOGUE`. Raises `InvalidAnswer` if one is missing, or if the key is not
        of integers.
        """
        found = {column.name: column for column in columns_of(rows)}
        there = f"the table has {', '.join(found)}"
        if self.key not in found:
            raise InvalidAnswer(f"no column {self.key} for a key: {there}")
        if found[self.key].oid not in KEYS or found[self.key].is_list:
            raise InvalidAnswer(f"the key {self.key} is {found[self.key].sql}, not smallint, integer or bigint")
        names = [name for name in (found if self.columns is None else self.columns) if name != self.key]
        if lacking := [name for name in names if name not in found]:
            raise InvalidAnswer(f"no column {', '.join(lacking)}: {there}")
        columns = (found[self.key], *(found[name] for name in names))
        return Layout(self._source, columns, width_of(rows) if self.columns is None else None)


async def _answer(layout: Layout, pool: Pool, connection: Connection, ask: Ask, bulk: bool) -> Answer | Partial:
    if ask.aggregates:
        return await layout.aggregate(pool, connection, ask)
    return await layout.read(pool, connection, ask, bulk=bulk)


def _fitted(ask: Ask, layout: Layout) -> Ask:
    """With the filters' values as those of the columns; `InvalidAnswer` if they are none."""
    if ask.filters is None:
        return ask
    try:
        return replace(ask, filters=fitted(ask.filters, layout.schema))
    except UsageError as error:
        raise InvalidAnswer(str(error)) from None


def _checked_names(
    table: str | sa.Table, key: str, columns: Sequence[str] | None
) -> tuple[str, tuple[str, ...] | None]:
    if not isinstance(key, str) or not key:
        raise UsageError(f"key must be the name of a column, not {key!r}")
    names = None if columns is None else as_names(columns)
    if isinstance(table, sa.Table):
        for name in (key, *(names or ())):
            if name not in table.c:
                raise UsageError(f"table {table.name!r} has no column {name!r}: it has {', '.join(table.c.keys())}")
    return key, names


def _is_large(ask: Ask) -> bool:
    """Whether there may be enough rows to make COPY worthwhile."""
    if ask.limit is not None and ask.limit < BULK:
        return False
    owned = 0
    for low, high in ask.ranges:
        owned += high - low + 1
        if owned >= BULK:
            return True
    return False
