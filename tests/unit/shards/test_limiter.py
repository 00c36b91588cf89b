"""`Limiter`: a bounded number at a time, first come, first served, under the read's deadline."""

from __future__ import annotations

import asyncio

import pytest

from labkit.errors import UsageError
from labkit.shards.limiter import Limiter
from labkit.shards.postgres import PostgresShard
from labkit.shards.redis import RedisShard
from tests.support.mocks import TIMEOUT, turn_until

pytestmark = pytest.mark.usefixtures("no_task_left")


def soon():
    return asyncio.get_running_loop().time() + TIMEOUT


async def test_who_came_first_goes_first():
    """No more than the limit are inside at once, in order of arrival; a newcomer cannot jump the queue."""
    places = Limiter(2)
    leave = [asyncio.Event() for _ in range(5)]
    inside = []

    async def visit(number):
        async with places.one(soon() + 60):
            inside.append(number)
            await leave[number].wait()

    visits = [asyncio.create_task(visit(number)) for number in range(4)]
    await turn_until(lambda: len(inside) > 2)
    assert inside == [0, 1]
    leave[1].set()
    visits.append(asyncio.create_task(visit(4)))  # arrives at the moment a place becomes free
    await turn_until(lambda: len(inside) > 3)
    assert inside == [0, 1, 2]
    for event in leave:
        event.set()
    await asyncio.gather(*visits)
    assert inside == [0, 1, 2, 3, 4]


async def test_waiting_ends_at_the_deadline():
    """Waiting raises `TimeoutError` at the deadline, and no place is lost."""
    places = Limiter(1)
    async with places.one(soon()):
        with pytest.raises(TimeoutError):
            async with places.one(soon()):
                raise AssertionError("all places were taken")
    async with places.one(soon()):
        pass


async def test_a_visitor_that_fails_gives_its_place_back():
    """A place is released when its holder fails; a waiter that is cancelled takes none."""
    places = Limiter(1)
    with pytest.raises(ZeroDivisionError):
        async with places.one(soon()):
            raise ZeroDivisionError

    async def wait():
        async with places.one(soon() + 60):
            raise AssertionError("it was cancelled")

    async with places.one(soon()):
        waiting = asyncio.create_task(wait())
        await turn_until(lambda: False, turns=5)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with places.one(soon()):
        pass


def test_places_belong_to_the_event_loop_that_reads():
    """A limiter works on a new event loop, even if the old one had waiters."""
    places = Limiter(1)

    async def crowd():
        async def visit():
            async with places.one(soon() + 60):
                await asyncio.sleep(0)

        await asyncio.gather(*(visit() for _ in range(3)))

    asyncio.run(crowd())
    asyncio.run(crowd())


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", True])
def test_a_bad_count_is_one_clear_error(count):
    """A wrong limit is a `UsageError`; through the shards too, which call it pool_size."""
    for make in (
        Limiter,
        lambda n: RedisShard("redis://127.0.0.1:1/0", "k", pool_size=n),
        lambda n: PostgresShard("postgresql://u@127.0.0.1:1/d", "t", pool_size=n),
    ):
        with pytest.raises(UsageError, match=f"pool_size must be a positive integer, not {count!r}"):
            make(count)
