"""`PostgresShard`: a table on a Postgres server, read with SQLAlchemy and asyncpg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.shards.base import Ask, Shard
from labkit.shards.limiter import ANSWER_LIMIT, Limiter, checked_limit
from labkit.shards.postgres.changes import change_trigger, listen_on
from labkit.shards.postgres.copy import copy_rows
from labkit.shards.postgres.failures import SessionEnded
from labkit.shards.postgres.server import Pool, PostgresServer
from labkit.shards.postgres.statements import Statements, name_of, rows_of
from labkit.shards.postgres.url import as_url, shown
from labkit.shards.secrets import Secrets

__all__ = ["BULK", "PostgresShard", "change_trigger"]

BULK = 2000
"""IDs in a window from which on COPY is worth its extra round trip for the columns' types."""


class PostgresShard(Shard):
    """Reads `id` and `name` of one table.

    `url` is `postgresql+asyncpg://user:password@host:port/database`, or the same with `postgresql://`. `table` is a
    name, optionally with its schema (`schema.table`), or a `sqlalchemy.Table`; `columns` are its names for id and name.
    Connections are pooled, at most `pool_size` per event loop, without a transaction. They pass the reader's timeout on
    as `statement_timeout`, so that abandoned queries end on the server too; a pooler that refuses that setting needs
    `?statement_timeout=off` in the URL. `listen` uses one connection more.

    `answer_limit` bounds the bytes of the answer to one read; a longer one is cut off, and `Status.INVALID`. A read
    takes up to five times as much memory. A password takes the server's number of SCRAM rounds, on a separate thread;
    more than `MOST_ROUNDS` of `labkit.shards.postgres.scram` are refused.

    `bulk`: True reads by COPY BINARY, straight into Arrow; False uses a prepared SELECT, which is faster for a
    few rows; None (the default) uses COPY if the shard owns `BULK` IDs or more in the window. The answer is the same. A
    table whose columns are not an integer and a text is always read by SELECT.
    Raises `UsageError` for a URL of another kind or with unknown options, `columns` that are not two of the table's,
    any other `bulk`, a `pool_size` below 1, and an `answer_limit` below 1.
    """

    def __init__(
        self,
        url: str,
        table: str | sa.Table,
        *,
        columns: tuple[str, str] = ("id", "name"),
        pool_size: int = 10,
        bulk: bool | None = None,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        if bulk not in (None, True, False):
            raise UsageError(f"bulk must be True, False or None (by the size of the window), not {bulk!r}")
        self.url = as_url(url)
        self.table = name_of(table)
        self._bulk = bulk
        self._statements = Statements(rows_of(table, columns))
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

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        pool = self._server.pool()
        async with pool.limiter.one(ask.deadline):
            for _ in range(pool.limiter.count):
                try:
                    return await self._read(pool, ask)
                except SessionEnded as error:
                    ended = error  # not a retry: nothing was executed, and the pool has other connections
            raise ended

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by LISTEN, if the table has the trigger of `change_trigger`. See `Listens.listen`."""
        async with self._server.pool().apart() as connection:  # not from the pool, which is for reads
            await listen_on(connection, self._statements.table, notify, beat, self._server.timeout)

    async def aclose(self) -> None:
        """Closes every socket immediately, and keeps none from then on; does not wait for the server."""
        await self._server.aclose()

    async def _read(self, pool: Pool, ask: Ask) -> Answer:
        bulk = self._bulk if self._bulk is not None else _is_large(ask)
        statement, bounds = self._statements.query(ask)
        literal = self._statements.literal(ask) if bulk else ""
        async with pool.connected(ask.deadline, literal or statement, named=not bulk) as connection:
            if bulk:
                table = await copy_rows(connection, literal)
                if table is not None:
                    return table
            rows: list[Any] = await pool.fetch(connection, statement, bounds)
            return rows


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
