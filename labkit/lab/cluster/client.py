"""A `RedisCluster` client that gives up in time, and leaves nothing open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode

__all__ = ["RedisCluster", "opened"]

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
