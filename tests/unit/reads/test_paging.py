"""Pages: keyset by ID across shards, each with its own gaps; nothing skipped, nothing repeated."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import RangeError, UsageError
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import CLASSIC, RangeRouter
from labkit.shards.memory import MemoryShard
from tests.support.lateness import MARGIN, starved
from tests.support.mocks import TIMEOUT, Answering, Stubborn, classic_reader, in_time, rows_of
from tests.support.scenes import in_window, owned_ids, owner_of, quick, small_routers, windows

pytestmark = pytest.mark.usefixtures("no_task_left")


def ids(result):
    return result.table.column("id").to_pylist()


def asked(result):
    """The shards that a page queried."""
    return [shard for shard, report in result.reports.items() if report.status is not Status.SKIPPED]


async def all_pages(reader, **kwargs):
    return [page async for page in reader.pages(**kwargs)]


async def test_pages_are_the_table_cut_in_pieces():
    """60 rows in pages of 25: two full pages and the rest; each says where the next begins."""
    pages = await all_pages(classic_reader(), size=25)
    assert [ids(page) for page in pages] == [list(range(1, 26)), list(range(26, 51)), list(range(51, 61))]
    assert [page.next for page in pages] == [25, 50, None]
    assert all(page.complete for page in pages)


async def test_a_page_of_all_rows_is_the_last():
    """A page that holds the router's last ID has no next page, even when it is full."""
    assert [page.next for page in await all_pages(classic_reader(), size=60)] == [None]
    assert [page.next for page in await all_pages(classic_reader(), size=30)] == [30, None]


async def test_a_page_asks_only_who_can_be_on_it():
    """The first ten rows are on shard 1, the next ten on shard 2; other shards are skipped."""
    reader = classic_reader()
    assert asked(await reader.page(10)) == [1]
    assert asked(await reader.page(10, after=10)) == [2]
    assert asked(await reader.page(20, after=10)) == [2, 3]


async def test_a_page_asks_for_no_more_rows_than_it_shows():
    """The limit is passed on to the shards."""
    reader = classic_reader()
    await reader.page(7, after=3)
    assert [(ask.low, ask.high, ask.limit) for ask in reader.shards[1].asks] == [(4, 10, 7)]


async def test_a_sparse_table_takes_few_questions():
    """While rows are scarce, each round requests twice as many ranges: 64 ranges take seven rounds, not 64."""
    router = RangeRouter({i % 2: [(k, k + 9) for k in range(i % 2 * 10, 640, 20)] for i in range(2)})
    shards = {0: MemoryShard([(600, "last but one")]), 1: MemoryShard([(639, "last")])}
    page = await ShardReader(router, shards, timeout=TIMEOUT).page(5)
    assert (ids(page), page.next, page.complete) == ([600, 639], None, True)
    assert max(len(shard.asks) for shard in shards.values()) <= 7
    assert page.reports[1].ranges == tuple((k, k + 9) for k in range(10, 640, 20))
    assert [report.rows for report in page.reports.values()] == [1, 1]


async def test_a_gap_ends_the_page():
    """What lies after a failed range is left to the next page: its shard may be back by then."""
    down = MemoryShard(error=ConnectionRefusedError("nobody there"))
    first, second, *_ = await all_pages(classic_reader(s2=down), size=15)
    assert (ids(first), first.missing, first.next) == (list(range(1, 11)), ((11, 20),), 20)
    assert (ids(second), second.missing, second.next) == (list(range(21, 36)), (), 35)
    assert first.reports[2].status is Status.UNREACHABLE


async def test_a_gap_behind_the_last_row_of_a_page_is_not_its_own():
    """A full page carries only the gaps up to its last row; the next page meets the failed shard again."""
    shards = {1: MemoryShard(rows_of(1)), 2: MemoryShard(error=OSError()), 3: MemoryShard(rows_of(3))}
    shards[1].rows = [(i, "") for i in range(1, 11)] + [(i, "") for i in range(31, 36)]
    page = await ShardReader(CLASSIC, shards, timeout=TIMEOUT).page(22)
    assert (page.missing, page.next) == (((11, 20),), 30)
    narrow = RangeRouter({1: [(1, 10)], 2: [(11, 20)]})
    page = await ShardReader(narrow, {1: MemoryShard(rows_of(1, narrow)[:9]), 2: shards[2]}, timeout=TIMEOUT).page(9)
    assert (ids(page), page.missing, page.next) == (list(range(1, 10)), (), 9)
    page = await ShardReader(narrow, {1: MemoryShard(rows_of(1, narrow)), 2: shards[2]}, timeout=TIMEOUT).page(20)
    assert (ids(page), page.missing, page.next) == (list(range(1, 11)), ((11, 20),), None)


async def test_a_full_page_cuts_off_a_gap_that_lies_behind_it():
    """A failed shard whose range begins after the last row of a full page is not a gap of that page."""
    router = RangeRouter({1: [(1, 10), (31, 40)], 2: [(11, 20)], 3: [(21, 30)]})
    shards = {
        1: MemoryShard(rows_of(1, router)),
        2: MemoryShard(rows_of(2, router)),
        3: MemoryShard(error=OSError()),
    }
    shards[2].rows = shards[2].rows[:5]
    page = await ShardReader(router, shards, timeout=TIMEOUT).page(15)
    assert (ids(page), page.missing, page.next, page.complete) == ([*range(1, 16)], (), 15, True)


async def test_a_shard_that_comes_back_fills_the_pages_that_follow():
    """A shard that fails between two pages and recovers leaves exact gaps; no row is skipped or repeated."""
    reader = classic_reader()
    seen, missing = [], []
    async for page in reader.pages(size=10):
        seen += ids(page)
        missing += page.missing
        reader.shards[2].error = OSError() if page.next == 10 else None
    assert missing == [(11, 20)]
    assert seen == [i for i in range(1, 61) if not 11 <= i <= 20]


async def test_a_frozen_shard_delays_only_pages_that_touch_it():
    """The page of shard 1 returns at once, that of shard 2 at the deadline."""
    reader = classic_reader(s2=MemoryShard(delay=60))
    assert (await in_time(reader.page(10), within=TIMEOUT / 3)).complete
    page = await in_time(reader.page(10, after=10))
    assert (page.missing, page.reports[2].status, page.next) == (((11, 20),), Status.TIMEOUT, 20)


async def test_a_page_is_back_within_its_deadline():
    """One deadline covers all rounds of a page."""
    slow = [MemoryShard(delay=TIMEOUT * 0.4) for _ in range(3)]
    reader = classic_reader(s1=slow[0], s2=slow[1], s3=Stubborn())
    page = await in_time(reader.page(10), within=TIMEOUT)
    assert page.elapsed <= TIMEOUT + MARGIN + starved()
    reader.shards[3].released.set()


async def test_a_page_does_not_ask_again_when_time_is_short():
    """With half of the timeout gone, a short page is better than a gap that the reader itself causes."""
    reader = classic_reader(s1=MemoryShard(delay=TIMEOUT * 0.7))
    page = await in_time(reader.page(10))
    assert (ids(page), page.complete, page.next) == ([], True, 10)
    assert reader.shards[2].asks == []


async def test_a_shard_that_ignores_the_limit_does_no_harm():
    """Surplus rows are left to the following pages."""
    reader = classic_reader(s1=Answering(rows_of(1)[:10]))
    page = await reader.page(4)
    assert (ids(page), page.next, page.reports[1].rows) == ([1, 2, 3, 4], 4, 4)


async def test_a_lying_shard_is_a_gap_of_its_page():
    """Answers of pages are checked like all others, and no row of an invalid one is used."""
    page = await classic_reader(s1=Answering([(2, "b"), (1, "a")])).page(10)
    assert (ids(page), page.missing, page.reports[1].status) == ([], ((1, 10),), Status.INVALID)


async def test_rows_where_no_range_is_are_found_out():
    """A page's queries leave no ID out, even between ranges: an unowned row makes its shard invalid."""
    router = RangeRouter({1: [(1, 10)], 2: [(21, 30)]})
    reader = ShardReader(router, {1: MemoryShard([(1, "a"), (15, "whose")]), 2: MemoryShard()}, timeout=TIMEOUT)
    assert (await reader.page(1)).complete  # ends before the unowned row
    assert (await reader.page(5)).reports[1].status is Status.INVALID


async def test_an_empty_table_is_one_empty_page():
    """There is always a first page, which reports on the shards, and never an empty page after the last row."""
    router = RangeRouter({1: [(1, 10)]})
    [page] = await all_pages(ShardReader(router, {1: MemoryShard()}, timeout=TIMEOUT), size=5)
    assert (ids(page), page.complete, page.next) == ([], True, None)
    pages = await all_pages(ShardReader(router, {1: MemoryShard([(1, "a"), (2, "b")])}, timeout=TIMEOUT), size=2)
    assert [ids(page) for page in pages] == [[1, 2]]


@pytest.mark.parametrize("after", [60, 1000, INT64_MAX])
async def test_nothing_follows_the_last_row(after):
    """After the last ID, and at the end of int64, no shard is queried: the page is empty and complete."""
    page = await classic_reader().page(10, after=after)
    assert (ids(page), page.complete, page.next, asked(page)) == ([], True, None, [])


async def test_a_page_stays_in_its_window():
    """`low` and `high` bound the pages; `after` continues within them."""
    reader = classic_reader()
    assert [ids(p) for p in await all_pages(reader, size=4, low=8, high=13)] == [[8, 9, 10, 11], [12, 13]]
    assert ids(await reader.page(4, after=2, low=8, high=13)) == [8, 9, 10, 11]
    assert ids(await reader.page(4, after=13, low=8, high=13)) == []
    assert ids(await reader.page(4, after=40, low=8, high=13)) == []


async def test_a_size_may_be_any_integer():
    """A size may be a numpy integer, as bounds may."""
    assert ids(await classic_reader().page(np.int64(3))) == [1, 2, 3]


@pytest.mark.parametrize("size", [0, -1, 1.5, "10", True, None])
async def test_a_bad_size_is_one_clear_error(size):
    """The error names the value; `pages` raises it when called, not at the first page."""
    reader = classic_reader()
    with pytest.raises(UsageError, match=f"the size of a page must be a positive integer, not {size!r}"):
        await reader.page(size)
    with pytest.raises(UsageError, match="the size of a page"):
        reader.pages(size=size)


async def test_a_bad_cursor_or_window_is_one_clear_error():
    """Pages check cursor and window as a read does."""
    reader = classic_reader()
    with pytest.raises(RangeError, match="after must be an integer, not 'x'"):
        reader.pages(after="x")
    with pytest.raises(RangeError, match="low must not be above high: got low=9, high=3"):
        reader.pages(low=9, high=3)
    with pytest.raises(RangeError, match="low must not be above high"):
        await reader.page(5, low=9, high=3)


async def test_a_consumer_may_leave():
    """Breaking out of the loop leaves nothing waiting."""
    async for page in classic_reader().pages(size=10):
        assert ids(page)
        break


@quick
@given(st.data())
def test_pages_lose_nothing_and_repeat_nothing(data):
    """For any router, rows, window, size, and shards that fail and recover between pages: every page has exactly the
    rows between its cursors that are not in its gaps, gaps are ranges of failed shards between the cursors, and a short
    page has a gap or is the last.
    """
    router = data.draw(small_routers())
    low, high = data.draw(windows(router))
    size = data.draw(st.integers(1, 12))
    held = [row_id for row_id in owned_ids(router) if data.draw(st.booleans(), label=f"has {row_id}")]
    rows = {shard: [(i, "") for i in held if owner_of(router, i) == shard] for shard in router.shards}
    shards = {shard: MemoryShard(rows[shard]) for shard in router.shards}
    reader = ShardReader(router, shards, timeout=5)

    async def walk():
        at = INT64_MIN - 1 if low is None else low - 1
        after = None
        for _ in itertools.count():
            down = data.draw(st.sets(st.sampled_from(router.shards)), label="down")
            for shard, source in shards.items():
                source.error = OSError() if shard in down else None
            page = await reader.page(size, after, low, high)
            upto = (INT64_MAX if high is None else high) if page.next is None else page.next
            assert at < upto or page.next is None
            gaps = [i for i in owned_ids(router) if any(a <= i <= b for a, b in page.missing)]
            between = [i for i in held if at < i <= upto and in_window(low, high, i)]
            assert ids(page) == [i for i in between if i not in gaps]
            assert all(at < a <= b <= upto and in_window(low, high, a) for a, b in page.missing)
            assert {owner_of(router, i) for i in gaps} <= down
            assert len(ids(page)) <= size
            if page.next is not None:
                assert len(ids(page)) == size or page.missing
            assert sum(report.rows for report in page.reports.values()) == len(ids(page))
            if page.next is None:
                return
            at = after = page.next

    asyncio.run(walk())
