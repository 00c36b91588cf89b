"""Redis servers for a lab: one a shard, on unix sockets; what was written survives a SIGKILL."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.lab.binaries import redis_server
from labkit.lab.keeper.client import KeeperClient
from labkit.shards.redis import RedisShard, member

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisBackend"]

BATCH = 10_000
"""Rows a ZADD: large enough to be quick, small enough not to hold the server up."""


class RedisBackend:
    """The newest redis-server found here, with an append-only file, so that it comes back with its rows."""

    drop = False
    farewell = signal.SIGKILL  # it holds nothing outside of its folder

    def __init__(self) -> None:
        self._program = str(redis_server())

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        return [await keeper.ask("folder", name=str(i + 1), drop=False) for i in range(count)]

    def command(self, folder: str) -> list[str]:
        listen = ["--port", "0", "--unixsocket", self.upstream(folder), "--unixsocketperm", "700"]
        return [self._program, *listen, "--dir", folder, "--save", "", "--appendonly", "yes", "--appendfsync", "no"]

    def upstream(self, folder: str) -> str:
        return f"{folder}/redis.sock"

    async def ping(self, folder: str) -> None:
        from redis.exceptions import RedisError

        async with self._admin(folder) as client:
            try:
                await client.ping()
            except RedisError as error:
                raise ConnectionError(str(error)) from error

    async def load(self, folder: str, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        async with self._admin(folder) as client:
            for start in range(0, len(rows), BATCH):
                await client.zadd(table, {member(i, name): i for i, name in rows[start : start + BATCH]})

    def url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def source(self, url: str, table: str) -> RedisShard:
        return RedisShard(url, table)

    def _admin(self, folder: str) -> Redis:
        """A client past the proxy, without retries."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        retry = Retry(NoBackoff(), 0)
        return Redis(unix_socket_path=self.upstream(folder), protocol=2, retry=retry, driver_info=None)
