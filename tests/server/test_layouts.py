"""Layouts on a real Redis: the same rows however they are stored, and what the server does for each."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from labkit import Lab, RangeRouter, ReadResult, ShardReader, Status
from labkit._types import INT64_MAX, INT64_MIN
from labkit.lab.access import ADMIN
from labkit.shards import RedisShard
from labkit.shards.base import Ask
from labkit.shards.redis.cluster.shard import RedisClusterShard
from labkit.shards.redis.cluster.slots import key_slot
from labkit.shards.redis.layouts import LAYOUTS, layout, member
from labkit.shards.redis.layouts.base import KNOWN
from labkit.shards.redis.server import Commands
from tests.support.lateness import MARGIN
from tests.support.watching import PATIENCE

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("name", LAYOUTS)]

KEY_PER_ROW = ("strings", "hashes")
KEY = "people[a-z]*"
"""A valid key; used as a pattern it would match other keys, but not itself."""
ROWS = {i: f"Test {i}" for i in range(5, 20_001, 5)} | {10: None, 15: "", 20: "same", 25: "same", 30: 'ü"\n[1]'}
EVERYTHING = (1, 20_000)


class Table:
    """A key on the lab's one server in one layout, and a reader of it."""

    def __init__(self, lab: Lab, client: Any, name: str, owned: tuple[int, int]) -> None:
        self.client = client
        self.layout = layout(name)
        source = RedisShard(lab.urls[1], KEY, layout=name)
        self.reader = ShardReader(RangeRouter({1: [owned]}), {1: source}, timeout=2.0)

    async def write(self, rows: Iterable[tuple[int, str | None]]) -> None:
        commands = iter(self.layout.write(KEY, rows))
        while some := list(islice(commands, 1000)):
            pipe = self.client.pipeline(transaction=False)
            for words in some:
                pipe.execute_command(*words)
            await pipe.execute()

    async def place(self, row_id: int, stored: bytes) -> None:
        """Stores anything where the row with that ID would be."""
        words = {
            "sorted-set": ("ZADD", KEY, row_id, stored),
            "hash": ("HSET", KEY, row_id, stored),
            "strings": ("SET", f"{KEY}:{row_id}", stored),
            "hashes": ("SET", f"{KEY}:{row_id}", stored),
        }
        await self.client.execute_command(*words[self.layout.name])

    async def take_out(self, row_id: int, name: str) -> None:
        words = {
            "sorted-set": ("ZREM", KEY, member(row_id, name)),
            "hash": ("HDEL", KEY, row_id),
            "strings": ("DEL", f"{KEY}:{row_id}"),
            "hashes": ("DEL", f"{KEY}:{row_id}"),
        }
        await self.client.execute_command(*words[self.layout.name])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Lab]:
    """A lab with one server."""
    async with Lab("redis", router=RangeRouter({1: [(1, 10)]})) as lab:
        yield lab


@asynccontextmanager
async def table(server: Lab, name: str, rows: Any = (), owned: tuple[int, int] = EVERYTHING) -> AsyncIterator[Table]:
    async with await server._backend.connect(server._shards[1].located) as client:
        await client.flushdb()
        await client.mset({"peopleb": "x", "peopleb:1": "x", "people:1": "x"})
        made = Table(server, client, name, owned)
        await made.write(rows)
        async with made.reader:
            yield made


def pairs(result: ReadResult) -> list[tuple[int, str | None]]:
    return [(row["id"], row["name"]) for row in result.table.to_pylist()]


@pytest.mark.parametrize(
    "window", [(None, None), (1, 100), (15, 15), (16, 16), (3000, 3000 + KNOWN), (None, 3000), (17_003, None)]
)
async def test_a_window_is_its_rows(server: Lab, name: str, window: tuple[int | None, int | None]) -> None:
    """Narrow, wide, open and empty windows have exactly their rows, even with NULL, repeated or awkward names."""
    low, high = window
    rows = list(ROWS.items())
    random.Random(1).shuffle(rows)
    async with table(server, name, rows) as it:
        result = await it.reader.read(low, high)
        assert result.complete, result.reports
        assert pairs(result) == [row for row in sorted(ROWS.items()) if (low or 1) <= row[0] <= (high or 20_000)]


async def test_pages_are_the_table(server: Lab, name: str) -> None:
    """In every layout a page has the first rows by ID, and all pages together are the table."""
    rows = sorted(ROWS.items())[:700]
    async with table(server, name, reversed(rows)) as it:
        pages = [page async for page in it.reader.pages(size=150)]
        assert [len(page.frame) for page in pages] == [150, 150, 150, 150, 100]
        assert [row for page in pages for row in pairs(page)] == rows


async def test_a_row_by_its_id(server: Lab, name: str) -> None:
    """get() returns an existing row, and None for a missing one."""
    async with table(server, name, ROWS.items()) as it:
        assert await it.reader.get(10) == {"id": 10, "name": None}
        assert await it.reader.get(11) is None


async def test_ids_of_64_bits_are_exact(server: Lab, name: str) -> None:
    """IDs are exact beyond 2**53 and at both ends of the 64-bit range."""
    ids = [INT64_MIN, INT64_MIN + 1, -(2**53) - 1, -1, 0, 2**53, 2**53 + 1, 2**53 + 2, INT64_MAX - 1, INT64_MAX]
    async with table(server, name, [(i, "x") for i in ids], (INT64_MIN, INT64_MAX)) as it:
        assert [row[0] for row in pairs(await it.reader.read())] == ids
        assert [row[0] for row in pairs(await it.reader.read(2**53 + 1, 2**53 + 2))] == [2**53 + 1, 2**53 + 2]
        assert [row[0] for row in pairs(await it.reader.page(3, after=-1))] == [0, 2**53, 2**53 + 1]
        assert await it.reader.get(2**53 + 3) is None


@pytest.mark.parametrize("window", [(None, None), (100, 250)])
async def test_a_foreign_row_is_invalid(server: Lab, name: str, window: tuple[int | None, int | None]) -> None:
    """A foreign row is found in any window: the whole window is queried, not only the shard's ranges."""
    async with table(server, name, [(150, "x"), (205, "not mine")], owned=(1, 200)) as it:
        report = (await it.reader.read(*window)).reports[1]
        assert (report.status, report.error) == (Status.INVALID, "id 205 is outside the ranges asked of this shard")


@pytest.mark.parametrize("window", [(None, None), (100, 250)])
@pytest.mark.parametrize("stored", [b"no row", b'[150,["a"]]', b'["150","a"]', b'[205,"of another"]'])
async def test_what_is_no_row_is_invalid(server: Lab, name: str, window: Any, stored: bytes) -> None:
    """One malformed row makes the answer invalid, and the shard is readable as soon as it is removed."""
    async with table(server, name, [(140, "x")], owned=(1, 200)) as it:
        await it.place(150, stored)
        assert (await it.reader.read(*window)).reports[1].status is Status.INVALID
        await it.client.flushdb()
        await it.write([(140, "x")])
        assert pairs(await it.reader.read(*window)) == [(140, "x")]


@pytest.mark.parametrize("window", [(None, None), (100, 250)])
async def test_a_key_of_another_type_is_not_an_empty_answer(server: Lab, name: str, window: Any) -> None:
    """A key of another type is rejected by the server, or found invalid by asking for its type."""
    async with table(server, name) as it:
        await it.client.rpush(f"{KEY}:150" if name in KEY_PER_ROW else KEY, "x")
        report = (await it.reader.read(*window)).reports[1]
        status, cause = {
            "strings": (Status.INVALID, "its type is b'list'"),
            "hashes": (Status.INVALID, "it is not a hash"),
        }.get(name, (Status.REJECTED, "WRONGTYPE"))
        assert report.status is status
        assert cause in report.error


async def test_changes_are_heard_of(server: Lab, name: str) -> None:
    """A watch sees written and removed rows, and a removed table, long before its interval is over."""
    async with table(server, name, [(5, "a")]) as it, aclosing(it.reader.watch(interval=60)) as results:

        async def becomes(*rows: tuple[int, str | None]) -> None:
            async with asyncio.timeout(PATIENCE):
                while pairs(await anext(results)) != list(rows):
                    pass

        await becomes((5, "a"))
        await it.write([(7, "b")])
        await becomes((5, "a"), (7, "b"))
        await it.take_out(5, "a")
        await becomes((7, "b"))
        await it.client.rename(*((f"{KEY}:7", "aside") if name in KEY_PER_ROW else (KEY, "aside")))
        await becomes()


async def test_a_server_that_does_not_tell_of_this_layout_is_read_at_the_interval(server: Lab, name: str) -> None:
    """Without keyspace notifications for its layout, a watch sees changes within its interval."""
    async with table(server, name, [(5, "a")]) as it:
        told = (await it.client.config_get("notify-keyspace-events"))["notify-keyspace-events"]
        await it.client.config_set("notify-keyspace-events", "")
        try:
            async with asyncio.timeout(PATIENCE), aclosing(it.reader.watch(interval=0.05)) as results:
                assert pairs(await anext(results)) == [(5, "a")]
                await it.write([(7, "b")])
                assert pairs(await anext(results)) == [(5, "a"), (7, "b")]
        finally:
            await it.client.config_set("notify-keyspace-events", told)


async def test_a_layout_can_do_what_it_says(server: Lab, name: str) -> None:
    """The raw answers of the server confirm what a layout claims: order, pruning, pages and a single moment."""
    rows = list(ROWS.items())
    random.Random(1).shuffle(rows)
    async with table(server, name, rows) as it, it.client.client() as own:
        whole = await _seen(own, it, Ask((EVERYTHING,), None, None, 0.0))
        wide = await _seen(own, it, Ask((EVERYTHING,), 3001, 3000 + 2 * KNOWN, 0.0))
        page = await _seen(own, it, Ask((EVERYTHING,), 3001, None, 0.0, limit=20))
        one = await _seen(own, it, Ask((EVERYTHING,), 3005, 3005, 0.0))
    can = it.layout.can
    assert can.moment == (len(whole) == 1)
    assert can.order == (whole[0][0] == [member(*row) for row in sorted(rows)])
    assert can.prune == (_words(wide) <= 2 * KNOWN / 5)
    assert can.page == (_words(page) <= 20)
    assert _words(one) <= (2 if name == "hashes" else 1)  # a field and its value


async def test_many_rows_keep_nobody_waiting(server: Lab, name: str) -> None:
    """In every layout the event loop keeps running while many rows are read: no step computes for long."""
    many = range(1, 200_001)
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - began)

    async with table(server, name, ((i, f"name {i}") for i in many), (1, len(many))) as it:
        source = RedisShard(server.urls[1], KEY, layout=name)
        async with ShardReader(it.reader.router, {1: source}, timeout=60.0) as reader:
            gc.collect()
            gc.freeze()  # keep the collector from scanning what other tests have left
            beating = asyncio.create_task(beat())
            result = await reader.read()
            beating.cancel()
    assert result.complete, result.reports
    assert result.table.column("id").to_pylist() == list(many)
    assert worst <= MARGIN


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Lab]:
    """Three masters."""
    async with Lab(
        "redis-cluster", launcher="embedded"
    ) as lab:  # containers cannot reach the addresses that others announce
        yield lab


async def test_a_slot_that_moves_is_never_short_of_rows(cluster: Lab, name: str) -> None:
    """A table in one key is on one node or the other, and is read from there. One with a key per row is on both nodes
    for a while: then the shard is missing, though each node would answer SCAN.
    """
    key = f"people-{name}:{cluster.tables[2].partition(':')[2]}"
    slot = key_slot(key)
    rows = [(i, f"Test {i}") for i in range(1, 51)]
    shard = RedisClusterShard(cluster.cluster.url, key, layout=name)
    reader = ShardReader(RangeRouter({1: [(1, 50)]}), {1: shard}, timeout=2.0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(reader)
        administrator = ("AUTH2", ADMIN, cluster.cluster._access.admin)
        nodes = {
            url: await stack.enter_async_context(await cluster.cluster.admin(node))
            for node, url in list(cluster.cluster.urls.items())[:3]
        }
        ids = {url: (await node.execute_command("CLUSTER", "MYID")).decode() for url, node in nodes.items()}
        held = {url: await node.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) for url, node in nodes.items()}
        source = max(held, key=lambda url: held[url])  # an earlier test may have moved it
        target = next(url for url in nodes if url != source)
        for words in layout(name).write(key, rows):
            await nodes[source].execute_command(*words)

        async def move(share: float) -> None:
            keys = await nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            some = keys[: max(int(len(keys) * share), 1)]
            port = urlsplit(target).port
            await nodes[source].execute_command(
                "MIGRATE", "127.0.0.1", port, "", 0, 2000, *administrator, "KEYS", *some
            )

        async def told() -> list[tuple[str, bool]]:
            """For an open window and a narrow one: the status, and whether the rows match it."""
            results = [await reader.read(), await reader.read(1, 50)]
            return [(str(r.reports[1].status), pairs(r) == (rows if r.complete else [])) for r in results]

        right, missing = [("ok", True)] * 2, [("rejected", True)] * 2
        assert await told() == right
        await nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        await nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        if name in KEY_PER_ROW:
            await move(0.5)
            assert await told() == missing
        else:
            assert await told() == right
        await move(1)
        assert await told() == (missing if name in KEY_PER_ROW else right)
        for url in (target, source):
            await nodes[url].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        assert await told() == right


async def _seen(client: Any, it: Table, ask: Ask) -> list[tuple[Any]]:
    """The answers to all commands of a read, as 1-tuples."""
    seen = []

    class Watched(Commands):
        """Sends each command on its own."""

        async def __call__(self, *words: Any) -> Any:
            seen.append((await super().__call__(*words),))
            return seen[-1][0]

        async def many(self, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
            return [await self(*words) for words in questions]

    await it.layout.read(Watched(client.connection), KEY, ask)
    return seen


def _words(reply: Any) -> int:
    """The number of strings in a nested answer; nil counts as none."""
    if isinstance(reply, list | tuple):
        return sum(map(_words, reply))
    return isinstance(reply, bytes)
