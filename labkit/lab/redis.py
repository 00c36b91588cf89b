"""Redis, as the client of a lab's servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.lab.backends import Place
from labkit.shards.redis import RedisShard, member

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["PORT", "SETTINGS", "RedisBackend"]

PORT = 6379
BATCH = 10_000
"""Rows a ZADD: large enough to be quick, small enough not to hold the server up."""

SETTINGS = ("--save", "", "--appendonly", "yes", "--appendfsync", "no")
"""How every launcher sets its servers up: an append-only file, so that a server that was killed has its rows."""


class RedisBackend:
    """One sorted set a server; no password, since only this machine can reach it."""

    name = "redis"

    async def connect(self, place: Place) -> Redis:
        """A client without retries; it connects at its first command."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        retry = Retry(NoBackoff(), 0)
        if isinstance(place, str):
            return Redis(unix_socket_path=place, protocol=2, retry=retry, driver_info=None)
        return Redis(host=place[0], port=place[1], protocol=2, retry=retry, driver_info=None)

    async def ping(self, place: Place) -> None:
        from redis.exceptions import RedisError

        async with await self.connect(place) as client:
            try:
                await client.ping()
            except RedisError as error:
                raise ConnectionError(str(error)) from error

    async def load(self, place: Place, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        async with await self.connect(place) as client:
            for start in range(0, len(rows), BATCH):
                await client.zadd(table, {member(i, name): i for i, name in rows[start : start + BATCH]})

    def url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def source(self, url: str, table: str) -> RedisShard:
        return RedisShard(url, table)
