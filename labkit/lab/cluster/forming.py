"""Joins servers to one cluster. Source: Redis Cluster specification, CLUSTER commands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.faults.base import wait_until
from labkit.lab.cluster.node import NodeHandle
from labkit.shards.redis.cluster.slots import Listed, listed

__all__ = ["form"]


async def form(masters: Sequence[tuple[NodeHandle, range]], replicas: Sequence[tuple[NodeHandle, NodeHandle]]) -> None:
    """Assigns each master its slots, each (replica, master) its master, and returns when all nodes agree.

    `LabError` if they do not in time.
    """
    nodes = [node for node, _ in masters] + [node for node, _ in replicas]
    admins = {node: await node.admin() for node in nodes}
    for epoch, (node, slots) in enumerate(masters, start=1):
        await admins[node].execute_command("CLUSTER", "ADDSLOTS", *slots)
        await admins[node].execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
    for node in nodes[1:]:
        host = await _own_host(admins[node])
        await admins[nodes[0]].execute_command("CLUSTER", "MEET", host, node.listens_at, node.bus_port)
    await wait_until(lambda: _all_know(admins, len(nodes)), f"a cluster of {len(nodes)} nodes")
    for node, master in replicas:
        master_id = (await admins[master].execute_command("CLUSTER", "MYID")).decode()
        await admins[node].execute_command("CLUSTER", "REPLICATE", master_id)
    await wait_until(lambda: _all_settled(admins, len(masters), len(replicas)), "a cluster whose nodes agree")


async def _own_host(admin: Any) -> str:
    """The address at which other nodes reach it: the one at which we do."""
    # As two words: redis-py would parse the answer to "CLIENT INFO".
    fields = dict(word.split("=", 1) for word in _text(await admin.execute_command("CLIENT", "INFO")).split())
    return fields["laddr"].rpartition(":")[0]


async def _all_know(admins: Mapping[NodeHandle, Any], count: int) -> bool:
    views = await asyncio.gather(*(_view(admin) for admin in admins.values()))
    return all(len(view) == count and all(node.state == "ok" for node in view) for view in views)


async def _all_settled(admins: Mapping[NodeHandle, Any], masters: int, replicas: int) -> bool:
    """Whether every node takes writes or replicates, and sees all others do so."""
    views = await asyncio.gather(*(_view(admin) for admin in admins.values()))
    for view in views:
        owners = [node for node in view if node.role == "master" and node.slots]
        copies = [node for node in view if node.role == "replica" and node.master]
        if len(owners) != masters or len(copies) != replicas or any(node.state != "ok" for node in view):
            return False
    return all(await asyncio.gather(*(_ready(admin) for admin in admins.values())))


async def _ready(admin: Any) -> bool:
    if "cluster_state:ok" not in _text(await admin.execute_command("CLUSTER", "INFO")):
        return False
    return bool((await admin.info("replication")).get("master_link_status", "up") == "up")


async def _view(admin: Any) -> list[Listed]:
    return listed(_text(await admin.execute_command("CLUSTER", "NODES")))


def _text(answer: bytes) -> str:
    return answer.decode()
