"""Sources of rows: one module a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit._lazy import load

if TYPE_CHECKING:
    from labkit.shards.base import Ask, Shard, ShardFailure
    from labkit.shards.circuit import CircuitBreaker
    from labkit.shards.memory import MemoryShard
    from labkit.shards.postgres import PostgresShard
    from labkit.shards.redis import RedisShard
    from labkit.shards.redis_cluster import RedisClusterShard

__all__ = [
    "Ask",
    "CircuitBreaker",
    "MemoryShard",
    "PostgresShard",
    "RedisClusterShard",
    "RedisShard",
    "Shard",
    "ShardFailure",
]

_HOME = {
    "Ask": "labkit.shards.base",
    "CircuitBreaker": "labkit.shards.circuit",
    "MemoryShard": "labkit.shards.memory",
    "PostgresShard": "labkit.shards.postgres",
    "RedisClusterShard": "labkit.shards.redis_cluster",
    "RedisShard": "labkit.shards.redis",
    "Shard": "labkit.shards.base",
    "ShardFailure": "labkit.shards.base",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)
