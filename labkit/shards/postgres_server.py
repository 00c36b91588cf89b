"""One Postgres server as shards talk to it: a pool of SQLAlchemy's, whose asyncpg connections are used as they are.

SQLAlchemy makes, pools and replaces connections; what it puts around a statement would cost a small read as much again.
"""

from __future__ import annotations

import asyncio
import select
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg  # noqa: F401 - SQLAlchemy would import it in the middle of the first read
import sqlalchemy as sa
import sqlalchemy.dialects.postgresql.asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from labkit.answer import InvalidAnswer
from labkit.shards.base import ShardFailure
from labkit.shards.postgres_failures import connect_failure, query_failure
from labkit.shards.postgres_url import STATEMENT_TIMEOUT

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["PostgresServer"]


class PostgresServer:
    """At most `connections` to `url` are pooled. `timeout` in seconds becomes the `statement_timeout` of those that are
    made from now on, so that a query that nobody waits for ends there too; 0 is none.
    """

    def __init__(self, url: URL, connections: int) -> None:
        self.url = url
        self.timeout = 0.0
        self._connections = connections
        self._engine: AsyncEngine | None = None
        self._idle: list[Any] = []
        """Checked out of the pool, and used by nobody just now: to give one back and take it again would cost as much
        as a small read."""
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()

    @asynccontextmanager
    async def connected(self, deadline: float) -> AsyncIterator[Any]:
        """A connection of asyncpg from the pool, outside of any transaction, until `deadline` (`loop.time()`).

        What the driver raises becomes what a reader knows; the connection is not used again after that.
        """
        loop = asyncio.get_running_loop()
        pooled = self._taken() or await self._checked_out(deadline)
        connection: Any = pooled.driver_connection
        # At the deadline the socket is cut: a cancelled asyncpg call would wait for the server.
        stopper = loop.call_at(deadline, connection.terminate)
        try:
            yield connection
        except BaseException as error:
            lost = connection.is_closed()
            connection.terminate()
            pooled.invalidate()  # or the pool would hand this connection out again
            if not isinstance(error, Exception):
                raise  # the caller left
            if loop.time() >= deadline:
                raise TimeoutError from error
            if isinstance(error, InvalidAnswer | ShardFailure):
                raise
            raise query_failure(error, lost=lost) from error
        finally:
            stopper.cancel()
        self._idle.append(pooled)

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[Any]:
        """A connection that is not of the pool, for as long as it is needed; it is cut after that."""
        try:
            async with asyncio.timeout(self.timeout or None):
                pooled: Any = await self._engine_of(poolclass=sa.pool.NullPool).raw_connection()
        except TimeoutError:
            raise
        except Exception as error:
            raise connect_failure(error) from error
        connection = pooled.driver_connection
        try:
            yield connection
        except (TimeoutError, ShardFailure):
            raise
        except Exception as error:
            raise query_failure(error, lost=connection.is_closed()) from error
        finally:
            connection.terminate()
            pooled.invalidate()

    async def aclose(self) -> None:
        """Closes every socket at once; a server that does not answer is not waited for."""
        for connection in list(self._made):
            connection.terminate()
        while self._idle:
            self._idle.pop().invalidate()
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    def _taken(self) -> Any:
        """The connection that was used last of those that still live; None where there is none."""
        while self._idle:
            pooled = self._idle.pop()
            if not _is_stale(pooled.driver_connection):
                return pooled
            pooled.driver_connection.terminate()
            pooled.invalidate()
        return None

    async def _checked_out(self, deadline: float) -> Any:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.opened().raw_connection()
        except TimeoutError:
            raise
        except Exception as error:
            raise connect_failure(error) from error

    def opened(self) -> AsyncEngine:
        """The engine, made at the first read: it belongs to the event loop that reads. It has no connection yet."""
        if self._engine is None:
            self._engine = self._engine_of(
                pool_size=self._connections,
                max_overflow=0,
                pool_timeout=86400,  # waiting is under the read's deadline
                pool_reset_on_return=None,
            )
        return self._engine

    def _engine_of(self, **pool: Any) -> AsyncEngine:
        settings = {"application_name": "labkit"}
        if self.timeout and STATEMENT_TIMEOUT not in self.url.query:
            settings[STATEMENT_TIMEOUT] = str(max(1, round(self.timeout * 1000)))
        engine = create_async_engine(
            self.url.difference_update_query([STATEMENT_TIMEOUT]),
            isolation_level="AUTOCOMMIT",
            connect_args={"server_settings": settings},
            **pool,
        )
        sa.event.listen(engine.sync_engine, "connect", self._remember)
        return engine

    def _remember(self, adapted: Any, _record: Any) -> None:
        self._made.add(adapted.driver_connection)


def _is_stale(connection: Any) -> bool:
    """Whether the server hung up while the connection lay idle; found out without a round trip.

    An idle connection that is readable has an end-of-file or a farewell waiting.
    """
    sock = None if connection.is_closed() else connection._transport.get_extra_info("socket")
    return sock is None or _readable(sock.fileno())


def _readable(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
