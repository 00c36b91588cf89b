"""What a kind of server needs in order to be a shard of a lab; `postgres.py` and `redis.py` provide it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Protocol

from labkit.errors import UsageError
from labkit.lab.keeper.client import KeeperClient
from labkit.shards.base import Shard

__all__ = ["BACKENDS", "Backend", "backend"]

BACKENDS = ("postgres", "redis")


class Backend(Protocol):
    """One kind of server. Folders are those of a shard: its data, its log, its socket."""

    drop: bool
    """Whether the server must not run as root."""
    farewell: signal.Signals
    """The signal that ends the server at once and leaves nothing of it."""

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        """Makes the folders of `count` shards, ready to start in."""

    def command(self, folder: str) -> list[str]:
        """The command line of the server."""

    def upstream(self, folder: str) -> str:
        """The path of the socket it listens on."""

    async def ping(self, folder: str) -> None:
        """Returns when the server answers on its own socket; raises OSError when it does not yet."""

    async def load(self, folder: str, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        """Makes the table and puts the rows in."""

    def url(self, port: int) -> str:
        """The URL by which clients dial 127.0.0.1:`port`."""

    def source(self, url: str, table: str) -> Shard:
        """The reader's end of a shard."""


def backend(name: str) -> Backend:
    """The backend of that name; `UsageError` names those there are."""
    if name == "postgres":
        from labkit.lab.postgres import PostgresBackend

        return PostgresBackend()
    if name == "redis":
        from labkit.lab.redis import RedisBackend

        return RedisBackend()
    raise UsageError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
