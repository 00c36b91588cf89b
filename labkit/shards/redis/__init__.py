"""Shards of a Redis server or a Redis Cluster. redis-py is loaded when a name is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit._imports import load

if TYPE_CHECKING:
    from labkit.shards.redis.cluster.shard import RedisClusterShard
    from labkit.shards.redis.layouts.rows import member
    from labkit.shards.redis.layouts.writing import members
    from labkit.shards.redis.shard import RedisShard

__all__ = ["RedisClusterShard", "RedisShard", "member", "members"]

_HOME = {
    "RedisClusterShard": "labkit.shards.redis.cluster.shard",
    "RedisShard": "labkit.shards.redis.shard",
    "member": "labkit.shards.redis.layouts.rows",
    "members": "labkit.shards.redis.layouts.writing",
}

if not TYPE_CHECKING:  # otherwise every misspelt name would be one

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOME, name)
