"""Redis, seen from the client of a lab's servers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from labkit._loops import cut
from labkit.faults.base import Row
from labkit.faults.drift import Drift
from labkit.lab.access import ADMIN, Access, redis_users
from labkit.lab.backends.base import ADMIN_TIMEOUT, OneServer, Place
from labkit.shards.base import Shard
from labkit.shards.redis.shard import RedisShard, member

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["PORT", "SETTINGS", "RedisBackend", "RedisDriver", "greet"]

PORT = 6379
BATCH = 10_000
"""Rows per ZADD: large enough to be fast, small enough not to block the server."""
SETTINGS = ("--save", "", "--appendonly", "yes", "--appendfsync", "no", "--notify-keyspace-events", "Kgzh$")
"""Settings that every launcher starts its servers with: an append-only file, so that a killed server keeps its rows;
change notifications."""

_abandoned: list[Any] = []
"""Never collected: their streams would use a dead loop."""


class RedisDriver:
    """Connections of redis.asyncio."""

    async def opened(self, client: Redis) -> Redis:
        """The client, connected; ConnectionError, after closing it, if it cannot."""
        from redis.exceptions import RedisError

        pool: Any = client.connection_pool
        try:
            await pool.release(await pool.get_connection())
        except BaseException as error:
            self.hang_up(client)
            if isinstance(error, RedisError):
                raise ConnectionError(str(error)) from error
            raise
        return client

    async def alive(self, connection: Any) -> bool:
        from redis.exceptions import AuthenticationError, RedisError, ResponseError

        try:
            await connection.ping()
        except (ResponseError, AuthenticationError):
            return True  # a server that refuses is alive
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


async def greet(auth: Sequence[str], connection: Any) -> None:
    """Authenticates a connection, with a password or (user, password), and names it. A busy server refuses the name,
    which does not matter.
    """
    from redis.exceptions import ResponseError

    await connection.on_connect()
    if auth:
        await connection.send_command("AUTH", *auth)
        await connection.read_response(disconnect_on_error=False)
    await connection.send_command("CLIENT", "SETNAME", "labkit-admin")
    with contextlib.suppress(ResponseError):
        await connection.read_response(disconnect_on_error=False)


class RedisBackend(RedisDriver, OneServer):
    """One sorted set per server; its members are JSON arrays of a row's values."""

    name, user = "redis", "default"

    def __init__(self) -> None:
        self.access = Access()

    @property
    def credentials(self) -> str:
        return redis_users(self.access, copied=False)

    async def connect(self, place: Place) -> Redis:
        """A connected client without retries."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        where = {"unix_socket_path": place} if isinstance(place, str) else {"host": place[0], "port": place[1]}
        client = Redis(
            **where,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            socket_timeout=ADMIN_TIMEOUT,
            socket_connect_timeout=ADMIN_TIMEOUT,
            redis_connect_func=partial(greet, (ADMIN, self.access.admin)),
        )
        return await self.opened(client)

    async def ping(self, place: Place) -> None:
        from redis.exceptions import RedisError

        async with await self.connect(place) as client:
            try:
                await client.ping()
            except RedisError as error:
                raise ConnectionError(str(error)) from error

    async def load(self, place: Place, table: str, rows: Sequence[Row]) -> None:
        async with await self.connect(place) as client:
            await self._fill(client, table, rows)

    async def reset(
        self, admin: Any, connection: Any, table: str, rows: Callable[[], Sequence[Row]], loaded: bytes | None
    ) -> bytes:
        """By DUMP and RESTORE, which are exact. `loaded` is the key as DUMP has it, b"" for none; None before the first
        reset, which writes all rows.
        """
        async with connection.pipeline(transaction=True) as pipe:
            pipe.delete(_aside(table))
            pipe.persist(table)
            pipe.dump(table)
            held: bytes = (await pipe.execute())[-1] or b""
        if held == loaded:
            return held
        async with connection.pipeline(transaction=True) as pipe:
            if loaded:
                pipe.restore(table, 0, loaded, replace=True)
            else:
                pipe.delete(table)
            for batch in () if loaded is not None else self._batches(rows()):
                pipe.zadd(table, batch)
            pipe.dump(table)
            return bytes((await pipe.execute())[-1] or b"")

    async def _fill(self, client: Redis, table: str, rows: Sequence[Row]) -> None:
        for batch in self._batches(rows):
            await client.zadd(table, batch)

    async def rows(self, connection: Any, table: str) -> list[Row]:
        rows = map(self._row, await connection.zrange(table, 0, -1))
        return sorted(rows, key=lambda row: row[0])

    async def put(self, connection: Any, table: str, row: Row) -> None:
        others = await self._members(connection, table, row[0])
        async with connection.pipeline(transaction=True) as pipe:
            if others:
                pipe.zrem(table, *others)
            pipe.zadd(table, {self._member(row): row[0]})
            await pipe.execute()

    async def delete(self, connection: Any, table: str, row_id: int) -> None:
        members = await self._members(connection, table, row_id)
        if members:
            await connection.zrem(table, *members)

    async def stand_in(self, connection: Any, table: str, rows: list[Row]) -> None:
        await self._replace(connection, table, self._batches(rows))

    async def drift(self, connection: Any, table: str, drift: Drift) -> None:
        rows = await self.rows(connection, table)
        await self._replace(connection, table, ({self._drifted(row, drift): row[0]} for row in rows))

    async def _replace(self, connection: Any, table: str, batches: Iterable[dict[bytes, int]]) -> None:
        there = await connection.exists(table)
        async with connection.pipeline(transaction=True) as pipe:
            # An empty sorted set has no key: note that instead.
            pipe.rename(table, _aside(table)) if there else pipe.set(_aside(table), "nothing")
            for batch in batches:
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
        return RedisShard(url, table, schema=self._declared)

    @property
    def _declared(self) -> pa.Schema | None:
        """The schema that a shard must be told; None for (id, name)."""
        return None if self.pairs else self.schema

    def _member(self, row: Row, again: bool = False) -> bytes:
        """A row as JSON. `again`: as an object, so that a row that is there twice is two members."""
        if self.pairs:
            return member(*row)
        values = [row[0], *row[1]]
        return _json(dict(zip(self.schema.names, values, strict=True)) if again else values)

    def _drifted(self, row: Row, drift: Drift) -> bytes:
        """A row after a migration: an object where a field has a new name, else an array, from which none may lack."""
        values = (row[0], row[1]) if self.pairs else (row[0], *row[1])
        found = drift.of(dict(zip(self.schema.names, values, strict=True)))
        return _json(found if drift.name in found else list(found.values()))

    def _row(self, raw: bytes) -> Row:
        """The row of a member; a client may have written it as an object."""
        row = json.loads(raw)
        values = [row.get(name) for name in self.schema.names] if isinstance(row, dict) else row
        return values[0], values[1] if self.pairs else tuple(values[1:])

    async def _members(self, client: Any, table: str, row_id: int) -> list[bytes]:
        """The members of one row. Large IDs share a score, so compare the ID in the member too."""
        return [raw for raw in await client.zrangebyscore(table, row_id, row_id) if self._row(raw)[0] == row_id]

    def _batches(self, rows: Sequence[Row]) -> Iterator[dict[bytes, int]]:
        """Members and their scores. An ID that is not a number gets the score of the row before it, or the first."""
        score = next((number for row_id, _ in rows if (number := _number(row_id)) is not None), 0)
        before: Row | None = None
        for start in range(0, len(rows), BATCH):
            batch = {}
            for row in rows[start : start + BATCH]:
                number = _number(row[0])
                score = score if number is None else number
                batch[self._member(row, again=row == before)] = score
                before = row
            yield batch


def _json(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def _aside(table: str) -> str:
    return f"{table}:aside"


def _number(row_id: Any) -> int | None:
    try:
        return int(row_id)
    except (TypeError, ValueError):
        return None
