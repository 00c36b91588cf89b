"""`RedisShard`: rows of one Redis server, read with redis.asyncio and hiredis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.limiter import ANSWER_LIMIT, Limiter, checked_limit
from labkit.shards.redis.changes import listen_on
from labkit.shards.redis.layouts import layout as layout_named
from labkit.shards.redis.layouts import member
from labkit.shards.redis.layouts.base import head
from labkit.shards.redis.server import RedisServer, command
from labkit.shards.redis.url import as_url, options_of, shown
from labkit.shards.secrets import Secrets

__all__ = ["RedisShard", "member"]


class RedisShard:
    """Reads the rows that one Redis server keeps under `key`, as `layout` has them (`labkit.shards.redis.layouts`).

    "sorted-set": score = id gives order, range pruning and get by ID; member = the whole row, as JSON `[id, name]`, so
    that two rows with the same name stay two members. "hash": a field an id. "strings": a key a row, `key:id`.

    `url` is `redis://[:password@]host:port/db` (or `rediss://`, `unix://`). Library retries are off; RESP2,
    which hiredis parses fastest. At most `pool_size` reads are served at a time, each on a connection of a pool; each
    event loop has a pool of its own. `answer_limit` is how many bytes the answers to one read may have, all together:
    a server that sends more is `invalid`, and so bounds the memory of a read. Raises `UsageError` for a URL of another
    kind or with options that are none, an unknown layout, a pool without a place, and a limit that is not a positive
    integer.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        layout: str = "sorted-set",
        pool_size: int = 10,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        self.url = as_url(url)
        self.key = key
        self.layout = layout_named(layout)
        self._places = Limiter(pool_size)
        self._server = RedisServer(options_of(url), checked_limit(answer_limit))
        self._timeout = 0.0

    def __repr__(self) -> str:
        return f"RedisShard({shown(self.url)!r}, key={self.key!r})"

    @property
    def secrets(self) -> Secrets:
        """What the server was sent and nobody is to see."""
        return self._server.secrets

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers bounds how long who listens waits for the server."""
        self._timeout = max(self._timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        async with self._places.one(ask.deadline), self._server.connected(ask.deadline) as (connection, _):
            rows = await self.layout.read(partial(command, connection), self.key, ask)
        return head(rows, ask.limit)

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by keyspace notifications, where the server has them on. See `Listens.listen`."""
        patience = self._timeout or None
        deadline = None if patience is None else asyncio.get_running_loop().time() + patience
        # Subscribed, a connection is of no use for reads.
        async with self._server.connected(deadline, keep=lambda: False) as (connection, limit):
            limit.reschedule(None)
            subscription = self.layout.subscription(self.key, self._server.database)
            await listen_on(connection, subscription, notify, beat, patience)

    async def aclose(self) -> None:
        """Closes every socket; nothing is sent, so a server that does not answer is not waited for."""
        await self._server.aclose()
