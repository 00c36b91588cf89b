"""A lab's own reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from labkit.lab.events import Recorder
from labkit.reader import ShardReader
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.shards.base import Shard

__all__ = ["LabReader"]


class LabReader(ShardReader):
    """Has its reads and pages recorded: their timelines show the faults too."""

    def __init__(
        self, router: RangeRouter, shards: Mapping[Any, Shard], timeout: float, recorder: Callable[[], Recorder]
    ) -> None:
        super().__init__(router, shards, timeout)
        self._recorder = recorder

    async def read(
        self,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> ReadResult:
        """See `ShardReader.read`."""
        started = monotonic()
        result = await super().read(low, high, columns=columns, filters=filters)
        return self._recorder().read(result, started)

    async def page(
        self,
        size: int,
        after: int | None = None,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> ReadResult:
        """See `ShardReader.page`."""
        started = monotonic()
        result = await super().page(size, after, low, high, columns=columns, filters=filters)
        return self._recorder().read(result, started)
