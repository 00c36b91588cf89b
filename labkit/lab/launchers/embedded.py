"""Starts one server process per shard, with neither Docker nor root."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from labkit._types import ShardKey
from labkit.lab.backends.base import Backend
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.progress import Progress
from labkit.lab.server import ServerHandle

__all__ = ["EmbeddedLauncher", "EmbeddedShard", "Program", "program"]


class Program(Protocol):
    """One kind of server program. A folder is a shard's own: its data and its socket."""

    drop: bool
    """Whether the server must not run as root."""
    farewell: signal.Signals
    """The signal that ends the server at once and leaves nothing of it."""

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        """Makes the folders of `count` shards, ready to start in."""

    def command(self, folder: str) -> list[str]:
        """The command line of the server."""

    def config(self) -> str:
        """The configuration that the server reads from stdin, where others cannot read it."""

    def socket(self, folder: str) -> str:
        """The path of the socket it listens on."""


def program(backend: str, credentials: str) -> Program:
    """The newest program for that backend found here, with its `credentials`; `LabError` if there is none."""
    if backend == "postgres":
        from labkit.lab.launchers.postgres import PostgresProgram

        return PostgresProgram(credentials)
    from labkit.lab.launchers.redis import RedisProgram

    return RedisProgram(credentials)


class EmbeddedShard(ServerHandle):
    """One server process."""

    start_timeout = 30.0
    poll = 0.01

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str, program: Program, folder: str) -> None:
        super().__init__(keeper, backend, name)
        self._program = program
        self._folder = folder
        self.place = program.socket(folder)
        self.pids: list[int] = []
        """Its server processes, the running one last."""

    @property
    def command(self) -> list[str]:
        """The command line of its server."""
        return self._program.command(self._folder)

    async def launch(self) -> None:
        pid = await self._keeper.ask(
            Keeper.spawn,
            self._name,
            argv=self.command,
            cwd=self._folder,
            drop=self._program.drop,
            farewell=int(self._program.farewell),
            stdin=self._program.config(),
        )
        self.pids.append(pid)
        self.killed = False


class EmbeddedLauncher:
    """A `Launcher` of processes, each a `kind`."""

    name = "embedded"
    at_once = 64

    def __init__(self, keeper: KeeperClient, backend: Backend, kind: type[EmbeddedShard] = EmbeddedShard) -> None:
        self._keeper = keeper
        self._backend = backend
        self._kind = kind
        self.shards: dict[ShardKey, EmbeddedShard] = {}

    async def prepare(self, shards: Sequence[Any], progress: Progress) -> Mapping[Any, EmbeddedShard]:
        runs = program(self._backend.name, self._backend.credentials)
        folders = await runs.prepare(self._keeper, len(shards))
        for number, (shard, folder) in enumerate(zip(shards, folders, strict=True), start=1):
            self.shards[shard] = self._kind(self._keeper, self._backend, str(number), runs, folder)
        return self.shards

    def leftovers(self) -> list[str]:
        import psutil

        pids = [pid for shard in self.shards.values() for pid in shard.pids if psutil.pid_exists(pid)]
        return [f"server process {pid}" for pid in pids]
