"""Which nodes a cluster has: a master a shard, masters without a shard, replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit._types import ShardKey
from labkit.errors import UsageError

__all__ = ["FEWEST", "Extra", "extras", "masters_of"]

FEWEST = 3
"""Masters that a Redis Cluster needs, so that a majority is left when one fails."""


@dataclass(frozen=True)
class Extra:
    """A node beside the masters of the shards; `replicates` is the shard or extra master that it copies."""

    name: str
    replicates: Any = None

    def __str__(self) -> str:
        return self.name


def masters_of(shards: Sequence[Any], masters: int | None) -> int:
    """How many masters there are; `UsageError` for too few."""
    if masters is None:
        return max(FEWEST, len(shards))
    if isinstance(masters, bool) or not isinstance(masters, int) or masters < max(FEWEST, len(shards)):
        raise UsageError(
            f"masters must be an integer, {FEWEST} or more and one a shard ({len(shards)} here), not {masters!r}"
        )
    return masters


def extras(shards: Sequence[ShardKey], masters: int, replicas: int) -> list[Extra]:
    """Masters beyond those of the shards, "4", "5", …; then replicas, "2 replica", "2 replica 2", …

    `UsageError` for a number of replicas that is none.
    """
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:
        raise UsageError(f"replicas must be an integer, 0 or more for each master, not {replicas!r}")
    spare = [Extra(_free(str(number), shards)) for number in range(len(shards) + 1, masters + 1)]
    copies = [
        Extra(f"{master} replica{f' {number}' if number > 1 else ''}", replicates=master)
        for master in (*shards, *spare)
        for number in range(1, replicas + 1)
    ]
    return [*spare, *copies]


def _free(name: str, shards: Sequence[ShardKey]) -> str:
    return name if name not in map(str, shards) else f"master {name}"
