"""A lab's own reader."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
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

    @wraps(ShardReader.read)
    async def read(self, *args: Any, **named: Any) -> ReadResult:  # type: ignore[override] # it has that signature
        return await self._recorded(super().read(*args, **named))

    @wraps(ShardReader.page)
    async def page(self, *args: Any, **named: Any) -> ReadResult:  # type: ignore[override]
        return await self._recorded(super().page(*args, **named))

    async def _recorded(self, reading: Coroutine[Any, Any, ReadResult]) -> ReadResult:
        started = monotonic()
        return self._recorder().read(await reading, started)
