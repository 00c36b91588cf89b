"""Large reads on real servers: every way gives the same answer, and faults strike in the middle of one."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labkit.dask
from labkit import Lab, RangeRouter, ShardReader, Status, faults
from labkit._types import INT64_MAX, INT64_MIN
from labkit.shards import PostgresShard, RedisShard
from labkit.shards.redis.layouts import layout
from labkit.tables import SCHEMA
from labkit.topology import ShardPlace, Topology
from tests.support.lateness import MARGIN, starved
from tests.support.watching import admin

MANY = 30_000
THIRDS = RangeRouter({n: [(i * MANY // 6 + 1, (i + 1) * MANY // 6) for i in (n - 1, n + 2)] for n in (1, 2, 3)})
"""Six ranges over three shards, as in `CLASSIC`, with enough rows for COPY and for chunks of a sorted set."""

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
awkward = st.sampled_from(
    [None, "", "null", '"', "\\", "a\nb\r\t", '[1,"x"]', "žluťoučký 🐎", "\x02\x08", "NULL", "\\N"]
)
ids = st.one_of(
    st.integers(-20, 20),
    st.integers(INT64_MIN, INT64_MAX),
    st.sampled_from([INT64_MIN, -(2**53) - 1, 2**53, 2**53 + 1, 65538, 2**41 + 8, INT64_MAX]),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[RangeRouter, dict[int, str | None]]:
    """A router of up to three shards that own everything between the first and the last cut, and rows for them."""
    cuts = sorted(draw(st.sets(ids, min_size=2, max_size=7)))
    spans = [(low, high - 1) for low, high in pairwise(cuts)]
    owned: dict[int, list[tuple[int, int]]] = {}
    for span in spans:
        owned.setdefault(draw(st.integers(1, 3)), []).append(span)
    rows = draw(st.dictionaries(ids | st.integers(cuts[0], cuts[-1] - 1), texts | awkward, max_size=25))
    router = RangeRouter(owned)
    return router, {row_id: name for row_id, name in sorted(rows.items()) if router.locate(row_id) is not None}


async def streamed(reader: ShardReader, batch: int) -> pa.Table:
    """All batches of a stream as one table; asserts that nothing was missing."""
    stream = reader.stream(batch=batch)
    batches = [batch async for batch in stream]
    stream.raise_for_missing()
    return pa.Table.from_batches(batches, SCHEMA)


def test_every_way_gives_the_same_rows() -> None:
    """On random tables, COPY, SELECT, streams and Dask, and reads and streams of Redis, return the rows written."""
    with asyncio.Runner() as runner:
        postgres, redis = Lab("postgres", launcher="embedded"), Lab("redis", launcher="embedded")
        try:
            runner.run(postgres.start())
            runner.run(redis.start())

            @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
            @given(tables(), st.integers(1, 12))
            def same(table: tuple[RangeRouter, dict[int, str | None]], batch: int) -> None:
                router, rows = table
                runner.run(put_into(postgres, redis, router, rows))
                truth = pa.table({"id": list(rows), "name": list(rows.values())}, schema=SCHEMA)
                for table in runner.run(read_every_way(postgres, redis, router, batch)):
                    assert table.equals(truth)
                places = {n: ShardPlace(postgres.source_urls[n], "random") for n in router.shards}
                frame = labkit.dask.read(Topology(5.0, router, places)).compute(scheduler="synchronous")
                pd.testing.assert_frame_equal(frame.reset_index(), truth_frame(rows), check_index_type=False)

            same()
        finally:
            runner.run(postgres.stop())
            runner.run(redis.stop())


def truth_frame(rows: dict[int, str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {"id": pd.Series(list(rows), dtype="int64"), "name": pd.Series(list(rows.values()), dtype="str")}
    )


async def put_into(postgres: Lab, redis: Lab, router: RangeRouter, rows: dict[int, str | None]) -> None:
    """Writes each row to the table or key `random` of its shard, which then holds nothing else."""
    for shard in router.shards:
        own = [(row_id, name) for row_id, name in rows.items() if router.locate(row_id) == shard]
        connection = await admin(postgres, shard)
        await connection.execute("DROP TABLE IF EXISTS random; CREATE TABLE random (id BIGINT PRIMARY KEY, name TEXT)")
        await connection.executemany("INSERT INTO random VALUES ($1, $2)", own)
        connection.terminate()
        async with await admin(redis, shard) as client:
            await client.delete("random")
            for command in layout("sorted-set").write("random", own):
                await client.execute_command(*command)


async def read_every_way(postgres: Lab, redis: Lab, router: RangeRouter, batch: int) -> list[pa.Table]:
    found = []
    for bulk in (True, False):
        urls = {shard: postgres.source_urls[shard] for shard in router.shards}
        shards = {shard: PostgresShard(url, "random", bulk=bulk) for shard, url in urls.items()}
        async with ShardReader(router, shards, timeout=5.0) as reader:
            found += [(await reader.read()).raise_for_missing().table, await streamed(reader, batch)]
    shards = {shard: RedisShard(redis.source_urls[shard], "random") for shard in router.shards}
    async with ShardReader(router, shards, timeout=5.0) as reader:
        found += [(await reader.read()).raise_for_missing().table, await streamed(reader, batch)]
    return found


TYPES = [("smallint", "varchar(40)"), ("integer", "character(9)"), ("bigint", "text"), ("integer", "name")]


@pytest.mark.parametrize(("id_type", "name_type"), TYPES)
async def test_other_tables_than_data_n(id_type: str, name_type: str) -> None:
    """A table with any schema, column names, integer key type and text type is read alike by COPY and SELECT."""
    async with Lab("postgres", launcher="embedded") as lab:
        connection = await admin(lab, 1)
        await connection.execute(
            "CREATE SCHEMA town;"
            f'CREATE TABLE town.people (more date, "full name" {name_type}, nr {id_type} PRIMARY KEY);'
            "INSERT INTO town.people SELECT NULL, nullif('n' || i, 'n7'), i FROM generate_series(-50, 5000) i;"
            "GRANT USAGE ON SCHEMA town TO labkit; GRANT SELECT ON town.people TO labkit"
        )
        people = await reflected(lab, "people", "town")
        router, found = RangeRouter({1: [(-100, 6000)]}), []
        for bulk in (True, False):
            shard = PostgresShard(lab.source_urls[1], people, key="nr", columns=["full name"], bulk=bulk)
            async with ShardReader(router, {1: shard}) as reader:
                found.append((await reader.read()).raise_for_missing())
        assert found[0].table.equals(found[1].table)
        assert found[0].table.num_rows == 5051
        assert found[0].table.schema.names == ["nr", "full name"]
        assert found[0].frame["full name"].isna().sum() == 1
        connection.terminate()


async def reflected(lab: Lab, name: str, schema: str) -> sa.Table:
    """The table as SQLAlchemy reflects it from the server."""
    engine = sa.ext.asyncio.create_async_engine(lab.dsn(1, "sqlalchemy"))
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: sa.Table(name, sa.MetaData(), schema=schema, autoload_with=sync)
            )
    finally:
        await engine.dispose()


async def test_a_table_that_was_altered_meanwhile() -> None:
    """Each large read checks the column types: an id that is no longer an integer is invalid, even when warm."""
    async with Lab("postgres", router=THIRDS, launcher="embedded") as lab:
        assert (await lab.read()).complete
        connection = await admin(lab)
        for type_, status in (("bigint", Status.OK), ("numeric", Status.INVALID), ("integer", Status.OK)):
            await connection.execute(f"ALTER TABLE data_2 ALTER COLUMN id TYPE {type_}")
            assert (await lab.read()).reports[2].status is status
        connection.terminate()


HALFWAY = [faults.LimitData(200_000), faults.Bandwidth(50), faults.Pause(), faults.Corrupt(every=1000)]


@pytest.mark.parametrize("backend", ["postgres", "redis"])
@pytest.mark.parametrize("fault", HALFWAY, ids=lambda fault: type(fault).__name__)
async def test_half_an_answer_is_no_answer(backend: str, fault: faults.Fault) -> None:
    """A shard cut off, throttled, frozen or garbled in the middle of a large answer is missing as a whole, in time."""
    async with Lab(backend, router=THIRDS, timeout=1.0, launcher="embedded") as lab:
        assert (await lab.read()).table.num_rows == MANY
        async with lab.fault(2, fault):
            result = await lab.read()
        assert result.elapsed <= 1.0 + MARGIN + starved()
        assert result.missing == tuple((low, high) for low, high, shard in THIRDS.spans if shard == 2)
        assert result.table.num_rows == MANY * 2 // 3
        assert result.reports[2].failed
        assert (await lab.read()).complete, "the next read must not begin with the rest of the last answer"
        if backend == "postgres":
            connection = await admin(lab)
            active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'labkit'"
            while await connection.fetchval(active):
                await asyncio.sleep(0.01)
            connection.terminate()


async def test_a_large_read_keeps_no_other_one_waiting() -> None:
    """While one reader takes in large answers back to back, another reader gives up a frozen shard in time."""
    async with (
        Lab("postgres", router=THIRDS, timeout=2.0, launcher="embedded") as lab,
        Lab("postgres", timeout=0.5, launcher="embedded") as other,
        other.fault(2, faults.Pause()),
    ):
        small = asyncio.create_task(other.read())
        while not small.done():
            assert (await lab.read()).complete
        result = small.result()
    assert result.missing == ((11, 20), (41, 50))
    assert result.elapsed <= 0.5 + 2 * MARGIN + starved()
