"""Redis Cluster, seen from the client of a lab's nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from labkit._types import ShardKey
from labkit.errors import LabError
from labkit.faults.base import Row, wait_until
from labkit.faults.drift import Drift
from labkit.lab.access import redis_users
from labkit.lab.backends.base import Place
from labkit.lab.backends.redis import RedisBackend
from labkit.lab.cluster.cluster import Cluster
from labkit.lab.cluster.forming import form
from labkit.lab.cluster.members import Extra, even_slots, extras, masters_of, tagged
from labkit.shards.redis.cluster.shard import RedisClusterShard
from labkit.shards.redis.cluster.slots import key_slot

__all__ = ["RedisClusterBackend"]

COPYING = 10_000
"""Milliseconds that replicas get to copy the loaded rows."""


class RedisClusterBackend(RedisBackend):
    """One sorted set per shard, each on a separate master. `masters` is their number; None is one per shard."""

    name = "redis-cluster"

    def __init__(self, masters: int | None = None, replicas: int = 0) -> None:
        super().__init__()
        self._masters, self._replicas = masters, replicas
        self._tables: dict[Any, str] = {}
        self._slots: list[range] = []
        self.cluster: Cluster | None = None

    @property
    def credentials(self) -> str:
        return redis_users(self.access, copied=self._replicas > 0)

    def tables(self, shards: Sequence[ShardKey], name: str | None = None) -> dict[Any, str]:
        self._slots = even_slots(masters_of(shards, self._masters))
        self._tables = {shard: tagged(shard, slots, name) for shard, slots in zip(shards, self._slots, strict=False)}
        return dict(self._tables)

    def members(self, shards: Sequence[ShardKey]) -> list[Any]:
        return [*shards, *extras(shards, masters_of(shards, self._masters), self._replicas)]

    async def join(self, servers: Mapping[Any, Any]) -> None:
        for key, node in servers.items():
            node.name = str(key)
        masters = [node for key, node in servers.items() if not _copies(key)]
        replicas = [(node, servers[key.replicates]) for key, node in servers.items() if _copies(key)]
        await form(list(zip(masters, self._slots, strict=True)), replicas)
        nodes = {node.name: node for node in servers.values()}
        shards = {shard: str(shard) for shard in self._tables}
        self.cluster = Cluster(nodes, shards, self._tables, self.access, replicas=self._replicas)
        await self.cluster.identify()
        for node in nodes.values():
            node.cluster = self.cluster
        for shard, table in self._tables.items():
            await _check_slot(servers[shard], table)

    async def load(self, place: Place, table: str, rows: Sequence[Row]) -> None:
        connected: Any = await self.connect(place)
        async with connected as client:
            await _writable(client)
            await self._fill(client, table, rows)
            # A replica that took over before it had them would serve an empty shard as if that were complete.
            copied = await client.execute_command("WAIT", self._replicas, COPYING)
        if copied < self._replicas:
            raise LabError(f"not all replicas copied the rows of {table} within {COPYING / 1000:.0f} s")

    async def stand_in(self, connection: Any, table: str, rows: list[Row]) -> None:
        await _writable(connection)
        await super().stand_in(connection, table, rows)

    async def drift(self, connection: Any, table: str, drift: Drift) -> None:
        await _writable(connection)
        await super().drift(connection, table, drift)

    async def bring_back(self, connection: Any, table: str) -> None:
        await _writable(connection)
        await super().bring_back(connection, table)

    def source_url(self, url: str) -> str:
        assert self.cluster is not None
        return self.cluster.url

    def source(self, url: str, table: str) -> RedisClusterShard:
        return RedisClusterShard(url, table, schema=self._declared, only_these=True)


def _copies(key: Any) -> bool:
    return isinstance(key, Extra) and key.replicates is not None


async def _check_slot(node: Any, table: str) -> None:
    """Has the server confirm that the key is in the slot, and that it owns the slot."""
    admin = await node.admin()
    slot = await admin.execute_command("CLUSTER", "KEYSLOT", table)
    if slot != key_slot(table):
        raise LabError(f"the server puts key {table!r} into slot {slot}, not {key_slot(table)}")
    await admin.exists(table)  # MOVED, unless the node owns the slot


async def _writable(connection: Any) -> None:
    """Returns when the node takes writes: a node that has just started refuses them for two seconds."""
    await wait_until(partial(_takes_writes, connection), "a cluster that takes writes")


async def _takes_writes(connection: Any) -> bool:
    return b"cluster_state:ok" in await connection.execute_command("CLUSTER", "INFO")
