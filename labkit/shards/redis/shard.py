"""`RedisShard`: rows of one Redis server, read with redis.asyncio and hiredis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask, Shard
from labkit.shards.limiter import ANSWER_LIMIT, Limiter, checked_limit
from labkit.shards.redis.changes import listen_on
from labkit.shards.redis.layouts import layout as layout_named
from labkit.shards.redis.layouts import member
from labkit.shards.redis.layouts.base import head
from labkit.shards.redis.server import Commands, RedisServer
from labkit.shards.redis.url import as_url, options_of, shown
from labkit.shards.secrets import Secrets

__all__ = ["RedisShard", "member"]


class RedisShard(Shard):
    """Reads the rows that one Redis server stores under `key` in a `layout` (`labkit.shards.redis.layouts`).

    "sorted-set": score = id gives order, range pruning and get by ID; member = the whole row, as JSON `[id, name]`, so
    that two rows with the same name are two members. "hash": one field per ID. "strings": one key per row, `key:id`.
    "hashes": one hash per row, `key:id`, with a field per column in plain text.

    `schema` declares the columns, the key first: a `pyarrow.Schema`; None is (id, name). Rows in JSON are then arrays
    of all values in its order, or objects of some, where a field that is lacking is NULL. Answers have its names, and
    its types as a Postgres shard would return them (`labkit.shards.schemas.read_as`): the key as int64, times in
    microseconds, text as large_string. Whether a field may be NULL is not checked. Anything that does not fit, such as
    a field that is not in the schema, makes the answer invalid, and the cause names its row and field.

    `url` is `redis://[:password@]host:port/db` (or `rediss://`, `unix://`). Library retries are off; the protocol is
    RESP2, which hiredis parses fastest. At most `pool_size` reads run at a time per event loop, each on a connection of
    the loop's pool. `answer_limit` bounds the bytes of all answers to one read, and so its memory: a server that sends
    more is `invalid`. Raises `UsageError` for a URL of another kind or with unknown options, an unknown layout, a
    schema that is not one, whose key is not of integers, that has a name twice or an unsupported type, a `pool_size`
    below 1, and a limit that is not a positive integer.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        layout: str = "sorted-set",
        schema: pa.Schema | None = None,
        pool_size: int = 10,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        self.url = as_url(url)
        self.key = key
        self.layout = layout_named(layout, schema)
        self._limiter = Limiter(pool_size)
        self._server = RedisServer(options_of(url), checked_limit(answer_limit))
        self._timeout = 0.0

    def __repr__(self) -> str:
        return f"RedisShard({shown(self.url)!r}, key={self.key!r})"

    @property
    def secrets(self) -> Secrets:
        """What was sent to the server and must not be shown."""
        return self._server.secrets

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers bounds how long `listen` waits for the server."""
        self._timeout = max(self._timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        async with self._limiter.one(ask.deadline), self._server.connected(ask.deadline) as (connection, _):
            rows = await self.layout.read(Commands(connection), self.key, ask)
        return head(rows, ask.limit)

    async def describe(self, deadline: float) -> pa.Schema:
        """The declared columns; the server has none to ask for. See `Describes.describe`."""
        return self.layout.schema

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes by keyspace notifications, if the server has them enabled. See `Listens.listen`."""
        patience = self._timeout or None
        deadline = None if patience is None else asyncio.get_running_loop().time() + patience
        # A subscribed connection cannot be used for reads.
        async with self._server.connected(deadline, keep=lambda: False) as (connection, limit):
            limit.reschedule(None)
            subscription = self.layout.subscription(self.key, self._server.database)
            await listen_on(connection, subscription, notify, beat, patience)

    async def aclose(self) -> None:
        """Closes every socket; sends nothing, so it does not wait for a server that does not answer."""
        await self._server.aclose()
