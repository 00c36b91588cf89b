"""`RedisShard`: rows of one Redis server, read with redis.asyncio and hiredis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.layouts import layout as layout_named
from labkit.shards.layouts import member
from labkit.shards.layouts.base import head
from labkit.shards.places import Places
from labkit.shards.redis_changes import listen_on
from labkit.shards.redis_server import RedisServer, command
from labkit.shards.redis_url import as_url, options_of, shown

__all__ = ["RedisShard", "member"]


class RedisShard:
    """Reads the rows that one Redis server keeps under `key`, as `layout` has them (`labkit.shards.layouts`).

    "sorted-set": score = id gives order, range pruning and get by ID; member = the whole row, as JSON `[id, name]`, so
    that two rows with the same name stay two members. "hash": a field an id. "strings": a key a row, `key:id`.

    `url` is `redis://[:password@]host:port/db` (or `rediss://`, `unix://`). Library retries are off; RESP2,
    which hiredis parses fastest. At most `pool_size` reads are served at a time, each on a connection of a pool.
    Raises `UsageError` for a URL of another kind or with options that are none, an unknown layout, and a pool without a
    place.
    """

    def __init__(self, url: str, key: str, *, layout: str = "sorted-set", pool_size: int = 10) -> None:
        self.url = as_url(url)
        self.key = key
        self.layout = layout_named(layout)
        self._places = Places(pool_size)
        self._server = RedisServer(options_of(url))

    def __repr__(self) -> str:
        return f"RedisShard({shown(self.url)!r}, key={self.key!r})"

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers bounds each socket operation of connections made from now on."""
        self._server.timeout = max(self._server.timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        async with self._places.one(ask.deadline), self._server.connected(ask.deadline) as (connection, _):
            rows = await self.layout.read(partial(command, connection), self.key, ask)
        return head(rows, ask.limit)

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by keyspace notifications, where the server has them on. See `Listens.listen`."""
        patience = self._server.timeout or None
        deadline = asyncio.get_running_loop().time() + patience if patience else None
        async with self._server.connected(deadline) as (connection, limit):
            limit.reschedule(None)
            try:
                await listen_on(connection, self.layout, self.key, self._server.database, notify, beat, patience)
            finally:
                await connection.disconnect(nowait=True)  # subscribed, it is of no use for reads

    async def aclose(self) -> None:
        """Closes every socket; nothing is sent, so a server that does not answer is not waited for."""
        await self._server.aclose()
