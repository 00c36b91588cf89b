"""`lab.cluster`: the nodes of a Redis Cluster, how they see each other, and what one waits for them to notice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisError, ResponseError

from labkit._types import ShardKey
from labkit.errors import LabError, UsageError
from labkit.faults.base import Row
from labkit.faults.waiting import until
from labkit.lab.access import Access
from labkit.lab.backends.redis import delete, put
from labkit.lab.cluster.node import VOTES, Node
from labkit.shards.redis.cluster.slots import Listed, key_slot, listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cluster", "RedisCluster", "opened", "settled"]

PATIENCE = 30.0
"""Seconds that a cluster gets to settle: a failover takes some five, one of the same master again may take twenty."""


async def settled(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns when it holds; `LabError` that names `what` where that takes too long."""
    await until(holds, f"a cluster in which {what}", PATIENCE)


SECONDS = 0.5
"""For connecting to a node, and for each answer of one."""


class RedisCluster(redis.asyncio.RedisCluster):
    """redis-py's own has forgotten after an error that it is open, and closes nothing."""

    async def aclose(self) -> None:
        """Closes the connections to all nodes."""
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)


def opened(addresses: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> RedisCluster:
    """A client that knows these nodes; it connects when it is used. `retry` of a cluster is only how often."""
    ours = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "retry": Retry(NoBackoff(), 1), "protocol": 2}
    make: Any = ClusterNode
    nodes = [make(host, port) for host, port in addresses]
    return RedisCluster(startup_nodes=nodes, **{**ours, **options})


HEARING = 0.5
"""Seconds that a node gets to say how it sees the cluster; one that is frozen says nothing."""
FAILOVER = 2.0
"""Seconds that a failover which was asked for gets: asked for again, it would begin anew."""
ACKNOWLEDGED = 200
"""Milliseconds that replicas get to say that they have a write, before they are asked again."""


class Cluster:
    """The cluster of a lab. `shards` are the first masters of each shard; `tables` has the keys of their rows."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        shards: Mapping[Any, str],
        tables: Mapping[Any, str],
        access: Access,
        *,
        replicas: int,
    ) -> None:
        self._nodes = nodes
        self._access = access
        self._shards = shards
        self._slots = {shards[shard]: key_slot(table) for shard, table in tables.items()}
        self._ids: dict[str, str] = {}
        """Names by ID."""
        self._deposed: dict[str, float] = {}
        """When a first master was seen last not to be one."""
        self._replicas = replicas
        self.replicated = replicas > 0
        """Whether its masters have replicas."""

    async def identify(self) -> None:
        """Notes which node has which ID, once all of them run."""
        for name, node in self._nodes.items():
            self._ids[(await (await node.admin()).execute_command("CLUSTER", "MYID")).decode()] = name

    @property
    def urls(self) -> dict[str, str]:
        """How a client dials each node, by its name: "1", "2", … are the shards' masters, "2 replica" copies 2."""
        return {name: f"redis://:{self._access.client}@127.0.0.1:{node.port}/0" for name, node in self._nodes.items()}

    @property
    def url(self) -> str:
        """All of them in one, as `RedisClusterShard` takes it."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes.values())
        return f"redis+cluster://:{self._access.client}@{places}/0"

    def client(self, **options: Any) -> RedisCluster:
        """A `redis.asyncio.RedisCluster` that knows all nodes, for writes and look-ups: `async with …client() as rc:`.

        Half a second for each node and one more try, and the lab's password, unless the options, which are redis-py's,
        say otherwise.
        """
        ours = {"password": self._access.client}
        return opened([("127.0.0.1", node.port) for node in self._nodes.values()], {**ours, **options})

    async def admin(self, name: str) -> Any:
        """As `Lab.admin`, to a node; `UsageError` for one that there is not."""
        return await self._node(name).connect()

    async def view(self, by: str | None = None) -> pd.DataFrame:
        """How node `by` sees all nodes, or the first that answers: columns node, role, state and slots, a row a node.

        A node whose ID is another one than at the start is "stranger". `UsageError` for a node that there is not,
        `LabError` where it does not answer.
        """
        import pandas as pd

        if by is not None:
            self._node(by)
        seen = await self._views()
        name = by if by is not None else next(iter(seen), None)
        if name not in seen:
            raise LabError(f"node {name} does not answer" if name else "no node of the cluster answers")
        order = {name: place for place, name in enumerate(self._nodes)}
        lines = sorted(seen[name], key=lambda line: order.get(self._name(line), len(order)))
        return pd.DataFrame(
            {
                "node": [self._name(line) for line in lines],
                "role": [line.role for line in lines],
                "state": [line.state for line in lines],
                "slots": [" ".join(f"{first}-{last}" for first, last in line.slots) for line in lines],
            }
        )

    async def config_set(self, name: str, value: str) -> None:
        """CONFIG SET on all nodes that answer; it is gone when a node starts again."""
        await self._all("CONFIG", "SET", name, value)

    async def until_failed(self, shard: ShardKey) -> None:
        """Returns when all nodes that answer agree that the first master of the shard failed; `LabError` if never."""
        name = self._of(shard)
        await self._until(lambda line: "fail" in line.flags, name, f"node {name} counts as failed")

    async def until_moved(self, shard: ShardKey) -> str:
        """Returns, once all nodes that answer agree that another node than the shard's first master owns its rows, the
        name of that; `LabError` if never.
        """
        return await self.until_moved_from(self._of(shard))

    async def until_moved_from(self, name: str) -> str:
        """The same, by the name of the first master."""
        owner = ""

        def moved(views: Mapping[str, Sequence[Listed]]) -> bool:
            nonlocal owner
            owners = {self._owner(view, self._slots[name]) for view in views.values()}
            owner = next(iter(owners)) if len(owners) == 1 else ""
            return bool(owner) and owner != name

        await self._agreed(moved, f"another node than {name} owns its slots", but=name)
        return owner

    async def until_lost(self, name: str) -> None:
        """Returns when all others have lost the address of a node, which they then write as port 0."""
        await self._until(lambda line: "noaddr" in line.flags, name, f"the address of node {name} is lost")

    async def until_known(self, name: str) -> None:
        """Returns when all others know where a node is, and that it is well."""
        await self._until(lambda line: not line.flags & {"noaddr", "fail", "fail?"}, name, f"node {name} is well")

    async def until_well(self) -> None:
        """Returns when all nodes see all others well, and take writes: some seconds after `heal()`, since a master that
        was called dead is forgiven late, and one that has just started waits two seconds. `LabError` if never.
        """

        async def tried() -> bool:
            views, infos = await self._views(), await self._all("CLUSTER", "INFO")
            well = all(line.state == "ok" for view in views.values() for line in view)
            taking = all(b"cluster_state:ok" in info for info in infos.values())
            return well and taking and len(views) == len(infos) == len(self._nodes)

        await settled(tried, "all nodes are well, and take writes")

    async def put_right(self, shard: ShardKey) -> None:
        """Makes the shard's first master one again, where a replica has taken over, and that a replica."""
        if not self.replicated:
            return
        node = self._nodes[name := self._of(shard)]

        def agreed(views: Mapping[str, Sequence[Listed]]) -> bool:
            owners = {self._owner(view, self._slots[name]) for view in views.values()}
            lines = [line for view in views.values() for line in view if line.state == "ok"]
            return owners == {name} and all(line.slots or line.role == "replica" for line in lines)

        clock, told = asyncio.get_running_loop().time, float("-inf")

        async def tried() -> bool:
            nonlocal told
            admin = await node.admin()
            if agreed(await self._views()):  # and who copies it is with it: else nobody could take over the next time
                return bool(await admin.execute_command("WAIT", self._replicas, ACKNOWLEDGED) >= self._replicas)
            self._deposed[name] = clock()
            state = await admin.info("replication")
            follows = state["role"] == "slave" and state.get("master_link_status") == "up"
            if follows and clock() > told + FAILOVER:
                told = clock()
                with contextlib.suppress(ResponseError):  # it has just become one, as it was told the last time
                    await admin.execute_command("CLUSTER", "FAILOVER")
            return False

        await settled(tried, f"node {name} is a master again")

    async def until_votes_lapse(self, name: str) -> None:
        """Returns when no vote counts any more that the replica of a first master had when it took over last."""
        since = asyncio.get_running_loop().time() - self._deposed.get(name, float("-inf"))
        await asyncio.sleep(max(0.0, VOTES - since))  # what it counts cannot be asked for

    async def put(self, table: str, row: Row) -> None:
        """Writes a row, through the cluster: to whoever owns it now, and to his replicas.

        Waits for a cluster that does not take writes yet.
        """
        admin = await self._writing_to(table)
        await put(admin, table, row)
        await _copied(admin, table)

    async def delete(self, table: str, row_id: int) -> None:
        """Takes a row out, in the same way."""
        admin = await self._writing_to(table)
        await delete(admin, table, row_id)
        await _copied(admin, table)

    async def _writing_to(self, table: str) -> Any:
        """The administrator's connection to the node that all name as the owner of the key, once it takes writes: a
        master that has just started refuses them for two seconds.

        Not a `RedisCluster`: that cannot begin while the master of the lowest slots is silent, whoever is written to.
        """
        slot, owner = key_slot(table), ""

        async def tried() -> bool:
            nonlocal owner
            views, infos = await self._views(), await self._all("CLUSTER", "INFO")
            owners = {self._owner(view, slot) for view in views.values()}
            owner = next(iter(owners)) if len(owners) == 1 else ""
            return owner in infos and all(b"cluster_state:ok" in info for info in infos.values())

        await settled(tried, f"the owner of {table} takes writes")
        return await self._nodes[owner].admin()

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            raise UsageError(f"unknown node {name!r}: this cluster has {', '.join(self._nodes)}")
        return self._nodes[name]

    def _of(self, shard: ShardKey) -> str:
        if shard not in list(self._shards):
            raise UsageError(f"unknown shard {shard!r}: this lab has {list(self._shards)}")
        return self._shards[shard]

    def _name(self, line: Listed) -> str:
        return self._ids.get(line.id, "stranger")

    def _owner(self, view: Sequence[Listed], slot: int) -> str:
        return next((self._name(line) for line in view if line.owns(slot)), "")

    async def _until(self, holds: Callable[[Listed], bool], name: str, what: str) -> None:
        def agreed(views: Mapping[str, Sequence[Listed]]) -> bool:
            lines = [line for view in views.values() for line in view if self._name(line) == name]
            return bool(lines) and all(map(holds, lines))

        await self._agreed(agreed, what, but=name)

    async def _agreed(
        self, holds: Callable[[Mapping[str, Sequence[Listed]]], bool], what: str, but: str | None = None
    ) -> None:
        """Waits until it holds for what the nodes see, but for one; there must be another one that answers."""

        async def tried() -> bool:
            views = {name: view for name, view in (await self._views()).items() if name != but}
            return bool(views) and holds(views)

        await settled(tried, what)

    async def _views(self) -> dict[str, list[Listed]]:
        """How each node that answers sees the cluster."""
        return {name: listed(answer.decode()) for name, answer in (await self._all("CLUSTER", "NODES")).items()}

    async def _all(self, *words: Any) -> dict[str, Any]:
        """What the nodes say that answer in time."""
        answers = await asyncio.gather(*(_said(node, *words) for node in self._nodes.values()))
        return {name: answer for name, answer in zip(self._nodes, answers, strict=True) if answer is not None}


async def _said(node: Node, *words: Any) -> Any:
    try:
        async with asyncio.timeout(HEARING), await node.connect() as admin:
            return await admin.execute_command(*words)
    except (RedisError, OSError):
        return None


async def _copied(admin: Any, key: str) -> None:
    """Returns when all replicas that follow the owner of the key have what was written."""

    async def tried() -> bool:
        # The administrator has one connection, so WAIT is about what was written on it.
        copies = (await admin.info("replication"))["connected_slaves"]
        return not copies or bool(await admin.execute_command("WAIT", copies, ACKNOWLEDGED) >= copies)

    await settled(tried, f"all replicas have what was written to {key}")
