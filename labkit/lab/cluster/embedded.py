"""A node as a process."""

from __future__ import annotations

import os

from labkit.lab.backends.base import Backend
from labkit.lab.cluster.node import OPTIONS, NodeHandle
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.launchers.embedded import EmbeddedShard, Program

__all__ = ["BUS", "EmbeddedNode"]

BUS = 10_000
"""Distance of the cluster bus port from a node's port; fixed in Redis 6."""
HOST = "127.0.0.1"


class EmbeddedNode(NodeHandle, EmbeddedShard):
    """One server process that listens on TCP, since nodes talk by TCP. It announces the proxy's port."""

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str, program: Program, folder: str) -> None:
        super().__init__(keeper, backend, name, program, folder)
        self._life = ""

    @property
    def listens_at(self) -> int:
        return self.bus_port - BUS

    async def start(self) -> None:
        if not self.bus_port:
            self.bus_port = BUS + await self._keeper.ask(Keeper.free_port, BUS)
            self.place = (HOST, self.listens_at)
        await super().start()

    async def live_in(self, life: str) -> None:
        self._life = life
        os.makedirs(os.path.join(self._folder, life), exist_ok=True)

    @property
    def command(self) -> list[str]:
        announced = {"ip": HOST, "port": self.port, "bus-port": self.bus_port}
        return [
            *super().command,
            *("--port", str(self.listens_at), "--bind", HOST, "--dir", os.path.join(self._folder, self._life)),
            *OPTIONS,
            *(word for what, value in announced.items() for word in (f"--cluster-announce-{what}", str(value))),
        ]
