"""`RedisShard`: rows in a Redis sorted set, read with redis.asyncio and hiredis.

Score = id gives order, range pruning and get by ID; member = the whole row, as JSON `[id, name]`, so that
two rows with the same name stay two members.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from labkit.answer import Answer, InvalidAnswer
from labkit.errors import UsageError
from labkit.shards.base import Ask, ShardFailure
from labkit.shards.failures import one_line, system_words
from labkit.shards.places import Places
from labkit.shards.redis_changes import listen_on
from labkit.status import Status

__all__ = ["RedisShard", "member"]

EXACT = 2**53
"""Scores are doubles: from this magnitude on neighbouring IDs share a score."""


def member(row_id: int, name: str | None) -> bytes:
    """The row as it is stored: compact JSON, UTF-8."""
    return json.dumps([row_id, name], ensure_ascii=False, separators=(",", ":")).encode()


class RedisShard:
    """Reads the sorted set `key` of one Redis server.

    `url` is `redis://[:password@]host:port/db` (or `rediss://`, `unix://`). Library retries are off; RESP2,
    which hiredis parses fastest. At most `pool_size` reads are served at a time, each on a connection of a pool.
    Raises `UsageError` for a URL of another kind, and a pool without a place.
    """

    def __init__(self, url: str, key: str, *, pool_size: int = 10) -> None:
        self.url = _as_url(url)
        self.key = key
        self._places = Places(pool_size)
        self._timeout = 0.0
        self._client: Redis | None = None

    def __repr__(self) -> str:
        return f"RedisShard({_shown(self.url)!r}, key={self.key!r})"

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers bounds each socket operation of connections made from now on."""
        self._timeout = max(self._timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        async with self._places.one(ask.deadline), self._connected(ask.deadline) as (connection, _):
            rows = await self._range(connection, ask, ask.limit)
            if ask.limit is not None and any(_inexact(number) for number in (ask.low, *(row[0] for row in rows))):
                # The server counts by scores: among IDs that share one, it may have left out the wrong ones.
                rows = await self._range(connection, ask, None)
        return _settled(rows, ask)[: ask.limit]

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by keyspace notifications, where the server has K, g and z on. See `Listens.listen`."""
        patience = self._timeout or None
        deadline = asyncio.get_running_loop().time() + patience if patience else None
        database = int(parse_url(self.url).get("db", 0))
        async with self._connected(deadline) as (connection, limit):
            limit.reschedule(None)
            try:
                await listen_on(connection, self.key, database, notify, beat, patience)
            finally:
                await connection.disconnect(nowait=True)  # subscribed, it is of no use for reads

    async def aclose(self) -> None:
        """Closes every socket; nothing is sent, so a server that does not answer is not waited for."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @asynccontextmanager
    async def _connected(self, deadline: float | None) -> AsyncIterator[tuple[Any, asyncio.Timeout]]:
        """A connection of the pool, until `deadline`; what redis-py raises becomes what a reader knows."""
        pool: Any = self._opened().connection_pool
        connection: Any = None
        try:
            async with asyncio.timeout_at(deadline) as limit:
                connection = await pool.get_connection()
                yield connection, limit
        except InvalidAnswer:
            # Bytes that were changed on the way may have left some behind: the next answer must not begin with them.
            await connection.disconnect(nowait=True)
            raise
        except (RedisError, OSError) as error:
            raise _failure(error, connected=connection is not None) from error
        finally:
            if connection is not None:
                await pool.release(connection)

    async def _range(self, connection: Any, ask: Ask, limit: int | None) -> list[tuple[Any, Any]]:
        low = "-inf" if ask.low is None else ask.low
        high = "+inf" if ask.high is None else ask.high
        first = () if limit is None else ("LIMIT", 0, limit)
        await connection.send_command("ZRANGEBYSCORE", self.key, low, high, *first)
        return _rows(await connection.read_response())

    def _opened(self) -> Redis:
        """The client, made at the first read: it belongs to the event loop that reads."""
        if self._client is None:
            timeout = self._timeout or None
            ours: dict[str, Any] = {
                "protocol": 2,
                "retry": Retry(NoBackoff(), 0),
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
                "driver_info": None,
                "max_connections": 1 << 20,  # reads have places, and who listens takes none
            }
            # Not from_url(), which would give the URL's own options the last word.
            self._client = Redis.from_pool(ConnectionPool(**{**parse_url(self.url), **ours}))
        return self._client


def _rows(members: Any) -> list[tuple[Any, Any]]:
    if not isinstance(members, list):
        raise InvalidAnswer(f"the answer is no array but {type(members).__name__}")
    return [_row(raw) for raw in members]


def _row(raw: Any) -> tuple[Any, Any]:
    try:
        row = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        row = None
    if not isinstance(row, list) or len(row) != 2:
        shown = repr(raw) if len(repr(raw)) <= 60 else repr(raw)[:57] + "..."
        raise InvalidAnswer(f"member {shown} is not a row: JSON [id, name]")
    return row[0], row[1]


def _inexact(number: Any) -> bool:
    return type(number) is int and abs(number) >= EXACT


def _settled(rows: list[tuple[Any, Any]], ask: Ask) -> Answer:
    """Where IDs share a score, the server's order and bounds are coarser than ours: settle both exactly."""
    ids = [row[0] for row in rows]
    if not all(type(row_id) is int for row_id in ids) or not any(map(_inexact, ids)):
        return rows  # exact as they are, or for the check to find out
    low, high = ask.low, ask.high
    inside = [row for row in rows if (low is None or row[0] >= low) and (high is None or row[0] <= high)]
    return sorted(inside, key=lambda row: row[0])


def _failure(error: Exception, *, connected: bool) -> Exception:
    """What redis-py raises, as a status: a `ResponseError` is the server's no, the rest is the connection's."""
    if isinstance(error, RedisTimeout | TimeoutError):
        return TimeoutError()
    if isinstance(error, BusyLoadingError):
        return ShardFailure(Status.UNREACHABLE, one_line(error))
    full = "max number of clients" in str(error)
    if full or isinstance(error, ResponseError | AuthenticationError):
        return ShardFailure(Status.REJECTED, one_line(error))
    return ShardFailure(Status.DISCONNECTED if connected else Status.UNREACHABLE, _cause(error))


def _cause(error: Exception) -> str:
    """redis-py may lose the system's error on the way, and keep its number in a text that names the address."""
    number = re.match(r"Error (\d+) connecting|Error while \w+ [^(]*\((\d+), ", str(error))
    return system_words(int(number[1] or number[2])) if number else one_line(error)


def _as_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        database = parts.path.strip("/")
        server = parts.scheme in ("redis", "rediss") and parts.netloc and (not database or database.isdecimal())
        known = (server and parts.port != 0) or (parts.scheme == "unix" and database)
    except (ValueError, TypeError, AttributeError):
        known = False
    if not known:
        raise UsageError("not a Redis URL; write redis://host:port/0 (or rediss://, unix://)")
    return url


def _shown(url: str) -> str:
    """The URL without what may hold a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
