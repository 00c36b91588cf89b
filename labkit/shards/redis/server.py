"""A client for one Redis server: connections of redis.asyncio (RESP2), kept for later reads on the same event loop.

Not redis-py's pool: that rejects callers at its limit, keeps connections whose creators were cancelled, and is unaware
of event loops and forks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from errno import ECONNRESET
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from labkit._loops import PerLoop
from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.failures import one_line, system_words
from labkit.shards.limiter import ANSWER_LIMIT
from labkit.shards.redis.connection import OURS, RedisConnection
from labkit.shards.redis.failures import is_reply, status_of
from labkit.shards.redis.url import secrets_of
from labkit.shards.secrets import NONE
from labkit.tables import InvalidAnswer

__all__ = ["Commands", "RedisServer", "command", "commands"]


class RedisServer:
    """`options` are redis-py's, as parsed from a URL. `answer_limit` bounds the bytes of all answers to one read.

    Connections belong to the event loop that made them, and are closed when it ends; see `PerLoop`. Once the server is
    closed, none is kept.
    """

    def __init__(self, options: Mapping[str, Any], answer_limit: int = ANSWER_LIMIT) -> None:
        self._options = {name: value for name, value in options.items() if name != "connection_class"}
        self._kind = OURS[options.get("connection_class", Connection)]
        self._limit = answer_limit
        self._closed = False
        self._tls: Any = None
        self.secrets = secrets_of(options)
        self._pools = PerLoop(_Pool, _Pool.aclose, _Pool.abandon)

    @property
    def database(self) -> int:
        """The database number."""
        return int(self._options.get("db", 0))

    @asynccontextmanager
    async def connected(
        self, deadline: float | None, *, keep: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[tuple[Any, asyncio.Timeout]]:
        """A connection, until `deadline`; what redis-py raises becomes a `ShardFailure` or TimeoutError.

        Afterwards it is closed, unless `keep()` is true then.
        """
        pool = self._pools.here()
        connection: RedisConnection | None = None
        ready = False
        try:
            async with asyncio.timeout_at(deadline) as limit:
                connection = await pool.usable()
                if connection is None:
                    connection = pool.add(self._made())
                    await connection.open()
                connection.allow(self._limit)
                ready = True
                yield connection, limit
        except (RedisError, OSError) as error:
            failed = self._failure(pool, error, ready)
            self.secrets.scrub(error, ShardFailure)
            raise failed from error
        except InvalidAnswer as error:
            # Corrupted answers may leave bytes unread, which must not become the beginning of the next answer.
            ready = False
            self.secrets.scrub(error, ShardFailure)
            raise
        except Exception as error:
            lost = connection.lost if connection is not None else None
            if lost is None and not pool.closed:
                self.secrets.scrub(error, ShardFailure)
                raise
            failed = self._failure(pool, lost or error, ready)
            self.secrets.scrub(error, ShardFailure)
            raise failed from error
        finally:
            if not (kept := keep() and not self._closed):
                pool.close_idle()
            if connection is not None:
                pool.give_back(connection, ready and kept)

    async def close_idle(self) -> None:
        """Closes this loop's idle connections."""
        if (pool := self._pools.existing()) is not None:
            pool.close_idle()

    async def aclose(self) -> None:
        """Closes every socket; sends nothing, so it does not wait for a server that does not answer."""
        self._closed = True
        await self._pools.aclose()

    def _made(self) -> RedisConnection:
        """A connection, not yet open. All share one TLS context, since reading certificates is slow."""
        connection: Any = self._kind(**self._options)
        if hasattr(connection, "ssl_context"):
            self._tls = connection.ssl_context = self._tls or connection.ssl_context
        made: RedisConnection = connection
        return made

    def _failure(self, pool: _Pool, error: Exception, ready: bool) -> Exception:
        if pool.closed:
            return ShardFailure(Status.ERROR, "the shard was closed")
        status = status_of(error, connected=ready)
        if status is Status.TIMEOUT:
            return TimeoutError()
        if is_reply(error):
            return ShardFailure(status, one_line(error, self.secrets))
        cause = self._cause(error)
        if cause == system_words(ECONNRESET):  # there was a connection, if not one that was ready
            status = Status.DISCONNECTED
        return ShardFailure(status, cause)

    def _cause(self, error: Exception) -> str:
        """In one line. redis-py may drop the system's error and keep its number in a text that names the address."""
        number = re.match(r"Error (\d+) connecting|Error while \w+ [^(]*\((\d+), ", str(error))
        if number:
            return system_words(int(number[1] or number[2]))
        return one_line(error, NONE if type(error) is RedisConnectionError else self.secrets)  # that is redis-py's own


class _Pool:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self._all: set[RedisConnection] = set()
        self._idle: list[RedisConnection] = []
        self.closed = False

    def add(self, connection: RedisConnection) -> RedisConnection:
        """Adds a new connection."""
        self._all.add(connection)
        return connection

    async def usable(self) -> RedisConnection | None:
        """The most recently used idle connection that still works, if any."""
        while self._idle:
            connection, good = self._idle.pop(), False
            try:
                good = await connection.is_usable()
            finally:
                if not good:
                    self.drop(connection)
            if good:
                return connection
        return None

    def give_back(self, connection: RedisConnection, keep: bool) -> None:
        """Takes a connection back, or closes it if it is not to be kept or has an answer outstanding."""
        if keep and not self.closed and connection.is_quiet:
            self._idle.append(connection)
        else:
            self.drop(connection)  # even one that was being opened while all were closed

    def drop(self, connection: RedisConnection) -> None:
        """Closes a connection."""
        self._all.discard(connection)
        connection.hang_up()

    def close_idle(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            self.drop(self._idle.pop())

    async def aclose(self) -> None:
        """Closes all, even those in use, whose reads fail. Connections made later are not kept."""
        self.closed = True
        self._idle.clear()
        for connection in list(self._all):
            self.drop(connection)
        await asyncio.sleep(0)  # transports close their sockets in the next turn of the loop

    def abandon(self) -> None:
        """Drops all, since their loop is closed or belongs to another process: nothing is sent, none is reused."""
        for connection in self._all:
            connection.abandon()


async def command(connection: Any, *words: Any) -> Any:
    """Sends one command and returns the raw answer; raises what redis-py raises, or `InvalidAnswer` if it cannot parse
    the answer.
    """
    await connection.send_command(*words)
    try:
        return await connection.read_response()
    except ValueError as error:
        raise InvalidAnswer(f"the answer cannot be understood: {error}") from None


async def commands(connection: Any, *questions: tuple[Any, ...]) -> list[Any]:
    """Sends several commands at once and returns their answers in order; a server's error is returned as an answer."""
    for words in questions:
        await connection.send_command(*words)
    answers: list[Any] = []
    for _ in questions:
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
        except ValueError as error:
            raise InvalidAnswer(f"the answer cannot be understood: {error}") from None
    return answers


class Commands:
    """Sends commands on one connection: the `Run` of layouts."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __call__(self, *words: Any) -> Awaitable[Any]:
        """See `command`."""
        return command(self._connection, *words)

    async def many(self, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends several commands at once and returns their answers, as `commands` does, in fewer steps per answer."""
        try:
            answers: list[Any] = await self._connection.pipelined(questions)
        except ValueError as error:
            raise InvalidAnswer(f"the answer cannot be understood: {error}") from None
        return answers
