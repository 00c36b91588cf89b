"""One Redis server as shards talk to it: a pool of connections of redis.asyncio, with library retries off, in RESP2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from labkit.answer import InvalidAnswer
from labkit.shards.redis_arrays import Parser
from labkit.shards.redis_failures import failure

__all__ = ["RedisServer", "command"]


class RedisServer:
    """`options` are redis-py's, as of a URL; ours come first. `timeout` in seconds bounds each socket operation of
    connections made from now on; 0 is no bound.
    """

    def __init__(self, options: Mapping[str, Any], timeout: float = 0.0) -> None:
        self._options = options
        self.timeout = timeout
        self.client: Redis | None = None
        """Made at the first connection: it belongs to the event loop that reads."""

    @property
    def database(self) -> int:
        """The number of the database."""
        return int(self._options.get("db", 0))

    @asynccontextmanager
    async def connected(
        self, deadline: float | None, *, keep: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[tuple[Any, asyncio.Timeout]]:
        """A connection of the pool, until `deadline`; what redis-py raises becomes what a reader knows.

        It is closed after that unless `keep()` says by then that it will be of use.
        """
        pool: Any = self.opened().connection_pool
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
            raise failure(error, connected=connection is not None) from error
        finally:
            kept = keep()
            if connection is not None:
                if not kept:
                    await connection.disconnect(nowait=True)
                await pool.release(connection)
            elif not kept:
                await self.close_idle()  # the pool has the one that was given up, which may be connected

    async def close_idle(self) -> None:
        """Closes the connections that nobody uses just now; nobody can take one meanwhile."""
        if self.client is not None:
            pool: Any = self.client.connection_pool
            for connection in list(pool._available_connections):
                await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Closes every socket; nothing is sent, so a server that does not answer is not waited for."""
        if self.client is not None:
            await self.client.aclose()
            self.client = None

    def opened(self) -> Redis:
        """The client, and its pool; no connection is made by that."""
        if self.client is None:
            timeout = self.timeout or None
            ours: dict[str, Any] = {
                "protocol": 2,
                "parser_class": Parser,
                "socket_read_size": 1 << 20,  # all that has come, of a chunk: the parser looks at it as a whole
                "retry": Retry(NoBackoff(), 0),
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
                "driver_info": None,
                "max_connections": 1 << 20,  # reads have places, and who listens takes none
            }
            # Not from_url(), which would give the URL's own options the last word.
            self.client = Redis.from_pool(ConnectionPool(**{**self._options, **ours}))
        return self.client


async def command(connection: Any, *words: Any) -> Any:
    """Sends one command, and returns the raw answer; raises what redis-py raises, `InvalidAnswer` where it chokes."""
    await connection.send_command(*words)
    try:
        return await connection.read_response()
    except ValueError as error:
        raise InvalidAnswer(f"the answer cannot be understood: {error}") from None
