"""The nodes of a cluster, and the hash tags that put each shard's rows on its master."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from labkit._types import ShardKey
from labkit.errors import UsageError
from labkit.shards.redis.cluster.slots import SLOTS, key_slot

__all__ = ["FEWEST", "MOST", "Extra", "even_slots", "extras", "masters_of", "tagged"]

FEWEST = 3
"""Masters that a Redis Cluster needs, so that a majority remains when one fails."""


@dataclass(frozen=True)
class Extra:
    """A node besides the shards' masters; `replicates` is the shard or extra master that it copies."""

    name: str
    replicates: Any = None

    def __str__(self) -> str:
        return self.name


def masters_of(shards: Sequence[Any], masters: int | None) -> int:
    """The number of masters; `UsageError` for too few."""
    if masters is None:
        return max(FEWEST, len(shards))
    if isinstance(masters, bool) or not isinstance(masters, int) or masters < max(FEWEST, len(shards)):
        raise UsageError(
            f"masters must be an integer, at least {FEWEST} and one per shard ({len(shards)} here), not {masters!r}"
        )
    return masters


def extras(shards: Sequence[ShardKey], masters: int, replicas: int) -> list[Extra]:
    """Masters beyond those of the shards, "4", "5", …; then replicas, "2 replica", "2 replica 2", …

    `UsageError` for an invalid number of replicas.
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


MOST = 10_000
"""Tags to try: with 1,000 masters each tag fits with a chance of 1 in 1,000."""


def even_slots(masters: int) -> list[range]:
    """The slots of each master, as even as possible, in the order of the masters."""
    bounds = [SLOTS * i // masters for i in range(masters + 1)]
    return [range(bounds[i], bounds[i + 1]) for i in range(masters)]


def tagged(shard: ShardKey, slots: range, name: str | None = None) -> str:
    """The key of a shard's rows, with the first of the tags {1}, {1a}, {1b}, … (for shard 1) that is in these slots:
    `data_1:{1}`, or `orders:{1}` if `name` is "orders".

    Raises `UsageError` for a shard whose name has braces, or for such a `name`, which would override the tag.
    """
    if name is not None and set(name) & set("{}"):
        raise UsageError(f"table {name!r} cannot have a hash tag: leave braces out of its name")
    for tag in islice(_tags(str(shard)), MOST):
        key = f"{name or f'data_{shard}'}:{{{tag}}}"
        if key_slot(key) in slots:
            return key
    raise UsageError(f"shard {shard!r} cannot have a hash tag: leave braces out of its name")


def _tags(name: str) -> Iterator[str]:
    yield name
    for number in count():
        yield name + _letters(number)


def _letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters
