"""What is needed to run a kind of server as a process; `postgres.py` and `redis.py` provide it."""

from __future__ import annotations

import signal
from typing import Protocol

from labkit.lab.keeper.client import KeeperClient

__all__ = ["Program", "program"]


class Program(Protocol):
    """One kind of server. Folders are those of a shard: its data and its socket."""

    drop: bool
    """Whether the server must not run as root."""
    farewell: signal.Signals
    """The signal that ends the server at once and leaves nothing of it."""

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        """Makes the folders of `count` shards, ready to start in."""

    def command(self, folder: str) -> list[str]:
        """The command line of the server."""

    def config(self) -> str:
        """What it is told on its stdin, where others cannot read it."""

    def socket(self, folder: str) -> str:
        """The path of the socket it listens on."""


def program(backend: str, credentials: str) -> Program:
    """The newest program for that backend found here, with its `credentials`; `LabError` where there is none."""
    if backend == "postgres":
        from labkit.lab.launchers.embedded.postgres import PostgresProgram

        return PostgresProgram(credentials)
    from labkit.lab.launchers.embedded.redis import RedisProgram

    return RedisProgram(credentials)
