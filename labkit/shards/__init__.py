"""Sources of rows: one module per kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit._imports import load

if TYPE_CHECKING:
    from labkit.shards.base import Ask, Shard, ShardFailure
    from labkit.shards.circuit import CircuitBreaker
    from labkit.shards.memory import MemoryShard
    from labkit.shards.postgres.shard import PostgresShard
    from labkit.shards.redis.cluster.shard import RedisClusterShard
    from labkit.shards.redis.shard import RedisShard

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
    "PostgresShard": "labkit.shards.postgres.shard",
    "RedisClusterShard": "labkit.shards.redis.cluster.shard",
    "RedisShard": "labkit.shards.redis.shard",
    "Shard": "labkit.shards.base",
    "ShardFailure": "labkit.shards.base",
}

if not TYPE_CHECKING:  # otherwise every misspelt name would be one

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOME, name)
