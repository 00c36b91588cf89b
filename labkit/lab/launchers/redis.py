"""Redis server processes, one per shard, on unix sockets. A separate module: a Postgres lab must not load redis-py."""

from __future__ import annotations

import signal

from labkit.lab.backends.redis import SETTINGS
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.launchers.binaries import redis_server

__all__ = ["RedisProgram"]


class RedisProgram:
    """The newest redis-server found here."""

    drop = False
    farewell = signal.SIGKILL  # it holds nothing outside its folder

    def __init__(self, credentials: str) -> None:
        self._program = str(redis_server())
        self._credentials = credentials

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        return [await keeper.ask(Keeper.make_folder, str(i + 1), drop=False) for i in range(count)]

    def command(self, folder: str) -> list[str]:
        listen = ["--port", "0", "--unixsocket", self.socket(folder), "--unixsocketperm", "700"]
        return [self._program, "-", *listen, "--dir", folder, *SETTINGS]

    def config(self) -> str:
        return self._credentials

    def socket(self, folder: str) -> str:
        return f"{folder}/redis.sock"
