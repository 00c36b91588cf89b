"""One partition: a range of one shard, and everything a worker needs to read it."""

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
    """A range of one shard. It is sent with every task, so it holds no other shard and no router."""

    low: int
    high: int
    shard: ShardKey
    place: ShardPlace = field(repr=False)
    """Has the shard's URL, so no `repr` shows it: Dask logs the `repr` of tasks."""
    timeout: float
    """Seconds that the read of this range may take."""
    call: str = field(repr=False)
    """Identifies the call of `labkit.dask.read` that made this."""

    def read(self) -> ReadResult:
        """Connects, reads the range, and closes everything; never raises for the shard's failure."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._read())
        # Dask's synchronous scheduler runs this in the caller's thread, and a notebook cell has a running loop.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self._read())).result()

    async def _read(self) -> ReadResult:
        router = RangeRouter({self.shard: [(self.low, self.high)]})
        async with Topology(self.timeout, router, {self.shard: self.place}).reader() as reader:
            return await reader.read(self.low, self.high)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What Dask derives task names from: they contain no URL, and differ between calls."""
        return "labkit.dask.Part", self.call, self.low


def parts_of(topology: Topology, low: int, high: int, timeout: float) -> Iterator[Part]:
    """The parts for [low, high], ascending; none if no shard owns an ID in it.

    Raises `UsageError` for a shard that has ranges but no place.
    """
    call = uuid4().hex
    for start, end, shard in topology.router.within(low, high):
        if shard not in topology.shards:
            raise UsageError(f"shard {shard!r} has ranges but no place: put one into the topology's `shards`")
        yield Part(start, end, shard, topology.shards[shard], timeout, call)
