"""Properties that hold for any router, any rows, any window and any failures."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import check
from labkit.merge import join
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.shards.memory import MemoryShard
from labkit.tables import InvalidAnswer

WIDTH = 60
"""IDs that a small router spans at the most, so that brute force can walk them."""
quick = settings(derandomize=True, database=None, deadline=None, max_examples=150)
NAMES = st.none() | st.text(max_size=3)


@st.composite
def small_routers(draw: st.DrawFn) -> RangeRouter:
    """1 to 6 shards with up to 8 ranges (touching or apart), anywhere in int64, both ends included."""
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
    """1 to 6 shards whose ranges may hold any number of IDs."""
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
    """The first and last ID that is worth looking at: two more than the router owns on either side."""
    return max(router.spans[0][0] - 2, INT64_MIN), min(router.spans[-1][1] + 2, INT64_MAX)


@st.composite
def windows(draw: st.DrawFn, router: RangeRouter) -> tuple[int | None, int | None]:
    """A window that may be open at either end, and may lie beside the ranges."""
    bound = st.none() | st.integers(*around(router))
    low, high = draw(bound), draw(bound)
    return (high, low) if low is not None and high is not None and low > high else (low, high)


def in_window(low: int | None, high: int | None, row_id: int) -> bool:
    return (low is None or low <= row_id) and (high is None or row_id <= high)


def owner_of(router: RangeRouter, row_id: int) -> Any:
    """Brute force: every range is looked at."""
    return next((shard for low, high, shard in router.spans if low <= row_id <= high), None)


def owned_ids(router: RangeRouter) -> list[int]:
    return [row_id for low, high, _ in router.spans for row_id in range(low, high + 1)]


def unrolled(ranges: Any) -> set[int]:
    return {row_id for low, high in ranges for row_id in range(low, high + 1)}


@dataclass
class Scene:
    """A router, the rows of its shards, a window, and which shards fail how."""

    router: RangeRouter
    rows: dict[Any, list[tuple[int, str | None]]]
    window: tuple[int | None, int | None]
    broken: dict[Any, Any]

    def read(self, timeout: float = 5.0) -> ReadResult:
        """The result, with every failing shard in place; asserts that no task is left."""
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
    """What a result may say, whatever happened: answered and missing make up asked, rows are of those that answered."""
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
    """Ascending ranges with those that touch made one."""
    return join({"all": tuple(ranges)}, ["all"])


@quick
@given(scenes(small_routers(), an_error()))
def test_small_reads_are_exact(scene):
    """ID by ID: answered ∪ missing = asked, without overlap, and the rows are those of the shards that answered."""
    result = scene.read()
    assert_exact(scene, result)
    asked = {row_id for row_id in owned_ids(scene.router) if in_window(*scene.window, row_id)}
    failed = {row_id for row_id in asked if scene.router.locate(row_id) in scene.broken}
    assert unrolled(result.missing) == failed


@quick
@given(scenes(huge_routers(), an_error()))
def test_huge_reads_are_exact(scene):
    """The same by range arithmetic, where no set could hold the IDs."""
    assert_exact(scene, scene.read())


@settings(quick, max_examples=15)
@given(scenes(small_routers(), st.builds(MemoryShard, delay=st.just(math.inf))))
def test_reads_with_hanging_shards_are_exact(scene):
    """A shard that never answers is missing exactly, and leaves no task behind."""
    result = scene.read(timeout=0.05)
    assert_exact(scene, result)
    asked = scene.router.prune(*scene.window)
    assert {s for s, r in result.reports.items() if r.status is Status.TIMEOUT} == set(scene.broken) & set(asked)


def duplicated(rows, at, _router, _shard):
    return [*rows[: at + 1], rows[at], *rows[at + 1 :]]


def swapped(rows, at, _router, _shard):
    assume(len(rows) > 1)
    at = at % (len(rows) - 1)
    return [*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]]


def foreign(rows, at, router, shard):
    """An ID that is not the shard's takes the place of the row, in ascending order."""
    low, high = around(router)
    others = [row_id for row_id in range(low, high + 1) if owner_of(router, row_id) != shard]
    assume(others)
    return sorted([*rows[:at], (others[at % len(others)], "foreign"), *rows[at + 1 :]], key=lambda row: row[0])


def nulled(rows, at, _router, _shard):
    return [*rows[:at], (None, rows[at][1]), *rows[at + 1 :]]


def mistyped(rows, at, _router, _shard):
    return [*rows[:at], (rows[at][0], b"bytes"), *rows[at + 1 :]]


@quick
@given(
    scenes(small_routers(), an_error()),
    st.sampled_from([duplicated, swapped, foreign, nulled, mistyped]),
    st.data(),
)
def test_a_mutated_answer_makes_exactly_that_shard_invalid(scene, mutate, data):
    """One row duplicated, swapped, foreign, without ID or of the wrong type: that shard is INVALID, no other."""
    holders = [shard for shard in scene.router.shards if scene.rows[shard]]
    assume(holders)
    liar = data.draw(st.sampled_from(holders))
    at = data.draw(st.integers(0, len(scene.rows[liar]) - 1))
    scene.window = (None, None)
    scene.broken[liar] = MemoryShard(mutate(scene.rows[liar], at, scene.router, liar))
    result = scene.read()
    assert_exact(scene, result)
    assert {s for s, r in result.reports.items() if r.status is Status.INVALID} == {liar}


@quick
@given(st.data(), small_routers())
def test_check_takes_exactly_the_answers_that_keep_the_contract(data, router):
    """`check` agrees with the contract spelt out: strictly ascending IDs, each inside a range asked of the shard."""
    shard = data.draw(st.sampled_from(router.shards))
    ranges = router.prune()[shard]
    ids = data.draw(st.lists(st.integers(*around(router)), max_size=4))
    kept = ids == sorted(set(ids)) and all(owner_of(router, row_id) == shard for row_id in ids)
    try:
        table = check([(row_id, "x") for row_id in ids], ranges)
    except InvalidAnswer:
        assert not kept
    else:
        assert kept
        assert table.column("id").to_pylist() == ids


@quick
@given(small_routers())
def test_locate_agrees_with_brute_force(router):
    """For every ID in and around the ranges; `len` and `divisions` agree as well."""
    low, high = around(router)
    for row_id in range(low, high + 1):
        assert router.locate(row_id) == owner_of(router, row_id)
    assert len(router) == len(owned_ids(router))
    assert router.divisions == (*(span[0] for span in router.spans), router.spans[-1][1])


@quick
@given(st.data(), small_routers() | huge_routers())
def test_locate_many_agrees_with_locate(data, router):
    """For any IDs at once, in any order, in and outside the ranges."""
    edges = [edge for low, high, _ in router.spans for edge in (low, high)]
    ids = data.draw(st.lists(st.sampled_from(edges) | st.integers(*around(router)) | st.integers(INT64_MIN, INT64_MAX)))
    positions = router.locate_many(ids).tolist()
    assert [router.shards[p] if p >= 0 else None for p in positions] == [router.locate(row_id) for row_id in ids]


@quick
@given(st.data(), small_routers())
def test_prune_agrees_with_brute_force(data, router):
    """Each shard's part of the window holds exactly the IDs that it owns there; no empty shard is named."""
    low, high = data.draw(windows(router))
    owners: dict[Any, set[int]] = {}
    for row_id in owned_ids(router):
        if in_window(low, high, row_id):
            owners.setdefault(owner_of(router, row_id), set()).add(row_id)
    plan = router.prune(low, high)
    assert {shard: unrolled(ranges) for shard, ranges in plan.items()} == owners
    assert all(list(ranges) == sorted(ranges) for ranges in plan.values())
    assert list(plan) == [shard for shard in router.shards if shard in plan]


@quick
@given(st.data(), small_routers())
def test_join_holds_the_same_ids_in_the_fewest_ranges(data, router):
    """Joined ranges are ascending, do not touch, and hold each ID of the shards once."""
    shards = data.draw(st.sets(st.sampled_from(router.shards)))
    plan = router.prune()
    joined = join(plan, shards)
    assert unrolled(joined) == {row_id for shard in shards for row_id in unrolled(plan[shard])}
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(joined))


@quick
@given(small_routers() | huge_routers())
def test_a_router_is_equal_to_its_repr(router):
    """`repr` makes an equal router with an equal hash."""
    again = eval(repr(router), {"RangeRouter": RangeRouter})
    assert again == router
    assert hash(again) == hash(router)
