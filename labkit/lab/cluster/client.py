"""A `RedisCluster` client that gives up in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio import RedisCluster

    Client = RedisCluster
else:
    Client = Any

__all__ = ["Client", "opened"]

SECONDS = 0.5
"""For connecting to a node, and for each answer of one."""


def opened(addresses: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> Client:
    """A client that knows these nodes; it connects when it is used. `retry` of a cluster is only how often."""
    from redis.asyncio import RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode

    ours = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "retry": Retry(NoBackoff(), 1), "protocol": 2}
    make: Any = ClusterNode
    nodes = [make(host, port) for host, port in addresses]
    return RedisCluster(startup_nodes=nodes, **{**ours, **options})
