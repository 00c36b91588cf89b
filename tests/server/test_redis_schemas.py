"""Tables of any columns on real Redis servers: each layout, random schemas, labs and clusters."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from labkit import Lab, RangeRouter, ShardReader, Status, faults
from labkit._types import INT64_MAX, INT64_MIN
from labkit.faults import DataFault
from labkit.lab.access import ADMIN
from labkit.shards import RedisClusterShard, RedisShard
from labkit.shards.redis.cluster.slots import key_slot
from labkit.shards.redis.layouts import LAYOUTS, layout
from labkit.tables import are_same, to_json
from tests.support import scenes
from tests.support.columns import tables
from tests.support.watching import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "orders:{a}"
IDS = range(1, 61)
ORDERS = pa.table(
    {
        "order_id": pa.array(IDS, pa.int64()),
        "customer": pa.array([i % 7 for i in IDS], pa.int32()),
        "amount": pa.array([Decimal(i) / 4 for i in IDS], pa.decimal128(12, 2)),
        "weight": pa.array([float("nan") if i % 9 == 0 else i / 7 for i in IDS]),
        "at": pa.array([i * 10**14 // 3 for i in IDS]).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
        "paid": pa.array([i % 3 == 0 for i in IDS]),
        "note": pa.array([None if i % 5 == 0 else f'ü "{i}"\n' for i in IDS], pa.large_string()),
        "tags": pa.array([None if i % 8 == 0 else ["a", None, str(i)] for i in IDS], pa.list_(pa.large_string())),
        "photo": pa.array([bytes([i, 255]) for i in IDS], pa.large_binary()),
    }
)
EVERYWHERE = (INT64_MIN, INT64_MAX)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Lab]:
    """A lab with one server."""
    async with Lab("redis", router=RangeRouter({1: [(1, 10)]}), launcher="embedded") as lab:
        yield lab


async def load(client: Any, name: str, table: pa.Table) -> None:
    """Writes the rows as the layout does, in place of all others."""
    await client.flushdb()
    for words in layout(name, table.schema).write(KEY, table):
        await client.execute_command(*words)


def a_reader(
    server: Lab, name: str, schema: pa.Schema, owned: tuple[int, int] = EVERYWHERE, **options: Any
) -> ShardReader:
    shard = RedisShard(server.urls[1], KEY, layout=name, schema=schema, **options)
    return ShardReader(RangeRouter({1: [owned]}), {1: shard}, timeout=5.0)


async def same(reader: ShardReader, table: pa.Table, *window: int | None) -> None:
    """Asserts that a window is read completely, and to the bit."""
    result = await reader.read(*window)
    assert result.complete, result.reports
    assert are_same(result.table, table), (result.table, table)


@pytest.mark.parametrize("name", LAYOUTS)
async def test_random_tables_are_read_back(server: Lab, name: str) -> None:
    """Random names, types and values, as each layout writes them: read back the same, whole, in part and row by row."""
    async with await server.admin(1) as client:
        drawn: list[pa.Table] = []

        @settings(scenes.quick, max_examples=40, suppress_health_check=list(HealthCheck))
        @given(tables(max_rows=12, max_columns=12))
        def draw(table: pa.Table) -> None:
            drawn.append(table)

        draw()
        for table in drawn:
            await load(client, name, table)
            async with a_reader(server, name, table.schema) as reader:
                await same(reader, table)
                ids = table.column(0).to_pylist()
                for place in range(0, len(ids), 5):
                    await same(reader, table.slice(place, 1), ids[place], ids[place])


@pytest.mark.parametrize("name", LAYOUTS)
async def test_every_way_to_read_is_the_same(server: Lab, name: str) -> None:
    """read, pages, stream and get agree; some columns and filters are the same rows of them."""
    async with await server.admin(1) as client:
        await load(client, name, ORDERS.take(pa.array([i * 7 % 60 for i in range(60)])))
    async with a_reader(server, name, ORDERS.schema, (1, 60)) as reader:
        await same(reader, ORDERS)
        pages = [page.table async for page in reader.pages(size=25)]
        assert are_same(pa.concat_tables(pages), ORDERS)
        batches = [batch async for batch in reader.stream(batch=25)]
        assert are_same(pa.Table.from_batches(batches), ORDERS)
        assert await reader.get(12) == ORDERS.slice(11, 1).to_pylist()[0]
        some = await reader.read(columns=["note", "amount"])
        assert some.table.equals(ORDERS.select(["order_id", "note", "amount"]))
        late = await reader.read(filters=[("amount", ">", 10), ("note", "is not null")])
        assert late.table.column("order_id").to_pylist() == [i for i in range(41, 61) if i % 5]


@pytest.mark.parametrize("name", LAYOUTS)
async def test_a_value_that_does_not_fit_makes_the_shard_invalid(server: Lab, name: str) -> None:
    """One wrong value and no row is merged; the cause names row and field, in a wide window and in a narrow one."""
    row = to_json(ORDERS.slice(11, 1))[0] | {"amount": "abc"}
    wrong = ORDERS.set_column(2, "amount", pa.array([row["amount"] if i == 12 else "1" for i in IDS], pa.string()))
    async with await server.admin(1) as client:
        await load(client, name, wrong)
    async with a_reader(server, name, ORDERS.schema, (1, 60)) as reader:
        for window in [(None, None), (10, 20)]:
            report = (await reader.read(*window)).reports[1]
            assert (report.status, report.error) == (Status.INVALID, 'row 12: amount "abc" is not decimal128(12, 2)')
        assert (await reader.read(20, 30)).complete


async def test_a_string_where_a_hash_should_be_is_invalid(server: Lab) -> None:
    """A key of another type is never a missing row; the connection goes on, so the next read is complete."""
    async with await server.admin(1) as client, a_reader(server, "hashes", ORDERS.schema, (1, 60)) as reader:
        await load(client, "hashes", ORDERS)
        await client.set(f"{KEY}:12", "x")
        for window in [(None, None), (1, 60)]:
            report = (await reader.read(*window)).reports[1]
            assert (report.status, report.error) == (Status.INVALID, f"key '{KEY}:12' holds no row: it is not a hash")
        await load(client, "hashes", ORDERS)
        await same(reader, ORDERS)


@pytest.mark.parametrize("name", LAYOUTS)
async def test_a_watch_hears_of_changed_rows(server: Lab, name: str) -> None:
    """A watch of any columns is notified of a change long before its interval is over."""
    schema = pa.schema([("order_id", pa.int64()), ("amount", pa.decimal128(6, 2))])
    first = pa.table([[1], [Decimal("1.00")]], schema=schema)
    second = pa.table([[2], [None]], schema=schema)
    async with await server.admin(1) as client:
        await load(client, name, first)
        async with a_reader(server, name, schema) as reader, aclosing(reader.watch(interval=60)) as results:
            assert (await anext(results)).table.equals(first)
            for words in layout(name, schema).write(KEY, second):
                await client.execute_command(*words)
            deadline = time.monotonic() + PATIENCE
            while not (await anext(results)).table.equals(pa.concat_tables([first, second])):
                assert time.monotonic() < deadline


@pytest.mark.parametrize("name", LAYOUTS)
async def test_many_rows_of_many_columns(server: Lab, name: str) -> None:
    """More rows than one command or pipeline fetches are in order and complete; a limit of bytes is kept."""
    count = 20_000
    ids = range(count)
    table = pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "amount": pa.array([Decimal(i) / 100 for i in ids], pa.decimal128(12, 2)),
            "note": pa.array([None if i % 3 == 0 else f"note {i}" for i in ids], pa.large_string()),
        }
    )
    async with await server.admin(1) as client:
        await client.flushdb()
        async with client.pipeline(transaction=False) as pipe:
            for words in layout(name, table.schema).write(KEY, table):
                pipe.execute_command(*words)
            await pipe.execute()
    async with a_reader(server, name, table.schema) as reader:
        await same(reader, table)
    async with a_reader(server, name, table.schema, answer_limit=100_000) as reader:
        report = (await reader.read()).reports[1]
        assert report.status is Status.INVALID
        assert "answer_limit" in str(report.error)


ALTERED: dict[DataFault, str] = {
    faults.DuplicateIds(2): "is there twice",
    faults.ForeignIds(): "is outside the ranges asked of this shard",
    faults.NullIds(2): "has NULL for order_id, the key",
    faults.BadTypes(): 'order_id "11" is not an integer',
}


@pytest.mark.parametrize("backend", ["redis", "redis-cluster"])
async def test_a_lab_of_any_table(backend: str) -> None:
    """The lab holds the table under the name given; rows are put and deleted; every data fault acts on it, is seen by
    a read where a reader can see it, and undone without a trace.
    """
    async with Lab(backend, rows=ORDERS, key="order_id", table="orders", launcher="embedded") as lab:
        assert all(table.partition(":")[0] == "orders" for table in lab.tables.values())
        await same(lab.reader, ORDERS)
        await lab.put({"order_id": 12, "amount": Decimal("9.50")})
        await lab.delete(13)
        rows = (await lab.read(11, 14)).table.select(["order_id", "amount"]).to_pylist()
        assert [(row["order_id"], row["amount"]) for row in rows] == [
            (11, Decimal("2.75")), (12, Decimal("9.50")), (14, Decimal("3.50")),
        ]  # fmt: skip
        before = (await lab.read()).table
        assert are_same(before, lab._truth)
        for fault, cause in ALTERED.items():
            async with lab.fault(2, fault):
                result = await lab.read()
            assert result.reports[2].status is Status.INVALID
            assert cause in result.reports[2].error
            assert result.missing == ((11, 20), (41, 50))
        for fault, left in ((faults.MissingRows(3), 16), (faults.Empty(), 0)):
            async with lab.fault(2, fault):
                result = await lab.read()
            assert (result.reports[2].status, result.reports[2].rows) == (Status.OK, left)
        assert are_same((await lab.read()).table, before)


async def test_each_layout_on_a_cluster() -> None:
    """Every layout reads any columns from the slot of its hash tag."""
    async with Lab("redis-cluster", launcher="embedded") as lab:
        for name in LAYOUTS:
            key = f"orders-{name}:{lab.tables[2].partition(':')[2]}"
            async with await lab.admin(2) as client:
                for words in layout(name, ORDERS.schema).write(key, ORDERS):
                    await client.execute_command(*words)
            shard = RedisClusterShard(lab.cluster.url, key, layout=name, schema=ORDERS.schema)
            async with ShardReader(RangeRouter({1: [(1, 60)]}), {1: shard}, timeout=5.0) as reader:
                await same(reader, ORDERS)
                await same(reader, ORDERS.slice(9, 11), 10, 20)


async def test_many_rows_of_a_slot_that_moves() -> None:
    """A table of many chunks is read whole from the node that imports its slot, which answers only after ASKING."""
    count = 10_000
    table = pa.table(
        {"id": pa.array(range(count), pa.int64()), "note": pa.array(map(str, range(count)), pa.large_string())}
    )
    async with Lab("redis-cluster", launcher="embedded") as lab:
        key = lab.tables[2]
        slot, access = key_slot(key), lab.cluster._access
        async with await lab.admin(2) as source, await lab.admin(1) as target:
            await source.delete(key)
            for words in layout("sorted-set").write(key, table):
                await source.execute_command(*words)
            ids = [(await node.execute_command("CLUSTER", "MYID")).decode() for node in (source, target)]
            await target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            await source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            port = urlsplit(lab.cluster.urls["1"]).port
            await source.execute_command(
                "MIGRATE", "127.0.0.1", port, "", 0, 5000, "AUTH2", ADMIN, access.admin, "KEYS", key
            )
            shard = RedisClusterShard(lab.cluster.url, key, schema=table.schema)
            async with ShardReader(RangeRouter({1: [(0, count)]}), {1: shard}, timeout=5.0) as reader:
                await same(reader, table)
