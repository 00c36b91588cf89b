"""Very many ranges: reads stay on time, the event loop keeps turning, and output does not grow with them."""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from contextlib import asynccontextmanager

import pyarrow as pa
import pytest

from labkit import router as routing
from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import check, slices
from labkit.delta import difference
from labkit.errors import IncompleteRead
from labkit.merge import BLOCK, GAPS, SLICES, concatenated, join, join_parts, merge, merge_parts
from labkit.reader import ShardReader
from labkit.router import RangeRouter
from labkit.tables import SCHEMA, InvalidAnswer
from tests.support.lateness import MARGIN, kept, mark

pytestmark = pytest.mark.slow

RANGES, WIDTH, TIMEOUT = 100_000, 10, 1.0
STOOD = 0.05
"""Longest the event loop may be blocked at a stretch, in seconds of processor time."""


class Table:
    """A shard that answers with a table at once, or hangs."""

    def __init__(self, ids, hung=False):
        self.ids, self.hung = list(ids), hung
        self.rows = table(self.ids)

    def prepare(self, timeout):
        """Nothing to prepare."""

    async def read(self, ask):
        """The rows in the window."""
        if self.hung:
            await asyncio.sleep(3600)
        first = 0 if ask.low is None else bisect_left(self.ids, ask.low)
        stop = len(self.ids) if ask.high is None else bisect_right(self.ids, ask.high)
        return self.rows.slice(first, stop - first)[: ask.limit]

    async def aclose(self):
        """Nothing to close."""


def table(ids):
    return pa.table([pa.array(ids, pa.int64()), pa.array(map(str, ids), pa.large_string())], schema=SCHEMA)


def alternating(count=RANGES, shards=2):
    return RangeRouter({s: [(i * WIDTH, i * WIDTH + 4) for i in range(s, count, shards)] for s in range(shards)})


@pytest.fixture(scope="module")
def router():
    return alternating()


def reader_of(router, hung=(), seconds=TIMEOUT):
    """A reader with one row in every range."""
    shards = {s: Table((low for low, _ in router.prune()[s]), s in hung) for s in router.shards}
    return ShardReader(router, shards, timeout=seconds)


@asynccontextmanager
async def in_time(seconds=TIMEOUT):
    """Fails if the body takes longer or blocks the event loop; time taken by other processes does not count."""
    stood = 0.0

    async def beat():
        nonlocal stood
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            stood = max(stood, time.thread_time() - began)

    gc.collect()
    gc.freeze()  # a collection then skips what earlier tests have left
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    stood, began, before = 0.0, time.monotonic(), mark()
    yield
    took = time.monotonic() - began - kept(before)
    await asyncio.sleep(0.002)
    beating.cancel()
    assert took < seconds + MARGIN
    assert stood < STOOD


@pytest.mark.parametrize("window", [(None, None), (3, None), (None, WIDTH * RANGES - 13), (57, WIDTH * 90_000 + 2)])
async def test_a_read_is_in_time(router, window):
    """A read of all ranges, or nearly all, is on time, both when every shard answers and when one hangs."""
    low, high = window
    right = [i for i in range(0, WIDTH * RANGES, WIDTH) if (low or 0) <= i <= (high or INT64_MAX)]
    reader = reader_of(router)
    async with in_time():
        result = await reader.read(low, high)
    assert result.complete
    assert result.table.column("id").to_pylist() == right
    assert result.table.column("name").to_pylist() == list(map(str, right))
    reader = reader_of(router, hung=[1], seconds=0.3)
    async with in_time(0.3):
        result = await reader.read(low, high)
    assert result.table.num_rows == sum(1 for i in right if i // WIDTH % 2 == 0)
    assert result.missing == router.prune(low, high)[1]


@pytest.mark.parametrize("size", [1_000, 65_536, 10_000_000])
async def test_a_page_is_in_time(router, size):
    """Pages are on time at any size, and also when the only row is in the last range."""
    reader = reader_of(router)
    async with in_time():
        page = await reader.page(size)
    assert page.table.num_rows == min(size, RANGES)
    sparse = ShardReader(router, {0: Table([(RANGES - 2) * WIDTH]), 1: Table([])}, timeout=TIMEOUT)
    async with in_time():
        page = await sparse.page(size)
    assert page.table.column("id").to_pylist() == [(RANGES - 2) * WIDTH]
    assert page.next is None


async def test_a_page_beside_a_hung_shard_is_in_time(router):
    """The page ends on time and holds its gaps."""
    reader = reader_of(router, hung=[0], seconds=0.3)
    async with in_time(0.3):
        page = await reader.page(10_000_000)
    assert len(page.missing) == RANGES / 2
    assert page.table.num_rows == RANGES / 2


@pytest.mark.parametrize("batch", [1_000, 65_536])
async def test_a_stream_delivers_its_rows(router, batch):
    """Every row arrives on time, and the reports account for all rows and ranges."""
    reader = reader_of(router)
    rows = 0
    async with in_time(10):
        stream = reader.stream(batch=batch)
        async for one in stream:
            rows += one.num_rows
    assert rows == RANGES
    assert stream.complete
    assert sum(report.rows for report in stream.reports.values()) == RANGES
    assert set(router.prune()[0]) <= set(stream.reports[0].ranges)


async def test_a_stream_beside_a_hung_shard_has_exact_gaps(router):
    """Gaps are found page by page; those that touch are joined."""
    stream = reader_of(router, hung=[1], seconds=0.3).stream(batch=10_000)
    rows = [row async for batch in stream for row in batch.column(0).to_pylist()]
    assert rows == list(range(0, WIDTH * RANGES, 2 * WIDTH))
    assert stream.missing == router.prune()[1]


async def test_a_watch_and_a_row_are_in_time(router):
    """A watch over all ranges and a single `get` are on time."""
    reader = reader_of(router)
    watching = reader.watch()
    async with in_time():
        assert (await anext(watching)).table.num_rows == RANGES
    await watching.aclose()
    async with in_time():
        assert await reader.get(WIDTH * 500) == {"id": WIDTH * 500, "name": str(WIDTH * 500)}
    await reader.aclose()


async def test_what_is_shown_does_not_grow_with_the_ranges(router):
    """Texts, messages and `repr`s stay short; the exact gaps are in the data."""
    result = await reader_of(router, hung=[1], seconds=0.2).read()
    with pytest.raises(IncompleteRead, match=r"10-14, 30-34, .*, 49,980 more \(shard 1 is timeout") as caught:
        result.raise_for_missing()
    for text in (str(result), repr(result), str(caught.value), repr(result.reports[1]), repr(router)):
        assert len(text) < 10_000
    assert "… 49,900 more)" in repr(result.reports[1])
    assert len(result._repr_html_()) < 500_000
    assert len(result.to_dict()["missing"]) == RANGES / 2


def test_a_plan_that_is_cut_out_is_the_one_that_is_built(monkeypatch):
    """Cut plans equal built ones for windows that begin and end anywhere: in a range, between two, outside all."""
    router = RangeRouter({"a": [(1, 10), (31, 40), (61, 61)], "b": [(11, 20), (41, 50)], "c": [(25, 30)]})
    edges = [INT64_MIN, 0, 1, 5, 10, 11, 22, 25, 28, 30, 45, 51, 60, 61, 62, INT64_MAX]
    windows = [(low, high) for low in edges for high in edges if low <= high]
    built = [router.prune(*window) for window in windows]
    monkeypatch.setattr(routing, "MANY", 0)
    cut = [RangeRouter(router.prune()).prune(*window) for window in windows]
    assert cut == built
    assert [list(plan) for plan in cut] == [list(plan) for plan in built]
    for plan in cut:
        for ranges in plan.values():
            assert routing.to_bounds(ranges).tolist() == [list(pair) for pair in ranges]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 10**30])
@pytest.mark.parametrize("low", [INT64_MIN, 0, 1, 2, 4, 11, 12, 2**62 + 1])
def test_the_fewest_ranges_that_have_so_many_ids(low, size):
    """`fewest` agrees with counting one by one, also for ranges with more IDs than 64 bits can hold."""
    router = RangeRouter({1: [(0, 1), (10, 12)], 2: [(4, 4), (100, INT64_MAX)]})
    ids = count = 0
    for first, last, _ in router.within(low, INT64_MAX):
        ids, count = ids + last - first + 1, count + 1
        if ids >= size:
            break
    assert router.fewest(low, INT64_MAX, size) == max(count, 1)
    assert RangeRouter({1: [(INT64_MIN, INT64_MAX)]}).fewest(low, INT64_MAX, size) == 1


def test_many_slices_are_merged_in_order():
    """Merging in blocks keeps order over three shards, for ranges with no rows, one row, and more rows than a block."""
    sizes = [(0, 1, 3, BLOCK + 5 if i == 703 else 2)[i % 4] for i in range(2 * SLICES + 9)]
    ranges, rows, at = {0: [], 1: [], 2: []}, {0: [], 1: [], 2: []}, 0
    for number, size in enumerate(sizes):
        shard = number * 7 % 3
        ranges[shard].append((at, at + size + 1))
        rows[shard] += range(at, at + size)
        at += size + 2
    plan = RangeRouter(ranges).prune()
    answers = {shard: table(ids) for shard, ids in rows.items()}
    answers[1] = pa.concat_tables([answers[1][:50], answers[1][50:]])
    assert sum(part.num_rows > 0 for part in merge_parts(plan, answers)) == 3
    got = merge(plan, answers)
    assert got.column("id").to_pylist() == sorted(i for ids in rows.values() for i in ids)
    assert got.column("name").to_pylist() == [str(i) for i in got.column("id").to_pylist()]


async def test_others_have_a_turn_between_looks_at_many_ranges(router, monkeypatch):
    """Answers are checked and merged in parts that each cover some of the ranges, never all in one turn of the loop."""
    looks, turns = [], 0

    def look(ids, bounds):
        looks.append((turns, len(bounds)))
        return slices(ids, bounds)

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    for module in ("answer", "merge"):
        monkeypatch.setattr(f"labkit.{module}.slices", look)
    reader = reader_of(router)
    counting = asyncio.create_task(count())
    result = await reader.read()
    counting.cancel()
    assert len(looks) == 8
    assert sum(ranges for _, ranges in looks) == 2 * RANGES
    assert max(ranges for _, ranges in looks) < RANGES / 3
    assert max(Counter(turn for turn, _ in looks).values()) < 4
    assert result.table.num_rows == RANGES
    assert max(map(len, result.table.column(0).chunks)) < RANGES / 3


def test_gaps_of_several_shards_are_made_in_parts(router):
    """Parts are small enough not to block the loop; a single shard's gaps are returned as they are."""
    plan = router.prune()
    parts = list(join_parts(plan, plan))
    assert max(map(len, parts)) <= GAPS
    assert concatenated(parts) == join(plan, plan) == tuple(span[:2] for span in router.spans)
    assert join(plan, [1]) is plan[1]


def test_the_array_of_a_plan_that_is_cut_out_is_known(router):
    """The array of bounds is cut along with the plan: rebuilding it from 100,000 ranges takes 10 ms."""
    plan = router.prune(3, WIDTH * RANGES - 13)
    assert all("bounds" in vars(ranges) for ranges in plan.values())


def test_a_foreign_row_among_many_is_found_at_once(router):
    """A foreign row among 100,000 ranges is found in under a second: ranges are not searched one by one."""
    ranges = router.prune()[0]
    ids = sorted([low for low, _ in ranges] + [ranges[-1][0] - 7])
    began = time.thread_time()
    with pytest.raises(InvalidAnswer, match=f"id {ranges[-1][0] - 7} is outside"):
        check(table(ids), ranges)
    assert time.thread_time() - began < 1


def test_a_delta_of_many_rows_is_soon_known():
    """A delta of a million sorted rows takes under a second."""
    before, after = table(range(0, 1_000_000, 2)), table(range(0, 1_500_000, 3))
    began = time.thread_time()
    delta = difference(before, after, ((600_000, 600_010),))
    assert time.thread_time() - began < 1
    assert delta.lost == (600_002, 600_004, 600_008, 600_010)
    assert delta.added.num_rows == 500_000 - 166_667
    assert len(delta.removed) + 4 == 500_000 - 166_667


def test_a_router_of_many_ranges_can_be_sent(router):
    """A router of many ranges, and a plan cut from it, survive pickling."""
    assert pickle.loads(pickle.dumps(router)) == router
    assert pickle.loads(pickle.dumps(router.prune(3, None))) == router.prune(3, None)
