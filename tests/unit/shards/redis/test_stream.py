"""What arrives from a Redis server is kept until it is worth reading."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from labkit.shards.redis.stream import Arrivals
from tests.support.mocks import in_time

MOST = 10


def arrivals(transport: Mock | None = None) -> Arrivals:
    """A stream that reads nothing until a piece ends with a full stop."""
    stream = Arrivals(MOST)
    stream.set_transport(transport or Mock())
    stream.can_wait = lambda size, last: size < MOST and not last.endswith(b".")
    return stream


async def test_its_reader_is_woken_only_when_it_is_worth_it() -> None:
    """Pieces that end nothing wake nobody; then all are read at once, as they came."""
    stream = arrivals()
    reading = asyncio.create_task(stream.arrived())
    for piece in (b"a", b"b"):
        await asyncio.sleep(0)
        stream.feed_data(piece)
    await asyncio.sleep(0)
    assert not reading.done()
    assert stream.has_data
    stream.feed_data(b"c.")
    assert await in_time(reading) == [b"a", b"b", b"c."]
    assert not stream.has_data


async def test_receiving_pauses_while_nobody_reads() -> None:
    """The memory for unread bytes is bounded: receiving pauses once, and goes on when they are read."""
    transport = Mock()
    stream = arrivals(transport)
    stream.feed_data(b"x" * (MOST - 1))
    transport.pause_reading.assert_not_called()
    stream.feed_data(b"x")
    stream.feed_data(b"x")
    transport.pause_reading.assert_called_once_with()
    transport.resume_reading.assert_not_called()
    assert sum(map(len, await in_time(stream.arrived()))) == MOST + 1
    transport.resume_reading.assert_called_once_with()


async def test_the_end_comes_after_what_arrived() -> None:
    """At the end the rest is read even if it completes nothing; then the connection is closed."""
    stream = arrivals()
    reading = asyncio.create_task(stream.arrived())
    await asyncio.sleep(0)
    stream.feed_data(b"a")
    stream.feed_eof()
    assert await in_time(reading) == [b"a"]
    with pytest.raises(RedisConnectionError, match="closed by server"):
        await in_time(stream.arrived())


async def test_why_a_connection_was_lost_is_raised() -> None:
    """A waiting reader gets the system's error, and so does every later one."""
    stream = arrivals()
    reading = asyncio.create_task(stream.arrived())
    await asyncio.sleep(0)
    stream.set_exception(ConnectionResetError("reset"))
    for task in (reading, stream.arrived()):
        with pytest.raises(ConnectionResetError, match="reset"):
            await in_time(task)


async def test_a_cancelled_reader_loses_nothing() -> None:
    """After a cancellation the next reader gets all bytes."""
    stream = arrivals()
    reading = asyncio.create_task(stream.arrived())
    await asyncio.sleep(0)
    stream.feed_data(b"a")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stream.feed_data(b".")
    assert await in_time(stream.arrived()) == [b"a", b"."]
