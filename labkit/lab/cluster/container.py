"""A node as a container."""

from __future__ import annotations

from dataclasses import replace

from labkit.lab.backends.redis import SETTINGS
from labkit.lab.cluster.node import OPTIONS, NodeHandle
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.launchers.docker import ContainerShard, Recipe

__all__ = ["ContainerNode"]

HOST = "127.0.0.1"
BUS = 16379
START = """d="/data/$(cat /data/life 2>/dev/null)"; mkdir -p "$d"; exec redis-server - "$@" --dir "$d" <<END
$LABKIT_REDIS_CONFIG
END"""
"""A container's command cannot change, so it reads the folder to start from out of a file. Others can read the command,
so the server gets its passwords from stdin."""


class ContainerNode(NodeHandle, ContainerShard):
    """One container. Nodes know each other by their addresses on the lab's network; to clients a node announces the
    proxy's address as its hostname. It listens on the proxy's port number, so that one number is right for both.
    """

    bus_port = BUS
    keeps_address = True  # else two restarted nodes could swap addresses, and no node could tell them apart

    @property
    def listens_at(self) -> int:
        return self.port

    async def live_in(self, life: str) -> None:
        await self._keeper.ask(Keeper.write_file, self._name, "/data/life", life)

    async def disconnect(self) -> None:
        await self.until_votes_lapse()
        await super().disconnect()

    @property
    def recipe(self) -> Recipe:
        plain = super().recipe
        announced = {"cluster-announce-hostname": HOST, "cluster-preferred-endpoint-type": "hostname"}
        words = {**announced, "port": self.port, "cluster-port": BUS}
        options = [*OPTIONS, *(word for name, value in words.items() for word in (f"--{name}", str(value)))]
        env = {**plain.env, "LABKIT_REDIS_CONFIG": self._backend.credentials}
        return replace(plain, port=self.port, command=["sh", "-c", START, "redis-server", *SETTINGS, *options], env=env)
