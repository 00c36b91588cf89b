"""`PostgresShard`: a table on a Postgres server, read by SQLAlchemy and asyncpg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.shards.base import Ask
from labkit.shards.limiter import ANSWER_LIMIT, Limiter, checked_limit
from labkit.shards.postgres.changes import change_trigger, listen_on
from labkit.shards.postgres.copy import copied
from labkit.shards.postgres.failures import HadEnded
from labkit.shards.postgres.server import Pool, PostgresServer
from labkit.shards.postgres.statements import Statements, named, rows_of
from labkit.shards.postgres.url import as_url, shown
from labkit.shards.secrets import Secrets

__all__ = ["BULK", "PostgresShard", "change_trigger"]

BULK = 2000
"""IDs in a window from which on COPY is worth the question for the columns' types that goes before it."""


class PostgresShard:
    """Reads `id` and `name` of one table.

    `url` is `postgresql+asyncpg://user:password@host:port/database` (`postgresql://` is taken as such). `table` is a
    name, which may have its schema (`schema.table`), or a `sqlalchemy.Table`; `columns` are what it calls id and name.
    Connections are pooled, at most `pool_size` for each event loop that reads, without a transaction, and carry the
    reader's timeout as the server's `statement_timeout`, so that a query that nobody waits for ends there too. A pooler
    that refuses that setting needs `?statement_timeout=off` in the URL. Who listens has one connection more.

    `answer_limit` is how many bytes the answer to one read may have; a longer one is cut, and `Status.INVALID`. A read
    takes up to five times as much memory. A password takes the server's rounds of SCRAM, on a thread of its own; more
    than `MOST_ROUNDS` of `labkit.shards.postgres.scram` are refused.

    `bulk`: True reads by COPY BINARY, straight into Arrow; False uses a prepared SELECT, which is faster for a
    few rows; None (the default) uses COPY where the window owns `BULK` IDs or more. The answer is the same. A table
    whose columns are not an integer and a text is always read by SELECT.
    Raises `UsageError` for a URL of another kind or with options that are none, columns that are not two names of the
    table's, a `bulk` that is none of the three, a pool without a place, and an `answer_limit` below a byte.
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
            raise UsageError(f"bulk is True, False or None (by the size of the window), not {bulk!r}")
        self.url = as_url(url)
        self.table = named(table)
        self._bulk = bulk
        self._statements = Statements(rows_of(table, columns))
        self._server = PostgresServer(self.url, Limiter(pool_size).count, checked_limit(answer_limit))

    def __repr__(self) -> str:
        return f"PostgresShard({shown(self.url)!r}, table={self.table!r})"

    @property
    def secrets(self) -> Secrets:
        """What the server was sent and nobody is to see."""
        return self._server.secrets

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers becomes the `statement_timeout` of connections made from now on."""
        self._server.timeout = max(self._server.timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        pool = self._server.pool()
        async with pool.places.one(ask.deadline):
            for _ in range(pool.places.count):
                try:
                    return await self._read(pool, ask)
                except HadEnded as error:
                    ended = error  # not a retry: nothing was asked, and the pool has other connections
            raise ended

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by LISTEN where the table has the trigger of `change_trigger`. See `Listens.listen`."""
        async with self._server.pool().apart() as connection:  # not a place of the pool: those are for reads
            await listen_on(connection, self._statements.table, notify, beat, self._server.timeout)

    async def aclose(self) -> None:
        """Closes every socket at once, and keeps none from then on; a server that does not answer is not waited for."""
        await self._server.aclose()

    async def _read(self, pool: Pool, ask: Ask) -> Answer:
        bulk = self._bulk if self._bulk is not None else _is_large(ask)
        statement, bounds = self._statements.query(ask)
        written = self._statements.written(ask) if bulk else ""
        async with pool.connected(ask.deadline, written or statement, named=not bulk) as connection:
            if bulk:
                table = await copied(connection, written)
                if table is not None:
                    return table
            rows: list[Any] = await pool.fetch(connection, statement, bounds)
            return rows


def _is_large(ask: Ask) -> bool:
    """Whether as many rows can come as make COPY worth it."""
    if ask.limit is not None and ask.limit < BULK:
        return False
    owned = 0
    for low, high in ask.ranges:
        owned += high - low + 1
        if owned >= BULK:
            return True
    return False
