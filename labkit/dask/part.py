"""One partition: a range of one shard, and everything a worker needs to read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from labkit._types import ShardKey
from labkit.dask.table import Wanted, run
from labkit.errors import UsageError
from labkit.merge import disagreement
from labkit.report import ShardReport, Status
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

    wanted: Wanted = field(repr=False)

    def read(self) -> ReadResult:
        """Connects, reads the range, and closes everything; never raises for the shard's failure. All results have the
        columns of `wanted`: a shard with others is invalid, as in a read of all shards.
        """
        return run(self._read)

    async def _read(self) -> ReadResult:
        router, clock = RangeRouter({self.shard: [(self.low, self.high)]}), asyncio.get_running_loop().time
        started, wanted = clock(), self.wanted
        async with Topology(self.timeout, router, {self.shard: self.place}).reader() as reader:
            try:
                result = await reader.read(self.low, self.high, columns=wanted.columns, filters=wanted.filters)
            except UsageError as error:  # only this shard was asked, and it has no such column
                return self._invalid(str(error), clock() - started)
        if not result.complete:
            return replace(result, table=wanted.schema.empty_table())
        if why := disagreement(result.table.schema, wanted.schema):
            return self._invalid(why, result.elapsed)
        return replace(result, table=result.table.select(wanted.schema.names))

    def _invalid(self, why: str, elapsed: float) -> ReadResult:
        ranges = ((self.low, self.high),)
        report = ShardReport(self.shard, Status.INVALID, 0, 0.0, elapsed, why, ranges)
        return ReadResult(self.wanted.schema.empty_table(), {self.shard: report}, ranges, elapsed, self.timeout)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What Dask derives task names from: they contain no URL, and differ between calls."""
        return "labkit.dask.Part", self.call, self.low


def parts_of(topology: Topology, low: int, high: int, timeout: float, wanted: Wanted) -> Iterator[Part]:
    """The parts for [low, high], ascending; none if no shard owns an ID in it."""
    call = uuid4().hex
    for start, end, shard in topology.router.within(low, high):
        yield Part(start, end, shard, topology.shards[shard], timeout, call, wanted)
