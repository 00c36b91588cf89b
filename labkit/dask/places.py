"""What a call may name its shards by: a file, a topology, a lab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from labkit.errors import UsageError
from labkit.router import RangeRouter
from labkit.topology import ShardPlace, Topology, load

__all__ = ["Located", "Places", "topology_of"]


@runtime_checkable
class Located(Protocol):
    """What says by itself where its shards are: a `labkit.Lab` does."""

    router: RangeRouter
    timeout: float
    tables: dict[Any, str]

    @property
    def source_urls(self) -> Mapping[Any, str]:
        """The URL of each shard, as a topology file has them; none of a lab that does not run."""


Places: TypeAlias = "str | os.PathLike[str] | Topology | Located"


def topology_of(places: object) -> Topology:
    """The topology that is meant. `TopologyError` for a file that is not right, `UsageError` for a lab that does not
    run, and for what is none of the three.
    """
    if isinstance(places, Topology):
        return places
    if isinstance(places, str | os.PathLike):
        return load(places)
    if not isinstance(places, Located):
        kind = type(places).__name__  # not its repr: it may hold a password
        raise UsageError(f"topology must be a file's path, a Topology or a running Lab, not a value of type {kind}")
    urls = places.source_urls
    if not urls:
        raise UsageError("this lab is not running: await lab.start() first")
    found = {shard: ShardPlace(url, places.tables[shard]) for shard, url in urls.items()}
    return Topology(places.timeout, places.router, found)
