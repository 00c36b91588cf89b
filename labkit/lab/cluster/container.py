"""A node as a container."""

from __future__ import annotations

from dataclasses import replace

from labkit.lab.backends.redis import SETTINGS
from labkit.lab.cluster.node import OPTIONS, Node
from labkit.lab.launchers.docker.images import Recipe
from labkit.lab.launchers.docker.launcher import ContainerShard

__all__ = ["ContainerNode"]

HOST = "127.0.0.1"
BUS = 16379
START = """d="/data/$(cat /data/life 2>/dev/null)"; mkdir -p "$d"; exec redis-server - "$@" --dir "$d" <<END
$LABKIT_REDIS_CONFIG
END"""
"""A container's command cannot change, so the folder that it starts from stands in a file. It can be read by others, so
passwords are not in it: the server has them from its stdin."""


class ContainerNode(Node, ContainerShard):
    """One container. Nodes know each other by their addresses on the lab's network; to clients a node announces the
    proxy's, as its hostname, and it listens at the same port number as the proxy, so that one number is right for both.
    """

    bus_port = BUS
    keeps_address = True  # or two that start again may have changed places, and no node knows any more who is who

    @property
    def listens_at(self) -> int:
        return self.port

    async def live_in(self, life: str) -> None:
        await self._keeper.ask("write_file", name=self._name, path="/data/life", text=life)

    async def disconnect(self) -> None:
        await self.cluster.until_votes_lapse(self.name)
        await super().disconnect()

    @property
    def recipe(self) -> Recipe:
        plain = super().recipe
        announced = {"cluster-announce-hostname": HOST, "cluster-preferred-endpoint-type": "hostname"}
        words = {**announced, "port": self.port, "cluster-port": BUS}
        options = [*OPTIONS, *(word for name, value in words.items() for word in (f"--{name}", str(value)))]
        env = {**plain.env, "LABKIT_REDIS_CONFIG": self._backend.credentials}
        return replace(plain, port=self.port, command=["sh", "-c", START, "redis-server", *SETTINGS, *options], env=env)
