"""Changes that servers do not report: a watch still shows them within its interval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from labkit import Lab, RangeRouter, ReadResult, ShardReader, Status
from labkit.shards import PostgresShard, RedisShard
from labkit.shards.base import Shard
from labkit.shards.postgres import change_trigger
from labkit.shards.redis import member
from tests.support.watching import as_admin

pytestmark = pytest.mark.asyncio(loop_scope="module")

INTERVAL = 0.3
MOMENT = 2.0
"""Extra seconds for a busy machine."""
HOUR = 3600.0
ROUTER = RangeRouter({1: [(1, 99)]})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def postgres() -> AsyncIterator[Lab]:
    """A lab on whose first server tests create their own table."""
    async with Lab("postgres", launcher="embedded") as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def redis() -> AsyncIterator[Lab]:
    """A lab on whose first server tests create their own key, in a separate database."""
    async with Lab("redis", launcher="embedded") as lab:
        yield lab


@asynccontextmanager
async def watching(shard: Shard, interval: float) -> AsyncIterator[Callable[[], Awaitable[ReadResult]]]:
    """Yields a function that returns the next result of a watch; asserts that it arrives in time."""

    async def following() -> ReadResult:
        async with asyncio.timeout((0 if interval == HOUR else interval) + MOMENT):
            return await anext(results)

    async with ShardReader(ROUTER, {1: shard}) as reader, aclosing(reader.watch(interval=interval)) as results:
        yield following


async def until_heard(told: Callable[[], Awaitable[Any]], following: Callable[[], Awaitable[ReadResult]]) -> None:
    """Makes a reported change and waits for it: before that, an unreported one would prove nothing."""
    await told()
    assert (await following()).table.num_rows == 2


def ids(result: ReadResult) -> list[int]:
    found: list[int] = result.table["id"].to_pylist()
    return found


TABLES = """
DROP TABLE IF EXISTS t, t1, t2, other CASCADE;
CREATE TABLE t (id int, name text) PARTITION BY RANGE (id);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (50);
CREATE TABLE t2 (id int, name text);
CREATE TABLE other (id int, name text);
INSERT INTO t VALUES (1, 'one');
INSERT INTO t2 VALUES (60, 'sixty');
INSERT INTO other VALUES (7, 'seven');
"""
POSTGRES = {
    "a row put into a partition": ("INSERT INTO t1 VALUES (3, 'three')", [1, 2, 3]),
    "a partition that is attached": ("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (50) TO (99)", [1, 2, 60]),
    "a partition that is detached": ("ALTER TABLE t DETACH PARTITION t1", []),
    "a partition that is truncated": ("TRUNCATE t1", []),
    "a replication role": ("SET session_replication_role = replica; DELETE FROM t; RESET session_replication_role", []),
    "a trigger that is turned off": ("ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t", []),
    "another table in its place": ("ALTER TABLE t RENAME TO was; ALTER TABLE other RENAME TO t", [7]),
}


@pytest.mark.parametrize(("change", "after"), POSTGRES.values(), ids=POSTGRES)
async def test_what_postgres_does_not_tell_is_seen(postgres: Lab, change: str, after: list[int]) -> None:
    """Changes that do not fire the watched table's trigger are seen within the interval."""
    admin = await postgres._shards[1].admin()
    await admin.execute("DROP TABLE IF EXISTS was CASCADE;" + TABLES + change_trigger("t"))
    async with watching(PostgresShard(postgres.urls[1], "t"), INTERVAL) as following:
        assert ids(await following()) == [1]
        await until_heard(lambda: admin.execute("INSERT INTO t VALUES (2, 'two')"), following)
        await admin.execute(change)
        result = await following()
        assert (ids(result), result.complete) == (after, True)


async def test_a_column_that_is_renamed_is_a_gap_and_then_rows_again(postgres: Lab) -> None:
    """A watch of that column shows the shard as invalid within the interval, and right once the name is back."""
    admin = await postgres._shards[1].admin()
    await admin.execute("DROP TABLE IF EXISTS was CASCADE;" + TABLES + change_trigger("t"))
    async with watching(PostgresShard(postgres.urls[1], "t", columns=["name"]), INTERVAL) as following:
        assert ids(await following()) == [1]
        await admin.execute("ALTER TABLE t RENAME COLUMN name TO title")
        result = await following()
        assert (result.missing, result.reports[1].status) == (((1, 99),), Status.INVALID)
        assert result.reports[1].error == "no column name: the table has id, title"
        await admin.execute("ALTER TABLE t RENAME COLUMN title TO name")
        assert ids(await following()) == [1]


async def test_what_is_told_is_seen_at_once(postgres: Lab, redis: Lab) -> None:
    """With an interval of an hour, reported changes are still seen at once."""
    admin = await postgres._shards[1].admin()
    await admin.execute("DROP TABLE IF EXISTS was CASCADE;" + TABLES + change_trigger("t"))
    async with watching(PostgresShard(postgres.urls[1], "t"), HOUR) as following:
        assert ids(await following()) == [1]
        await admin.execute("INSERT INTO t VALUES (2, 'two')")
        assert ids(await following()) == [1, 2]
    async with keyed(redis) as (shard, client), watching(shard, HOUR) as following:
        assert ids(await following()) == [1]
        await client.zadd("t", {member(2, "two"): 2})
        assert ids(await following()) == [1, 2]


@asynccontextmanager
async def keyed(lab: Lab) -> AsyncIterator[tuple[RedisShard, Redis]]:
    """A shard of one row in database 5 and a client there; afterwards the server's settings are restored."""
    url = lab.urls[1].removesuffix("/0") + "/5"
    client = Redis.from_url(as_admin(lab, url))
    try:
        await client.zadd("t", {member(1, "one"): 1})
        yield RedisShard(url, "t"), client
    finally:
        await client.config_set("maxmemory", 0)
        await client.config_set("notify-keyspace-events", "Kgz")
        await client.execute_command("FLUSHDB")
        await client.aclose()


async def _swapped(client: Redis) -> None:
    await client.execute_command("SWAPDB", 5, 6)


async def _evicted(client: Redis) -> None:
    await client.config_set("maxmemory-policy", "allkeys-random")
    await client.config_set("maxmemory", 1)
    assert not await client.exists("t")


async def _untold(client: Redis) -> None:
    await client.config_set("notify-keyspace-events", "")
    await client.delete("t")


REDIS: dict[str, Callable[[Redis], Awaitable[Any]]] = {
    "FLUSHDB": lambda client: client.flushdb(),
    "FLUSHDB ASYNC": lambda client: client.flushdb(asynchronous=True),
    "SWAPDB": _swapped,
    "expiry": lambda client: client.pexpire("t", 200),
    "eviction": _evicted,
    "notifications turned off": _untold,
}


@pytest.mark.parametrize("change", REDIS.values(), ids=REDIS)
async def test_what_redis_does_not_tell_is_seen(redis: Lab, change: Callable[[Redis], Awaitable[Any]]) -> None:
    """Changes without an event for the watched key are seen within the interval."""
    async with keyed(redis) as (shard, client), watching(shard, INTERVAL) as following:
        assert ids(await following()) == [1]
        await until_heard(lambda: client.zadd("t", {member(2, "two"): 2}), following)
        await change(client)
        result = await following()
        assert (ids(result), result.complete) == ([], True)
