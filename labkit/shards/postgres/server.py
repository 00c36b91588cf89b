"""A client for one Postgres server: connections of asyncpg made through SQLAlchemy, with one pool per event loop.

SQLAlchemy compiles the statements and makes the connections. Its queries on a new connection (eight round trips), and
its overhead per statement (as much as a small read costs), are avoided.
"""

from __future__ import annotations

import asyncio
import secrets
import select
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from labkit._loops import PerLoop
from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.limiter import Limiter
from labkit.shards.postgres.failures import CLOSED, SessionEnded, connect_failure, query_failure
from labkit.shards.postgres.url import STATEMENT_TIMEOUT, connect_args, secrets_of
from labkit.shards.postgres.wire import Dialer, Line, preparing
from labkit.tables import InvalidAnswer

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from labkit.shards.secrets import Secrets

__all__ = ["Connection", "Pool", "PostgresServer"]

ABORT_WAIT = 1.0
"""Seconds that the event loop gets to close aborted sockets; it takes a turn or two."""
_first_query: ContextVar[bytes] = ContextVar("first_query")
"""The first query for the connection being made; SQLAlchemy, which calls `_dialled`, passes no arguments."""


class _Dialect(PGDialect_asyncpg):
    """SQLAlchemy's dialect for asyncpg, without its queries on each new connection."""

    supports_statement_cache = True

    def initialize(self, connection: Any) -> None:
        """No queries for version, schema, isolation level and string settings."""

    def on_connect(self) -> None:
        """No codecs for JSON."""


registry.register("postgresql.labkit", __name__, _Dialect.__name__)


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """An asyncpg connection with its line and its named statements. `first` is the name of a statement that may have
    been sent during login.
    """

    __slots__ = ("first", "line", "named")

    first: str
    line: Line
    named: dict[str, Any]

    async def prepare(self, *args: Any, **kwargs: Any) -> Any:
        """Like asyncpg's, with a bound on the description of columns."""
        with self.line.describing():
            return await super().prepare(*args, **kwargs)


class PostgresServer:
    """Reads use `pool()`, one per event loop, of at most `connections`.

    `timeout` in seconds becomes the `statement_timeout` of new connections, so that abandoned queries end on the server
    too; 0 is none. `limit` bounds the bytes of the answer to one query.
    """

    def __init__(self, url: URL, connections: int, limit: int) -> None:
        self.timeout = 0.0
        self.limit = limit
        self.names = True
        """Whether named statements can be reused: not behind a pooler that switches sessions."""
        self._limited = STATEMENT_TIMEOUT not in url.query
        self._args = connect_args(url)
        self.secrets = secrets_of(url)
        self.closed = False
        """Whether it was closed; no connection is kept then."""
        self._pools = PerLoop(lambda: Pool(self, Limiter(connections)), Pool.aclose, Pool.abandon)

    def pool(self) -> Pool:
        """The pool of the running event loop."""
        return self._pools.here()

    async def aclose(self) -> None:
        """Closes every socket immediately, without waiting for the server."""
        self.closed = True
        await self._pools.aclose()

    def settings(self) -> dict[str, Any]:
        """The arguments of `asyncpg.connect`."""
        session = {"application_name": "labkit"}
        if self.timeout and self._limited:
            session[STATEMENT_TIMEOUT] = str(max(1, round(self.timeout * 1000)))
        return {**self._args, "server_settings": session}


class Pool:
    """The connections of one event loop."""

    def __init__(self, server: PostgresServer, limiter: Limiter) -> None:
        self.limiter = limiter
        self._server = server
        self._engine = create_async_engine(
            "postgresql+labkit://", async_creator=self._dialled, poolclass=sa.pool.NullPool
        )
        self._idle: list[Connection] = []
        self._lines: set[Line] = set()
        self._dials: set[asyncio.Timeout] = set()
        self._closed = False

    @asynccontextmanager
    async def connected(
        self, deadline: float, statement: str = "", *, named: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection, outside any transaction, until `deadline` (`loop.time()`).

        `statement` is what will be prepared on it first, `named` or not: a new connection may send that during login.
        What the driver raises becomes a `ShardFailure` or TimeoutError; the connection is not used again then.
        """
        connection = self._taken()
        if connection is None:
            name = self._new_name() if named else ""
            connection = await self._made(deadline, preparing(statement, name) if statement else b"")
            connection.first = name
        line = connection.line
        # At the deadline the socket is closed: a cancelled asyncpg call would wait for the server.
        stopper = asyncio.get_running_loop().call_at(deadline, connection.terminate)
        line.ask(self._server.limit)
        try:
            yield connection
        except BaseException as error:
            lost = connection.is_closed()
            connection.terminate()
            if not isinstance(error, Exception):
                raise  # the caller left
            raise self._failure(error, line, deadline, lost=lost) from error
        finally:
            stopper.cancel()
        if self._server.closed:
            connection.terminate()
        else:
            line.rest()
            self._idle.append(connection)

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[Connection]:
        """A connection outside the pool, closed after the block."""
        timeout = self._server.timeout
        connection = await self._made(asyncio.get_running_loop().time() + timeout if timeout else None)
        line = connection.line
        line.ask(self._server.limit)
        try:
            yield connection
        except (TimeoutError, ShardFailure) as error:
            self._server.secrets.plus(line.sent).scrub(error, ShardFailure)
            raise
        except Exception as error:
            raise self._failure(error, line, None, lost=connection.is_closed()) from error
        finally:
            connection.terminate()

    async def fetch(self, connection: Connection, statement: str, parameters: Sequence[Any]) -> Any:
        """The rows of a statement, in one round trip if it was prepared on that connection before.

        Names are unique, since behind a pooler other programs may prepare statements in the same session. If the server
        does not know the name, or the columns changed, the statement was not executed: it is repeated without a name.
        """
        known = connection.named.get(statement) if self._server.names else None
        if known is not None:
            try:
                return await known.fetch(*parameters)
            except asyncpg.InvalidSQLStatementNameError:
                self._server.names = False
            except asyncpg.InvalidCachedStatementError:
                del connection.named[statement]
        name = (connection.first or self._new_name()) if known is None else ""
        connection.first = ""
        prepared = await connection.prepare(statement, name=name)
        if name:
            connection.named[statement] = prepared
        return await prepared.fetch(*parameters)

    async def aclose(self) -> None:
        """Closes all connections, even those being made; reads that wait for them fail immediately."""
        self._closed = True
        for dial in self._dials:
            if not dial.expired():  # it may be expired without having ended yet
                dial.reschedule(asyncio.get_running_loop().time())
        gone = [line.gone for line in self._lines]
        for line in list(self._lines):
            line.abort()
        if gone:
            await asyncio.wait(gone, timeout=ABORT_WAIT)

    def abandon(self) -> None:
        """Drops all connections, unread: their event loop is closed, or belongs to another process."""
        self._closed = True
        for line in self._lines:
            line.cut()

    def _failure(self, error: Exception, line: Line, deadline: float | None, *, lost: bool) -> Exception:
        """The failure to raise instead of the driver's error, whose texts are masked."""
        secrets = self._server.secrets.plus(line.sent)
        failed = self._classified(error, line, deadline, lost=lost, secrets=secrets)
        secrets.scrub(error, ShardFailure)
        return failed

    def _classified(
        self, error: Exception, line: Line, deadline: float | None, *, lost: bool, secrets: Secrets
    ) -> Exception:
        if self._closed:
            return ShardFailure(Status.ERROR, CLOSED)
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return TimeoutError()
        if line.failure is not None:
            return line.failure
        if line.was_idle_too_long:
            return SessionEnded()
        if isinstance(error, InvalidAnswer | ShardFailure):
            return error
        return query_failure(error, lost=lost, secrets=secrets)

    def _new_name(self) -> str:
        return f"labkit_{secrets.token_hex(12)}" if self._server.names else ""

    def _taken(self) -> Connection | None:
        """The most recently used idle connection that is still open, if any."""
        while self._idle:
            connection = self._idle.pop()
            if not _is_stale(connection):
                return connection
            connection.terminate()
        return None

    async def _made(self, deadline: float | None, query: bytes = b"") -> Connection:
        """A new connection, with its first query; `TimeoutError` if there is none before `deadline`."""
        _first_query.set(query)
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                self._dials.add(limit)
                pooled = await self._engine.raw_connection()
        except TimeoutError:
            if self._closed:
                raise ShardFailure(Status.ERROR, CLOSED) from None
            raise
        finally:
            self._dials.discard(limit)
        connection: Connection = pooled.driver_connection  # type: ignore[assignment]
        pooled.detach()  # from now on it belongs to this pool
        if self._closed:
            connection.terminate()
            raise ShardFailure(Status.ERROR, CLOSED)
        return connection

    async def _dialled(self) -> Connection:
        """Called by SQLAlchemy to make a connection."""
        dialer = Dialer(self._lines, _first_query.get())
        try:
            connection: Connection = await asyncpg.connect(
                loop=dialer,
                connection_class=Connection,
                statement_cache_size=0,  # its statement names are the same in every process
                timeout=None,
                **self._server.settings(),
            )
        except BaseException as error:
            dialer.abort()
            if not isinstance(error, Exception) or isinstance(error, TimeoutError):
                raise
            secrets = self._server.secrets.plus(dialer.sent)
            failed = dialer.failure or connect_failure(error, secrets)
            secrets.scrub(error, ShardFailure)
            raise failed from error
        connection.line, connection.named, connection.first = dialer.settled(), {}, ""
        # The password is always sent first.
        self._server.secrets = self._server.secrets.plus(connection.line.sent[:1])
        connection.line.rest()
        return connection


def _is_stale(connection: Connection) -> bool:
    """Whether the server closed the connection while idle; checked without a round trip.

    An idle connection that received something, or is readable, has a final error or an end-of-file.
    """
    line = connection.line
    return line.heard or not line.is_open or _readable(line.get_extra_info("socket").fileno())


def _readable(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
