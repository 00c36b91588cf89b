"""A node of a cluster: a server that announces its proxy's address to clients, and can lose its identity."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from labkit.lab.keeper.keeper import Keeper
from labkit.lab.server import ServerHandle

if TYPE_CHECKING:
    from labkit.faults.base import Row
    from labkit.shards.redis.cluster.slots import Listed

__all__ = ["CRON", "OPTIONS", "VOTES", "NodeHandle"]

CRON = 0.1
"""Seconds between two checks of a cluster's state. Its nodes update theirs ten times a second, in `clusterCron`; more
frequent checks only cost processor time, since each connects to every node."""

NODE_TIMEOUT = 2000
"""Milliseconds after which a node that does not answer counts as failed."""
VOTES = 2 * NODE_TIMEOUT / 1000
"""Seconds that the votes for a replica count. In an earlier election it counts old votes again and takes over without a
new epoch, so no other node ever accepts it. Source: redis/redis issue 8752."""

OPTIONS = (
    "--cluster-enabled", "yes",
    "--cluster-config-file", "nodes.conf",
    "--cluster-node-timeout", str(NODE_TIMEOUT),
    "--cluster-require-full-coverage", "no",  # else all masters refuse when one is gone
    "--cluster-allow-reads-when-down", "yes",  # else the last of three refuses when two are gone
    "--repl-diskless-sync-delay", "0",  # do not wait for further replicas
)  # fmt: skip
"""Options of all nodes. A test checks that the rest of a broken cluster can be read."""


class Membership(Protocol):
    """What a node needs of its `Cluster`."""

    @property
    def replicated(self) -> bool: ...
    async def until_seen(self, name: str, holds: Callable[[Listed], bool], what: str) -> None: ...
    async def until_moved_from(self, name: str) -> str: ...
    def writing(self, key: str) -> AbstractAsyncContextManager[Any]: ...


class NodeHandle(ServerHandle):
    """The common part of both launchers' nodes. `cluster` is set once it is formed."""

    cluster: Membership
    name = ""
    """Its name in the cluster."""
    bus_port = 0
    """The port for other nodes."""
    deposed = float("-inf")
    """When this first master was last seen to be a replica, on the loop's clock."""

    _lives = count(1)

    @property
    @abstractmethod
    def listens_at(self) -> int:
        """The port that the server itself listens on, behind the proxy."""

    @abstractmethod
    async def live_in(self, life: str) -> None:
        """Sets the subfolder to start from next time: its data and its node ID. "" is the node's own folder."""

    async def start(self) -> None:
        if not self.port:
            # The server announces the proxy's address, so reserve that before it starts.
            self.port = await self._keeper.ask(Keeper.reserve, self._name)
        await super().start()
        await self.expose()  # replicas connect through the proxy, too

    async def until_votes_lapse(self) -> None:
        """Returns when the votes with which its replica last took over do not count any more."""
        # They cannot be queried.
        await asyncio.sleep(max(0.0, self.deposed + VOTES - asyncio.get_running_loop().time()))

    async def kill(self) -> None:
        await self.until_votes_lapse()
        await super().kill()

    async def pause(self) -> None:
        await self.until_votes_lapse()
        await super().pause()

    async def lose_identity(self) -> None:
        await self.kill()
        await self.live_in(f"life-{next(self._lives)}")
        await self.restart()
        await self.cluster.until_seen(
            self.name, lambda line: "noaddr" in line.flags, f"the address of node {self.name} is lost"
        )

    async def regain_identity(self) -> None:
        await self.kill()
        await self.live_in("")
        await self.restart()
        await self.cluster.until_seen(
            self.name, lambda line: not line.flags & {"noaddr", "fail", "fail?"}, f"node {self.name} is healthy"
        )

    async def overtaken(self) -> None:
        await self.cluster.until_moved_from(self.name)

    async def put(self, row: Row) -> None:
        async with self.cluster.writing(self.table) as admin:
            await self._backend.put(admin, self.table, row)

    async def delete(self, row_id: int) -> None:
        async with self.cluster.writing(self.table) as admin:
            await self._backend.delete(admin, self.table, row_id)

    async def reset(self, rows: Callable[[], list[Row]]) -> None:
        async with self.cluster.writing(self.table) as admin:
            self._loaded = await self._backend.reset(admin, admin, self.table, rows, self._loaded)

    @property
    def replicated(self) -> bool:
        return self.cluster.replicated
