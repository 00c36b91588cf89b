"""Readers that are wrong on purpose. `test_stateful.py` runs these tests, and each must fail; pytest does not collect
this file on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from labkit import ReadResult, ShardReader, Status
from labkit.scatter import Scatter, ShardOutcome
from labkit.shards.base import Ask, Shard
from tests.support.machine import bench_for, run_machine


class ForgetsAGap(ShardReader):
    """Omits the first gap of every result."""

    async def read(self, low: int | None = None, high: int | None = None) -> ReadResult:
        result = await super().read(low, high)
        return replace(result, missing=result.missing[1:])


class Halves(Scatter):
    """For a shard that was cut off, returns half of the shard's last rows as if they were all."""

    def __init__(self, shards: Mapping[Any, Shard]) -> None:
        super().__init__(shards)
        self.seen: dict[Any, Any] = {}

    async def _ask(self, shard: Any, ask: Ask, origin: float) -> ShardOutcome:
        outcome = await super()._ask(shard, ask, origin)
        if outcome.report.status is not Status.DISCONNECTED:
            self.seen[shard] = outcome.table
            return outcome
        half = self.seen.get(shard)
        if half is None:
            return outcome
        rows = half.num_rows // 2
        return ShardOutcome(replace(outcome.report, status=Status.OK, rows=rows, error=None), half.slice(0, rows))


class KeepsHalfAnAnswer(ShardReader):
    """Keeps the rows that arrived before a shard was cut off."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._scatter = Halves(self.shards)


@pytest.mark.parametrize("reader", [ForgetsAGap, KeepsHalfAnAnswer])
@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_is_found_out(request: pytest.FixtureRequest, backend: str, reader: type[ShardReader]) -> None:
    """The machine detects the wrong reader, so this test fails."""
    with bench_for(backend, request.node.nodeid, reader) as bench:
        run_machine(bench)
