"""Routers, rows and shards drawn by Hypothesis, and what a read of them must return."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.merge import join
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.shards.memory import MemoryShard

WIDTH = 60
"""The most IDs that a small router spans, so that brute force can walk them."""
quick = settings(derandomize=True, database=None, deadline=None, max_examples=150)
NAMES = st.none() | st.text(max_size=3)


@st.composite
def small_routers(draw: st.DrawFn) -> RangeRouter:
    """1 to 6 shards with up to 8 ranges, adjacent or apart, anywhere in int64 including its ends."""
    at = draw(st.sampled_from([INT64_MIN, -(2**53) - 20, -30, 0, 2**53 - 20, INT64_MAX - WIDTH]))
    spans = []
    for _ in range(draw(st.integers(1, 8))):
        low = at + draw(st.integers(0, 2))
        high = low + draw(st.integers(0, 4))
        spans.append((low, high))
        at = high + 1
    return _dealt(draw, spans)


@st.composite
def huge_routers(draw: st.DrawFn) -> RangeRouter:
    """1 to 6 shards with ranges of any size."""
    ids = st.integers(INT64_MIN, INT64_MAX)
    points = sorted(draw(st.lists(ids, min_size=2, max_size=16, unique=True)))
    return _dealt(draw, list(zip(points[::2], points[1::2], strict=False)))


def _dealt(draw: st.DrawFn, spans: list[tuple[int, int]]) -> RangeRouter:
    owners = draw(st.lists(st.integers(0, 5), min_size=len(spans), max_size=len(spans)))
    ranges: dict[int, list[tuple[int, int]]] = {}
    for owner, span in draw(st.permutations(list(zip(owners, spans, strict=True)))):
        ranges.setdefault(owner, []).append(span)
    return RangeRouter(ranges)


def around(router: RangeRouter) -> tuple[int, int]:
    """The first and last ID worth trying: two beyond the router's on either side."""
    return max(router.spans[0][0] - 2, INT64_MIN), min(router.spans[-1][1] + 2, INT64_MAX)


@st.composite
def windows(draw: st.DrawFn, router: RangeRouter) -> tuple[int | None, int | None]:
    """A window that may be open at either end and may lie outside all ranges."""
    bound = st.none() | st.integers(*around(router))
    low, high = draw(bound), draw(bound)
    return (high, low) if low is not None and high is not None and low > high else (low, high)


def in_window(low: int | None, high: int | None, row_id: int) -> bool:
    return (low is None or low <= row_id) and (high is None or row_id <= high)


def owner_of(router: RangeRouter, row_id: int) -> Any:
    """Brute force over every range."""
    return next((shard for low, high, shard in router.spans if low <= row_id <= high), None)


def owned_ids(router: RangeRouter) -> list[int]:
    return [row_id for low, high, _ in router.spans for row_id in range(low, high + 1)]


def unrolled(ranges: Any) -> set[int]:
    return {row_id for low, high in ranges for row_id in range(low, high + 1)}


@dataclass
class Scene:
    """A router, the rows of its shards, a window, and how each broken shard fails."""

    router: RangeRouter
    rows: dict[Any, list[tuple[int, str | None]]]
    window: tuple[int | None, int | None]
    broken: dict[Any, Any]

    def read(self, timeout: float = 5.0) -> ReadResult:
        """The result with the broken shards in place; asserts that no task is left."""
        return asyncio.run(self._read(ShardReader(self.router, self._sources(), timeout=timeout)))

    def _sources(self) -> dict[Any, Any]:
        return {shard: self.broken.get(shard, MemoryShard(self.rows[shard])) for shard in self.router.shards}

    async def _read(self, reader: ShardReader) -> ReadResult:
        result = await reader.read(*self.window)
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result


ERRORS = st.sampled_from([ConnectionRefusedError, ConnectionResetError, TimeoutError, EOFError, OSError, RuntimeError])


@st.composite
def scenes(draw: st.DrawFn, routers: st.SearchStrategy[RangeRouter], failures: st.SearchStrategy[Any]) -> Scene:
    router = draw(routers)
    rows: dict[Any, list[tuple[int, str | None]]] = {shard: [] for shard in router.shards}
    for low, high, shard in router.spans:
        ids = draw(st.sets(st.integers(low, high) | st.sampled_from([low, high]), max_size=6))
        rows[shard] += [(row_id, draw(NAMES)) for row_id in sorted(ids)]
    broken = {shard: draw(failures) for shard in draw(st.sets(st.sampled_from(router.shards)))}
    return Scene(router, rows, draw(windows(router)), broken)


def an_error() -> st.SearchStrategy[MemoryShard]:
    return ERRORS.map(lambda kind: MemoryShard(error=kind("broken")))


def assert_exact(scene: Scene, result: ReadResult) -> None:
    """What holds for every result: answered and missing make up the request, and rows are those of answering shards."""
    plan = scene.router.prune(*scene.window)
    answered = [shard for shard in plan if result.reports[shard].status is Status.OK]
    assert set(answered) == set(plan) - set(scene.broken)
    assert {shard: report.ranges for shard, report in result.reports.items() if report.ranges} == plan
    asked = sorted(pair for ranges in plan.values() for pair in ranges)
    told = sorted([*result.missing, *(pair for shard in answered for pair in plan[shard])])
    assert flattened(told) == flattened(asked)
    assert sum(high - low + 1 for low, high in told) == sum(high - low + 1 for low, high in asked)
    assert all(low <= high for low, high in result.missing)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(result.missing))
    rows = [(row["id"], row["name"]) for row in result.table.to_pylist()]
    assert rows == sorted(
        (row for shard in answered for row in scene.rows[shard] if in_window(*scene.window, row[0])),
        key=lambda row: row[0],
    )
    assert result.complete == (not result.missing)
    assert sum(report.rows for report in result.reports.values()) == len(rows)


def flattened(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ascending ranges, with adjacent ones merged."""
    return join({"all": tuple(ranges)}, ["all"])
