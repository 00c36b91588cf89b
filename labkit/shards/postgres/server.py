"""One Postgres server as shards talk to it: connections of asyncpg that SQLAlchemy makes, a pool for each event loop.

SQLAlchemy writes the statements and makes the connections. What it asks a new one (eight round trips), and what it puts
around a statement (as much again as a small read costs), is left out.
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
from labkit.shards.postgres.failures import CLOSED, HadEnded, connect_failure, query_failure
from labkit.shards.postgres.url import STATEMENT_TIMEOUT, connect_args, secrets_of
from labkit.shards.postgres.wire import Dialer, Line, preparing
from labkit.tables import InvalidAnswer

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from labkit.shards.secrets import Secrets

__all__ = ["Connection", "Pool", "PostgresServer"]

ABORT_WAIT = 1.0
"""Seconds that the event loop gets to close aborted sockets; it takes a turn or two."""
_question: ContextVar[bytes] = ContextVar("question")
"""What the connection that is being made will be asked first. SQLAlchemy, which has it made, passes no arguments on."""


class _Dialect(PGDialect_asyncpg):
    """Of SQLAlchemy's for asyncpg, without the questions that each new connection is asked."""

    supports_statement_cache = True

    def initialize(self, connection: Any) -> None:
        """No question for version, schema, isolation and kind of strings."""

    def on_connect(self) -> None:
        """No codecs for JSON."""


registry.register("postgresql.labkit", __name__, _Dialect.__name__)


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """One of asyncpg's, with the line it is on, and its statements that have a name. `first` is the name of the one to
    come, where that may have been sent.
    """

    __slots__ = ("first", "line", "named")

    first: str
    line: Line
    named: dict[str, Any]

    async def prepare(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's, with a bound on what the server says of the columns."""
        with self.line.describing():
            return await super().prepare(*args, **kwargs)


class PostgresServer:
    """Reads go by `pool()`; each event loop has one, of at most `connections`.

    `timeout` in seconds becomes the `statement_timeout` of connections that are made from now on, so that a query that
    nobody waits for ends there too; 0 is none. `limit` is how many bytes the answer to one question may have.
    """

    def __init__(self, url: URL, connections: int, limit: int) -> None:
        self.timeout = 0.0
        self.limit = limit
        self.names = True
        """Whether a statement that was given a name is found again by it: not behind a pooler that changes sessions."""
        self._limited = STATEMENT_TIMEOUT not in url.query
        self._args = connect_args(url)
        self.secrets = secrets_of(url)
        self.closed = False
        """From then on no connection is kept."""
        self._pools = PerLoop(lambda: Pool(self, Limiter(connections)), Pool.aclose, Pool.abandon)

    def pool(self) -> Pool:
        """That of the running event loop."""
        return self._pools.here()

    async def aclose(self) -> None:
        """Closes every socket at once; a server that does not answer is not waited for."""
        self.closed = True
        await self._pools.aclose()

    def settings(self) -> dict[str, Any]:
        """What `asyncpg.connect` is told."""
        session = {"application_name": "labkit"}
        if self.timeout and self._limited:
            session[STATEMENT_TIMEOUT] = str(max(1, round(self.timeout * 1000)))
        return {**self._args, "server_settings": session}


class Pool:
    """The connections of one event loop."""

    def __init__(self, server: PostgresServer, places: Limiter) -> None:
        self.places = places
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
        """A connection, outside of any transaction, until `deadline` (`loop.time()`).

        `statement` is what will be prepared on it first, with a name or without one: a new connection may be asked that
        while it logs in. What the driver raises becomes what a reader knows; the connection is not used again after
        that.
        """
        connection = self._taken()
        if connection is None:
            name = self._new_name() if named else ""
            connection = await self._made(deadline, preparing(statement, name) if statement else b"")
            connection.first = name
        line = connection.line
        # At the deadline the socket is cut: a cancelled asyncpg call would wait for the server.
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
        """A connection beside the others, for as long as it is needed; it is cut after that."""
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
        """The rows of a statement, in one round trip where it was asked before on that connection.

        A name that nobody else gives: behind a pooler another program may have prepared its own statement in the same
        session. One that is not known there, or whose columns changed, was not executed: it is asked without a name.
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
        """Closes all connections, those that are being made too; what waits for them fails at once."""
        self._closed = True
        for dial in self._dials:
            if not dial.expired():  # which it may be, and not have ended yet
                dial.reschedule(asyncio.get_running_loop().time())
        gone = [line.gone for line in self._lines]
        for line in list(self._lines):
            line.abort()
        if gone:
            await asyncio.wait(gone, timeout=ABORT_WAIT)

    def abandon(self) -> None:
        """Lets go of all connections unread: they are another process's, or their event loop is closed."""
        self._closed = True
        for line in self._lines:
            line.cut()

    def _failure(self, error: Exception, line: Line, deadline: float | None, *, lost: bool) -> Exception:
        """What a reader knows; in what the driver raised no secret is left."""
        secrets = self._server.secrets.plus(line.sent)
        failed = self._known(error, line, deadline, lost=lost, secrets=secrets)
        secrets.scrub(error, ShardFailure)
        return failed

    def _known(
        self, error: Exception, line: Line, deadline: float | None, *, lost: bool, secrets: Secrets
    ) -> Exception:
        if self._closed:
            return ShardFailure(Status.ERROR, CLOSED)
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return TimeoutError()
        if line.failure is not None:
            return line.failure
        if line.was_idle_too_long:
            return HadEnded()
        if isinstance(error, InvalidAnswer | ShardFailure):
            return error
        return query_failure(error, lost=lost, secrets=secrets)

    def _new_name(self) -> str:
        return f"labkit_{secrets.token_hex(12)}" if self._server.names else ""

    def _taken(self) -> Connection | None:
        """The connection that was used last of those that still live."""
        while self._idle:
            connection = self._idle.pop()
            if not _is_stale(connection):
                return connection
            connection.terminate()
        return None

    async def _made(self, deadline: float | None, question: bytes = b"") -> Connection:
        """A new connection, to be asked this first; `TimeoutError` where there is none before `deadline`."""
        _question.set(question)
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
        pooled.detach()  # it is in this pool from now on
        if self._closed:
            connection.terminate()
            raise ShardFailure(Status.ERROR, CLOSED)
        return connection

    async def _dialled(self) -> Connection:
        """As SQLAlchemy has a connection made."""
        dialer = Dialer(self._lines, _question.get())
        try:
            connection: Connection = await asyncpg.connect(
                loop=dialer,
                connection_class=Connection,
                statement_cache_size=0,  # it names statements alike in every process
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
        # The password is always the first thing sent.
        self._server.secrets = self._server.secrets.plus(connection.line.sent[:1])
        connection.line.rest()
        return connection


def _is_stale(connection: Connection) -> bool:
    """Whether the server hung up while the connection lay idle; found out without a round trip.

    An idle connection on which something came, or that is readable, has a farewell or an end-of-file.
    """
    line = connection.line
    return line.heard or not line.is_open or _readable(line.get_extra_info("socket").fileno())


def _readable(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
