"""One partition: a range of one shard, and all that a worker needs to read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from labkit._types import ShardKey
from labkit.errors import UsageError
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.topology import ShardPlace, Topology

__all__ = ["Part", "parts_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """A range of one shard. It knows of no other shard, nor of the router: it travels with every task."""

    low: int
    high: int
    shard: ShardKey
    place: ShardPlace = field(repr=False)
    """With the shard's URL; Dask puts the `repr` of a task into its log."""
    timeout: float
    """Seconds that the read of this range may take."""
    call: str = field(repr=False)
    """The call of `labkit.dask.read` that this is of."""

    def read(self) -> ReadResult:
        """Dials the shard, reads the range, and closes everything; never raises for the shard's failure."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._read())
        # A notebook's cell has a loop that runs, and Dask's synchronous scheduler reads right there.
        with ThreadPoolExecutor(1) as aside:
            return aside.submit(lambda: asyncio.run(self._read())).result()

    async def _read(self) -> ReadResult:
        router = RangeRouter({self.shard: [(self.low, self.high)]})
        async with Topology(self.timeout, router, {self.shard: self.place}).reader() as reader:
            return await reader.read(self.low, self.high)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What Dask makes the names of tasks from: no URL is in them, and another call has other names."""
        return "labkit.dask.Part", self.call, self.low


def parts_of(topology: Topology, low: int, high: int, timeout: float) -> Iterator[Part]:
    """The ranges that lie in [low, high], ascending; none where no shard owns an ID in it.

    Raises `UsageError` for a shard that has ranges and no place.
    """
    call = uuid4().hex
    for start, end, shard in topology.router.within(low, high):
        if shard not in topology.shards:
            raise UsageError(f"shard {shard!r} has ranges but no place: put one into the topology's `shards`")
        yield Part(start, end, shard, topology.shards[shard], timeout, call)
