"""Redis shards on several event loops, in threads and in forked processes, each with its own connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest

from labkit import Lab, ShardReader, Status
from labkit.shards import RedisClusterShard, RedisShard
from labkit.shards.base import Ask

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")

IDS = list(range(1, 61))


@pytest.fixture(scope="module", params=["redis", "redis-cluster"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab started in an event loop that is closed, as are those of the tests."""
    made = Lab(request.param, launcher="embedded")
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


def a_reader(lab: Lab) -> ShardReader:
    kind: Any = RedisShard if lab.backend == "redis" else RedisClusterShard
    return ShardReader(lab.router, {s: kind(lab.urls[s], lab.tables[s]) for s in lab.router.shards}, timeout=2.0)


def sockets() -> set[tuple[int, Any]]:
    return {(one.fd, one.laddr) for one in psutil.Process().net_connections("all")}


def ids(result: Any) -> list[int]:
    assert result.complete, result.reports
    return list(result.frame["id"])


def test_one_event_loop_after_the_other(lab: Lab) -> None:
    """Each of several loops in turn reads all rows, and its connections are closed with it."""
    reader, before = a_reader(lab), sockets()
    for _ in range(3):
        assert ids(asyncio.run(reader.read())) == IDS
        assert sockets() == before
    asyncio.run(reader.aclose())


def test_event_loops_in_threads(lab: Lab) -> None:
    """Loops in six threads, concurrently and in turn, read all rows and leave no socket."""
    reader, before = a_reader(lab), sockets()
    with ThreadPoolExecutor(6) as pool:
        for result in pool.map(lambda _: asyncio.run(reader.read()), range(60)):
            assert ids(result) == IDS
    assert sockets() == before


async def test_a_child_has_connections_of_its_own(lab: Lab) -> None:
    """Parent and child both read right rows after a fork while the parent was listening and connected."""
    reader = a_reader(lab)
    watch = reader.watch(31, 40, interval=60)
    assert ids(await anext(watch)) == list(range(31, 41))
    for _ in range(10):
        assert ids(await reader.read(31, 40)) == list(range(31, 41))
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                rows = asyncio.run(reader.read(32, 35))
                code = 0 if ids(rows) == list(range(32, 36)) else 1
            os._exit(code)
        for _ in range(10):
            assert ids(await reader.read(31, 40)) == list(range(31, 41))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    await watch.aclose()
    await reader.aclose()


async def test_watches_that_are_left_leave_nothing(lab: Lab) -> None:
    """Watches closed at any moment, even while they start, leave no task, socket or subscription."""
    reader = a_reader(lab)
    assert ids(await reader.read()) == IDS
    tasks, before = asyncio.all_tasks(), len(sockets())
    for turn in range(60):
        watch = reader.watch(low=-turn)
        with suppress(TimeoutError):
            await asyncio.wait_for(anext(watch), turn % 20 * 0.0007)
        await watch.aclose()
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - tasks or len(sockets()) > before + 3:  # a pool may hold one more per shard
            await asyncio.sleep(0.01)
    await reader.aclose()
    for shard in lab.router.shards:
        connection = await lab._shards[shard].connect()
        try:
            assert not await _subscribers(connection, lab.tables[shard])
        finally:
            lab._shards[shard]._backend.hang_up(connection)


async def _subscribers(connection: Any, table: str) -> int:
    async with asyncio.timeout(5):
        while True:
            _, count = await connection.execute_command("PUBSUB", "NUMSUB", f"__keyspace@0__:{table}")
            if not count:
                return 0
            await asyncio.sleep(0.01)


async def test_aclose_during_reads_leaves_no_connection(lab: Lab) -> None:
    """aclose() while connections are being made or used ends the reads and leaves no socket."""
    before = sockets()
    for turns in range(12):
        reader = a_reader(lab)
        reads = [asyncio.create_task(reader.read()) for _ in range(10)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await reader.aclose()
        for result in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(result, Exception) or {report.status for report in result.reports.values()} <= {
                Status.OK,
                Status.ERROR,
            }, result
    async with asyncio.timeout(2):
        while sockets() - before:
            await asyncio.sleep(0.005)


async def test_a_shard_that_was_closed_keeps_nothing(lab: Lab) -> None:
    """A shard closed without its reader, during reads and between them, leaves no socket."""

    before = sockets()
    for turns in range(0, 30, 3):
        shard = a_reader(lab).shards[2]
        deadline = asyncio.get_running_loop().time() + 2
        reads = [asyncio.create_task(shard.read(Ask(((11, 20),), 11, 20, deadline))) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await shard.aclose()
        await asyncio.gather(*reads, return_exceptions=True)
        assert len(await shard.read(Ask(((11, 20),), 11, 20, deadline))) == 10
    async with asyncio.timeout(2):
        while sockets() - before:
            await asyncio.sleep(0.005)
