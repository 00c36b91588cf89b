"""`PostgresShard`: a table on a Postgres server, read with SQLAlchemy 2 on asyncpg."""

from __future__ import annotations

import asyncio
import select
import weakref
from typing import TYPE_CHECKING, Any

import asyncpg  # noqa: F401 - SQLAlchemy would import it in the middle of the first read
import sqlalchemy as sa
import sqlalchemy.dialects.postgresql.asyncpg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import DisconnectionError as StaleConnection
from sqlalchemy.ext.asyncio import create_async_engine

from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.shards.base import Ask, ShardFailure
from labkit.shards.places import Places
from labkit.shards.postgres_changes import change_trigger, listen_on
from labkit.shards.postgres_failures import HadEnded, connect_failure, is_stale_plan, query_failure
from labkit.shards.postgres_statements import Statements, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["PostgresShard", "change_trigger"]


class PostgresShard:
    """Reads `id` and `name` of one table.

    `url` is `postgresql+asyncpg://user:password@host:port/database` (`postgresql://` is taken as such);
    `table` may name its schema (`schema.table`); `columns` are what the table calls id and name. Connections are
    pooled, at most `pool_size`, without a transaction (AUTOCOMMIT), and carry the reader's timeout as the server's
    `statement_timeout`, so that a query that nobody waits for ends there too. Who listens has one more.
    Raises `UsageError` for a URL of another kind, for columns that are not two names, and a pool without a place.
    """

    def __init__(self, url: str, table: str, *, columns: tuple[str, str] = ("id", "name"), pool_size: int = 10) -> None:
        self.url = _as_url(url)
        self.table = table
        self._places = Places(pool_size)
        self._statements = Statements(rows_of(table, columns))
        self._timeout = 0.0
        self._engine: AsyncEngine | None = None
        self._raw: weakref.WeakSet[Any] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"PostgresShard({_shown(self.url)!r}, table={self.table!r})"

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers becomes the `statement_timeout` of connections made from now on."""
        self._timeout = max(self._timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        async with self._places.one(ask.deadline):
            for _ in range(self._places.count):
                try:
                    return await self._read(ask)
                except HadEnded as error:
                    ended = error  # not a retry: nothing was asked, and the pool has other connections
            raise ended

    async def _read(self, ask: Ask) -> Answer:
        connection = await self._connect(ask.deadline)
        raw: Any = (await connection.get_raw_connection()).driver_connection
        # At the deadline the socket is cut: a cancelled asyncpg call would wait for the server.
        stopper = asyncio.get_running_loop().call_at(ask.deadline, raw.terminate)
        try:
            rows = await self._query(connection, ask)
        except BaseException as error:
            raw.terminate()
            await connection.invalidate()  # or the pool would hand this connection out again
            await connection.close()
            if not isinstance(error, Exception):
                raise  # the caller left
            if asyncio.get_running_loop().time() >= ask.deadline:
                raise TimeoutError from error
            raise query_failure(error) from error
        finally:
            stopper.cancel()
        await connection.close()
        return rows

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by LISTEN where the table has the trigger of `change_trigger`. See `Listens.listen`."""
        engine = self._engine_of(poolclass=sa.pool.NullPool)  # not a place of the pool: those are for reads
        connection = engine.connect()
        raw: Any = None
        try:
            async with asyncio.timeout(self._timeout or None):
                await connection.start()
                raw = (await connection.get_raw_connection()).driver_connection
            await listen_on(raw, self.table, notify, beat, self._timeout)
        except (TimeoutError, ShardFailure):
            raise
        except Exception as error:
            raise (connect_failure if raw is None else query_failure)(error) from error
        finally:
            if raw is not None:
                raw.terminate()
                await connection.invalidate()
                await connection.close()

    async def aclose(self) -> None:
        """Closes every socket at once; a server that does not answer is not waited for."""
        for raw in list(self._raw):
            raw.terminate()
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def _connect(self, deadline: float) -> AsyncConnection:
        connection = self._opened().connect()
        try:
            async with asyncio.timeout_at(deadline):
                await connection.start()
        except TimeoutError:
            raise
        except Exception as error:
            raise connect_failure(error) from error
        return connection

    async def _query(self, connection: AsyncConnection, ask: Ask) -> Answer:
        statement, bounds = self._statements.of(ask)
        try:
            result = await connection.execute(statement, bounds)
        except DBAPIError as error:
            if not is_stale_plan(error):
                raise
            # The table was altered since this connection prepared the statement. Nothing was read; the
            # plan is now forgotten, so the same question is put again as if for the first time.
            result = await connection.execute(statement, bounds)
        rows: list[Any] = list(result.all())
        return rows

    def _opened(self) -> AsyncEngine:
        """The engine, made at the first read: it belongs to the event loop that reads."""
        if self._engine is None:
            self._engine = self._engine_of(
                pool_size=self._places.count,
                max_overflow=0,
                pool_timeout=86400,  # waiting is under the read's deadline
                pool_reset_on_return=None,
                pool_use_lifo=True,
            )
            sa.event.listen(self._engine.sync_engine, "checkout", _refuse_stale)
        return self._engine

    def _engine_of(self, **pool: Any) -> AsyncEngine:
        settings = {"application_name": "labkit"}
        if self._timeout:
            settings["statement_timeout"] = str(max(1, round(self._timeout * 1000)))
        engine = create_async_engine(
            self.url, isolation_level="AUTOCOMMIT", connect_args={"server_settings": settings}, **pool
        )
        sa.event.listen(engine.sync_engine, "connect", self._remember)
        return engine

    def _remember(self, adapted: Any, _record: Any) -> None:
        self._raw.add(adapted.driver_connection)


def _as_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError("not a Postgres URL; write postgresql+asyncpg://user@host:port/database") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+asyncpg")
    if parsed.drivername != "postgresql+asyncpg":
        raise UsageError(f"not a Postgres URL: {_shown(parsed)!r}; write postgresql+asyncpg://user@host:port/database")
    return parsed


def _shown(url: URL) -> str:
    """The URL without what may hold a password."""
    return url.set(query={}).render_as_string(hide_password=True)


def _refuse_stale(adapted: Any, _record: Any, _proxy: Any) -> None:
    """A pooled connection whose server hung up is replaced before it is used, without a round trip.

    An idle connection that is readable has an end-of-file or a farewell waiting.
    """
    raw = adapted.driver_connection
    sock = None if raw.is_closed() else raw._transport.get_extra_info("socket")
    if sock is None or _readable(sock.fileno()):
        raw.terminate()
        raise StaleConnection("the server closed this idle connection")


def _readable(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
