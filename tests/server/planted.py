"""Readers that are wrong on purpose. `test_stateful.py` runs these tests, and each must fail: pytest alone passes over
this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from labkit import ReadResult, ShardReader, Status
from tests.server.machine import bench_for, run_machine


class ForgetsAGap(ShardReader):
    """The first one."""

    async def read(self, low: int | None = None, high: int | None = None) -> ReadResult:
        result = await super().read(low, high)
        return replace(result, missing=result.missing[1:])


class KeepsHalfAnAnswer(ShardReader):
    """Of a shard that was cut off: as if it had read rows until then, and took them for all."""

    async def _ask(self, shard: Any, ask: Any, origin: float) -> Any:
        report, table = await super()._ask(shard, ask, origin)
        if report.status is not Status.DISCONNECTED:
            self.__dict__.setdefault("seen", {})[shard] = table
            return report, table
        half = self.__dict__.get("seen", {}).get(shard)
        if half is None:
            return report, table
        rows = half.num_rows // 2
        return replace(report, status=Status.OK, rows=rows, error=None), half.slice(0, rows)


@pytest.mark.parametrize("reader", [ForgetsAGap, KeepsHalfAnAnswer])
@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_is_found_out(request: pytest.FixtureRequest, backend: str, reader: type[ShardReader]) -> None:
    """Fails."""
    with bench_for(backend, request.node.nodeid, reader) as bench:
        run_machine(bench)
