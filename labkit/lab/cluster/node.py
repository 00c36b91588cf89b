"""A node of a cluster: a server of a lab that announces its proxy's address to clients, and can lose its identity."""

from __future__ import annotations

from abc import abstractmethod
from itertools import count
from typing import TYPE_CHECKING, Protocol

from labkit.lab.server import ServerHandle

if TYPE_CHECKING:
    from labkit.faults.base import Row

__all__ = ["OPTIONS", "Node"]

NODE_TIMEOUT = 2000
"""Milliseconds after which a node that does not answer counts as failed."""
VOTES = 2 * NODE_TIMEOUT / 1000
"""Seconds that the votes for a replica count. It counts them once more in an election that begins before: then it takes
over without a new epoch, so nobody else believes it, for good. Source: redis/redis issue 8752."""

OPTIONS = (
    "--cluster-enabled", "yes",
    "--cluster-config-file", "nodes.conf",
    "--cluster-node-timeout", str(NODE_TIMEOUT),
    "--cluster-require-full-coverage", "no",  # or one master that is gone would have all others refuse
    "--cluster-allow-reads-when-down", "yes",  # or two of three that are gone would
    "--repl-diskless-sync-delay", "0",  # nobody else is waited for
)  # fmt: skip
"""What all nodes are told. A test holds that labs read what is left."""


class Together(Protocol):
    """What a node needs to know of its cluster."""

    @property
    def replicated(self) -> bool: ...
    async def until_votes_lapse(self, name: str) -> None: ...
    async def until_lost(self, name: str) -> None: ...
    async def until_known(self, name: str) -> None: ...
    async def until_moved_from(self, name: str) -> str | None: ...
    async def put(self, table: str, row: Row) -> None: ...
    async def delete(self, table: str, row_id: int) -> None: ...


class Node(ServerHandle):
    """What the nodes of both launchers have in common. `cluster` is set once there is one."""

    cluster: Together
    name = ""
    """What it is called in the cluster."""
    bus_port = 0
    """Where other nodes talk to it."""

    _lives = count(1)

    @property
    @abstractmethod
    def listens_at(self) -> int:
        """The port that it listens at itself, behind the proxy."""

    @abstractmethod
    async def live_in(self, life: str) -> None:
        """The folder in its own folder from which it starts the next time: its data, and who it is. "" is its own."""

    async def start(self) -> None:
        if not self.port:
            # It has to announce the proxy's address, so there is a proxy before there is a server.
            self.port = await self._keeper.ask("reserve", name=self._name)
        await super().start()
        await self.expose()  # other nodes come that way as well, as replicas do

    async def kill(self) -> None:
        await self.cluster.until_votes_lapse(self.name)
        await super().kill()

    async def pause(self) -> None:
        await self.cluster.until_votes_lapse(self.name)
        await super().pause()

    async def lose_identity(self) -> None:
        await self.kill()
        await self.live_in(f"life-{next(self._lives)}")
        await self.restart()
        await self.cluster.until_lost(self.name)

    async def regain_identity(self) -> None:
        await self.kill()
        await self.live_in("")
        await self.restart()
        await self.cluster.until_known(self.name)

    async def overtaken(self) -> None:
        await self.cluster.until_moved_from(self.name)

    async def put(self, row: Row) -> None:
        await self.cluster.put(self.table, row)

    async def delete(self, row_id: int) -> None:
        await self.cluster.delete(self.table, row_id)

    @property
    def replicated(self) -> bool:
        return self.cluster.replicated
