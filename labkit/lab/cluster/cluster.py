"""`lab.cluster`: the nodes of a Redis Cluster, how they see each other, and waiting for what they notice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisError, ResponseError

from labkit._types import ShardKey
from labkit.errors import LabError, UsageError
from labkit.faults.base import wait_until
from labkit.lab.access import Access
from labkit.lab.cluster.node import CRON, NodeHandle
from labkit.shards.redis.cluster.slots import Listed, key_slot, listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cluster", "RedisCluster", "opened"]

SETTLE_TIMEOUT = 30.0
"""Seconds that a cluster gets to agree: a failover takes some five, another one of the same master up to twenty."""
CLIENT_TIMEOUT = 0.5
"""Seconds for a client to connect to a node, and for each of its answers."""


class RedisCluster(redis.asyncio.RedisCluster):
    """redis-py's own forgets after an error that it is open, and then closes nothing."""

    async def aclose(self) -> None:
        """Closes the connections to all nodes."""
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)


def opened(addresses: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> RedisCluster:
    """A client that knows these nodes and connects on first use. A cluster uses only the number of `retry`."""
    timeouts = {"socket_timeout": CLIENT_TIMEOUT, "socket_connect_timeout": CLIENT_TIMEOUT}
    ours = {**timeouts, "retry": Retry(NoBackoff(), 1), "protocol": 2}
    make: Any = ClusterNode
    nodes = [make(host, port) for host, port in addresses]
    return RedisCluster(startup_nodes=nodes, **{**ours, **options})


VIEW_TIMEOUT = 0.5
"""Seconds that a node gets to report how it sees the cluster; a frozen one never does."""
FAILOVER = 2.0
"""Seconds that a requested failover gets: another request would start it again."""
ACKNOWLEDGED = 200
"""Milliseconds that one WAIT gives replicas to acknowledge writes."""


class Cluster:
    """The cluster of a lab. `shards` has the name of each shard's first master, `tables` the key of its rows."""

    def __init__(
        self,
        nodes: Mapping[str, NodeHandle],
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
        self._replicas = replicas
        self.replicated = replicas > 0
        """Whether its masters have replicas."""

    async def identify(self) -> None:
        """Records the ID of each node, once all of them run."""
        for name, node in self._nodes.items():
            self._ids[(await (await node.admin()).execute_command("CLUSTER", "MYID")).decode()] = name

    @property
    def urls(self) -> dict[str, str]:
        """The URL of each node by its name: "1", "2", … are the shards' masters, "2 replica" copies 2."""
        return {name: f"redis://:{self._access.client}@127.0.0.1:{node.port}/0" for name, node in self._nodes.items()}

    @property
    def url(self) -> str:
        """One URL with all of them, for `RedisClusterShard`."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes.values())
        return f"redis+cluster://:{self._access.client}@{places}/0"

    def client(self, **options: Any) -> RedisCluster:
        """A `redis.asyncio.RedisCluster` that knows all nodes, for writes and look-ups: `async with …client() as rc:`.

        `options` are redis-py's. Defaults: half a second per node, one retry, the lab's password.
        """
        ours = {"password": self._access.client}
        return opened([("127.0.0.1", node.port) for node in self._nodes.values()], {**ours, **options})

    async def admin(self, name: str) -> Any:
        """As `Lab.admin`, to a node; `UsageError` for an unknown one."""
        return await self._node(name).connect()

    async def view(self, by: str | None = None) -> pd.DataFrame:
        """How node `by`, or the first that answers, sees all nodes: columns node, role, state, slots; one row per node.

        A node whose ID was not there at the start is "stranger". `UsageError` for an unknown `by`, `LabError` if it
        does not answer.
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
        """CONFIG SET on all nodes that answer; lost when a node restarts."""
        await self._all("CONFIG", "SET", name, value)

    async def until_failed(self, shard: ShardKey) -> None:
        """Returns when all nodes that answer agree that the shard's first master failed; `LabError` after 30 s."""
        name = self._of(shard)
        await self.until_seen(name, lambda line: "fail" in line.flags, f"node {name} counts as failed")

    async def until_moved(self, shard: ShardKey) -> str:
        """The name of the node that owns the shard's rows instead of its first master, once all nodes that answer agree
        on it; `LabError` after 30 s.
        """
        return await self.until_moved_from(self._of(shard))

    async def until_moved_from(self, name: str) -> str:
        """The same, by the first master's name."""
        owner = ""

        def moved(views: Mapping[str, Sequence[Listed]]) -> bool:
            nonlocal owner
            owner = self._agreed_owner(views, self._slots[name])
            return bool(owner) and owner != name

        await self._agreed(moved, f"another node than {name} owns its slots", but=name)
        return owner

    async def until_well(self) -> None:
        """Returns when all nodes see all others healthy, and take writes; `LabError` after 30 s.

        That is some seconds after `heal()`: a master that failed is cleared late, and one that has just started waits
        two seconds.
        """

        async def healthy() -> bool:
            views, infos = await self._views(), await self._all("CLUSTER", "INFO")
            seen_ok = all(line.state == "ok" for view in views.values() for line in view)
            writable = all(b"cluster_state:ok" in info for info in infos.values())
            return seen_ok and writable and len(views) == len(infos) == len(self._nodes)

        await self._wait_until(healthy, "all nodes are healthy, and take writes")

    async def until_seen(self, name: str, holds: Callable[[Listed], bool], what: str) -> None:
        """Returns when `holds` is true of node `name` in the views of all others that answer; `LabError` after 30 s."""

        def seen(views: Mapping[str, Sequence[Listed]]) -> bool:
            lines = [line for view in views.values() for line in view if self._name(line) == name]
            return bool(lines) and all(map(holds, lines))

        await self._agreed(seen, what, but=name)

    async def put_right(self, shard: ShardKey) -> None:
        """Makes the shard's first master the master again, if a replica took over, and that a replica."""
        if not self.replicated:
            return
        node = self._nodes[name := self._of(shard)]

        def agreed(views: Mapping[str, Sequence[Listed]]) -> bool:
            owners = {self._owner(view, self._slots[name]) for view in views.values()}
            lines = [line for view in views.values() for line in view if line.state == "ok"]
            return owners == {name} and all(line.slots or line.role == "replica" for line in lines)

        clock, requested = asyncio.get_running_loop().time, float("-inf")

        async def restored() -> bool:
            nonlocal requested
            admin = await node.admin()
            if agreed(await self._views()):  # and its replicas are up to date: else none could take over next time
                return bool(await admin.execute_command("WAIT", self._replicas, ACKNOWLEDGED) >= self._replicas)
            node.deposed = clock()
            state = await admin.info("replication")
            follows = state["role"] == "slave" and state.get("master_link_status") == "up"
            if follows and clock() > requested + FAILOVER:
                requested = clock()
                with contextlib.suppress(ResponseError):  # the last request has just made it the master
                    await admin.execute_command("CLUSTER", "FAILOVER")
            return False

        await self._wait_until(restored, f"node {name} is a master again")

    @asynccontextmanager
    async def writing(self, key: str) -> AsyncIterator[Any]:
        """The administrator's connection to the node that owns the key; then waits until its replicas have the writes.

        Waits until all nodes agree on the owner and the cluster takes writes: a master that has just started refuses
        them for two seconds. Not a `RedisCluster`, which cannot begin while the master of the lowest slots is silent.
        """
        slot, owner = key_slot(key), ""

        async def owned() -> bool:
            nonlocal owner
            views, infos = await self._views(), await self._all("CLUSTER", "INFO")
            owner = self._agreed_owner(views, slot)
            return owner in infos and all(b"cluster_state:ok" in info for info in infos.values())

        await self._wait_until(owned, f"the owner of {key} takes writes")
        admin = await self._nodes[owner].admin()
        yield admin

        async def copied() -> bool:
            # The administrator has one connection, so WAIT is about what was written on it.
            copies = (await admin.info("replication"))["connected_slaves"]
            return not copies or bool(await admin.execute_command("WAIT", copies, ACKNOWLEDGED) >= copies)

        await self._wait_until(copied, f"all replicas have what was written to {key}")

    def _node(self, name: str) -> NodeHandle:
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

    def _agreed_owner(self, views: Mapping[str, Sequence[Listed]], slot: int) -> str:
        """The owner of a slot in all views; "" if they differ."""
        owners = {self._owner(view, slot) for view in views.values()}
        return next(iter(owners)) if len(owners) == 1 else ""

    async def _agreed(self, holds: Callable[[Mapping[str, Sequence[Listed]]], bool], what: str, but: str) -> None:
        """Waits until it holds for the views of all nodes except `but`, of which one at least must answer."""

        async def agreed() -> bool:
            views = {name: view for name, view in (await self._views()).items() if name != but}
            return bool(views) and holds(views)

        await self._wait_until(agreed, what)

    async def _wait_until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        await wait_until(condition, f"a cluster in which {what}", SETTLE_TIMEOUT, CRON)

    async def _views(self) -> dict[str, list[Listed]]:
        """The views of all nodes that answer."""
        return {name: listed(answer.decode()) for name, answer in (await self._all("CLUSTER", "NODES")).items()}

    async def _all(self, *words: Any) -> dict[str, Any]:
        """The replies of the nodes that answer in time."""
        answers = await asyncio.gather(*(_reply(node, *words) for node in self._nodes.values()))
        return {name: answer for name, answer in zip(self._nodes, answers, strict=True) if answer is not None}


async def _reply(node: NodeHandle, *words: Any) -> Any:
    try:
        async with asyncio.timeout(VIEW_TIMEOUT), await node.connect() as admin:
            return await admin.execute_command(*words)
    except (RedisError, OSError):
        return None
