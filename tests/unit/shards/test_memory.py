"""`MemoryShard`, the public test double: it returns the given rows, with the given delay or error."""

from __future__ import annotations

import asyncio
import math

import pytest

from labkit.shards import Ask, MemoryShard, Shard
from tests.support.mocks import TIMEOUT, in_time

pytestmark = pytest.mark.usefixtures("no_task_left")


def ask(low=None, high=None, timeout=TIMEOUT):
    return Ask(((1, 10),), low, high, asyncio.get_running_loop().time() + timeout)


async def test_rows_come_as_they_were_given():
    """Unsorted, repeated and foreign rows are returned unchanged: detecting them is the reader's job."""
    rows = [(5, "a"), (1, "b"), (5, "a"), (99, None), (None, "x"), ("1", "y"), (2,), ()]
    assert await MemoryShard(rows).read(ask()) == rows


@pytest.mark.parametrize(
    ("low", "high", "left"),
    [(2, 3, [3, 2]), (None, 2, [1, 2]), (3, None, [3, 4]), (5, 9, []), (None, None, [1, 3, 2, 4])],
)
async def test_only_rows_of_the_window_are_returned(low, high, left):
    """Both bounds are inclusive, None is an open end, and the order is kept."""
    rows = [(i, f"Test {i}") for i in (1, 3, 2, 4)]
    assert [row[0] for row in await MemoryShard(rows).read(ask(low, high))] == left


@pytest.mark.parametrize("row", [(None, "x"), ("1", "y"), (), 7])
async def test_a_row_without_an_integer_id_is_outside_any_bound(row):
    """As on a server, a bounded window does not match a row without an integer ID."""
    assert await MemoryShard([row]).read(ask(low=0)) == []
    assert await MemoryShard([row]).read(ask()) == [row]


async def test_the_deadline_ends_an_endless_delay():
    """An infinite delay ends with a `TimeoutError` at the deadline."""
    with pytest.raises(TimeoutError):
        await in_time(MemoryShard(delay=math.inf).read(ask()))


async def test_the_error_is_raised_as_it_is():
    """The given exception itself is raised, not a copy."""
    error = ConnectionRefusedError("refused")
    with pytest.raises(ConnectionRefusedError) as caught:
        await MemoryShard(error=error).read(ask())
    assert caught.value is error


async def test_behaviour_may_change_between_reads():
    """Rows, delay and error are plain attributes: a test can break and heal the shard."""
    shard = MemoryShard()
    assert await shard.read(ask()) == []
    shard.rows, shard.error = [(1, "a")], OSError("down")
    with pytest.raises(OSError, match="down"):
        await shard.read(ask())
    shard.error = None
    assert await shard.read(ask()) == [(1, "a")]


async def test_asks_are_remembered_in_order():
    """`asks` records every query in order, including those that failed."""
    shard = MemoryShard(error=OSError("down"))
    first, second = ask(1, 2), ask(3, 4)
    for one in (first, second):
        with pytest.raises(OSError, match="down"):
            await shard.read(one)
    assert shard.asks == [first, second]


async def test_it_is_a_shard_that_can_be_prepared_and_closed():
    """It implements the whole shard interface and can be read after closing."""
    shard = MemoryShard(iter([(1, "a")]))
    assert isinstance(shard, Shard)
    shard.prepare(1.0)
    await shard.aclose()
    assert await shard.read(ask()) == [(1, "a")]
