"""Redis, as the client of a lab's servers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from labkit._loops import cut
from labkit.faults.base import Row
from labkit.lab.access import ADMIN, Access, redis_users
from labkit.lab.backends.base import OneServer, Place
from labkit.shards.base import Shard
from labkit.shards.redis.shard import RedisShard, member

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["PORT", "SETTINGS", "RedisBackend", "delete", "put"]


async def put(client: Any, table: str, row: Row) -> None:
    """Writes a row, in the place of the one with its id."""
    others = await _members(client, table, row[0])
    async with client.pipeline(transaction=True) as pipe:
        if others:
            pipe.zrem(table, *others)
        pipe.zadd(table, {member(*row): row[0]})
        await pipe.execute()


async def delete(client: Any, table: str, row_id: int) -> None:
    """Takes a row out, where there is one."""
    members = await _members(client, table, row_id)
    if members:
        await client.zrem(table, *members)


async def _members(client: Any, table: str, row_id: int) -> list[bytes]:
    """Those of one row. Large IDs share a score, so that it does not tell them apart."""
    found = await client.zrangebyscore(table, row_id, row_id)
    return [raw for raw in found if json.loads(raw)[0] == row_id]


PORT = 6379
BATCH = 10_000
"""Rows a ZADD: large enough to be quick, small enough not to hold the server up."""
PATIENCE = 10.0
"""Seconds for the administrator to connect, and for each of his commands."""
SETTINGS = ("--save", "", "--appendonly", "yes", "--appendfsync", "no", "--notify-keyspace-events", "Kgzh$")
"""How every launcher sets its servers up: an append-only file, so that a server that was killed has its rows; changes
are told."""

_abandoned: list[Any] = []
"""Not collected: what they hold would turn to a loop that is gone."""


class RedisBackend(OneServer):
    """One sorted set a server."""

    name = "redis"

    def __init__(self) -> None:
        self.access = Access()

    @property
    def credentials(self) -> str:
        return redis_users(self.access, copied=False)

    async def connect(self, place: Place) -> Redis:
        """A client that is connected, and tries nothing twice."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        where = {"unix_socket_path": place} if isinstance(place, str) else {"host": place[0], "port": place[1]}
        client = Redis(
            **where,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            redis_connect_func=self._greet,
        )
        pool: Any = client.connection_pool
        try:
            await pool.release(await pool.get_connection())
        except BaseException as error:
            self.hang_up(client)
            if isinstance(error, RedisError):
                raise ConnectionError(str(error)) from error
            raise
        return client

    async def ping(self, place: Place) -> None:
        from redis.exceptions import RedisError

        async with await self.connect(place) as client:
            try:
                await client.ping()
            except RedisError as error:
                raise ConnectionError(str(error)) from error

    async def load(self, place: Place, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        async with await self.connect(place) as client:
            await self._fill(client, table, rows)

    async def _fill(self, client: Redis, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        for batch in _batches(rows):
            await client.zadd(table, batch)

    async def alive(self, connection: Any) -> bool:
        from redis.exceptions import AuthenticationError, RedisError, ResponseError

        try:
            await connection.ping()
        except (ResponseError, AuthenticationError):
            return True  # who says no is alive
        except (RedisError, OSError):
            return False
        return True

    def hang_up(self, connection: Any) -> None:
        pool = connection.connection_pool
        for held in (*pool._available_connections, *pool._in_use_connections):
            held._close()  # disconnect() would have to be awaited

    def abandon(self, connection: Any) -> None:
        pool = connection.connection_pool
        for held in (*pool._available_connections, *pool._in_use_connections):
            if held._writer is not None:
                cut(held._writer.transport)
        _abandoned.append(connection)

    async def rows(self, connection: Any, table: str) -> list[Row]:
        found = [json.loads(raw) for raw in await connection.zrange(table, 0, -1)]
        return sorted(((row_id, name) for row_id, name in found), key=lambda row: row[0])

    async def put(self, connection: Any, table: str, row: Row) -> None:
        await put(connection, table, row)

    async def delete(self, connection: Any, table: str, row_id: int) -> None:
        await delete(connection, table, row_id)

    async def stand_in(self, connection: Any, table: str, rows: list[Row]) -> None:
        there = await connection.exists(table)
        async with connection.pipeline(transaction=True) as pipe:
            # A sorted set without members is no key at all: then it is that which is kept in mind.
            pipe.rename(table, _aside(table)) if there else pipe.set(_aside(table), "nothing")
            for batch in _batches(rows):
                pipe.zadd(table, batch)
            await pipe.execute()

    async def bring_back(self, connection: Any, table: str) -> None:
        kind = await connection.type(_aside(table))
        if kind == b"none":
            return
        async with connection.pipeline(transaction=True) as pipe:
            pipe.delete(table)
            pipe.rename(_aside(table), table) if kind == b"zset" else pipe.delete(_aside(table))
            await pipe.execute()

    def url(self, port: int) -> str:
        return f"redis://:{self.access.client}@127.0.0.1:{port}/0"

    def dsns(self, port: int) -> dict[str, str]:
        return {"redis": self.url(port)}

    def source(self, url: str, table: str) -> Shard:
        return RedisShard(url, table)

    async def _greet(self, connection: Any) -> None:
        """What he says first. That the server is busy just now does not matter."""
        from redis.exceptions import AuthenticationError, ResponseError

        await connection.on_connect()
        for words in (("AUTH", ADMIN, self.access.admin), ("CLIENT", "SETNAME", "labkit-admin")):
            await connection.send_command(*words)
            with contextlib.suppress(ResponseError, AuthenticationError):
                # What it does not want to hear counts as a broken connection with redis-py.
                await connection.read_response(disconnect_on_error=False)


def _aside(table: str) -> str:
    return f"{table}:aside"


def _batches(rows: Sequence[Row]) -> Iterator[dict[bytes, int]]:
    """Members and their scores. What has no number for an ID stays beside the row before it, or the first number."""
    score = next((number for row_id, _ in rows if (number := _number(row_id)) is not None), 0)
    for start in range(0, len(rows), BATCH):
        batch = {}
        for row_id, name in rows[start : start + BATCH]:
            number = _number(row_id)
            score = score if number is None else number
            batch[member(row_id, name)] = score
        yield batch


def _number(row_id: Any) -> int | None:
    try:
        return int(row_id)
    except (TypeError, ValueError):
        return None
