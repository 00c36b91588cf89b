"""`Lab.reset()`: whatever a test did, the next one finds the lab as it began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pandas as pd
import psycopg
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from labkit import Lab, faults
from labkit.errors import LabError, NeverFired, UsageError
from tests.server.conftest import LABS

SQL = {
    "rows": "UPDATE data_2 SET name = 'changed' WHERE id < 15; DELETE FROM data_2 WHERE id > 45",
    "another shard's row": "INSERT INTO data_2 VALUES (1, 'not mine')",
    "no rows": "TRUNCATE data_2",
    "no table": "DROP TABLE data_2",
    "renamed": "ALTER TABLE data_2 RENAME TO elsewhere",
    "a view": "ALTER TABLE data_2 RENAME TO hidden; CREATE VIEW data_2 AS SELECT * FROM hidden WHERE id < 15",
    "a column more": "ALTER TABLE data_2 ADD COLUMN more INT DEFAULT 1",
    "a column less": "ALTER TABLE data_2 DROP COLUMN name",
    "another type": "ALTER TABLE data_2 ALTER COLUMN id TYPE TEXT",
    "a constraint": "ALTER TABLE data_2 ADD CHECK (id > 0)",
    "no key": "ALTER TABLE data_2 DROP CONSTRAINT data_2_pkey; INSERT INTO data_2 VALUES (12, 'twice')",
    "an index": "CREATE INDEX ON data_2 (name)",
    "no notifications": "ALTER TABLE data_2 DISABLE TRIGGER USER",
    "no trigger": "DROP FUNCTION labkit_notify_changes CASCADE",
    "a rule": "CREATE RULE nothing AS ON INSERT TO data_2 DO INSTEAD NOTHING",
    "a policy": "CREATE POLICY few ON data_2 USING (id < 15)",
    "row security": "ALTER TABLE data_2 ENABLE ROW LEVEL SECURITY; ALTER TABLE data_2 FORCE ROW LEVEL SECURITY",
    "a child": "CREATE TABLE child () INHERITS (data_2); INSERT INTO child VALUES (13, 'inherited')",
    "unlogged": "ALTER TABLE data_2 SET UNLOGGED; DELETE FROM data_2",
    "put aside": "CREATE TABLE aside_data_2 ()",
}
COMMANDS = {
    "members": [("ZREMRANGEBYSCORE", "data_2", 11, 14), ("ZADD", "data_2", 11, '[11,"changed"]')],
    "another shard's row": [("ZADD", "data_2", 1, '[1,"not mine"]')],
    "no key": [("DEL", "data_2")],
    "nothing at all": [("FLUSHALL",)],
    "another type": [("SET", "data_2", "text")],
    "renamed": [("RENAME", "data_2", "elsewhere")],
    "an expiry": [("EXPIRE", "data_2", 3600)],
    "put aside": [("RENAME", "data_2", "data_2:aside"), ("ZADD", "data_2", 1, "x")],
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def postgres() -> AsyncIterator[Lab]:
    """A lab that the tests of Postgres share, and reset."""
    async with Lab("postgres") as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def redis() -> AsyncIterator[Lab]:
    """Likewise of Redis."""
    async with Lab("redis") as lab:
        yield lab


async def definition(lab: Lab) -> str:
    """The table of shard 2 as Postgres describes it."""
    admin = await lab.admin(2)
    lines = """
        SELECT 'column ' || attname || format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'data_2'::regclass AND attnum > 0
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'data_2'::regclass
        UNION ALL SELECT indexdef FROM pg_indexes WHERE tablename = 'data_2'
        UNION ALL SELECT pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger
            WHERE tgrelid = 'data_2'::regclass AND NOT tgisinternal
        UNION ALL SELECT pg_get_functiondef(tgfoid) FROM pg_trigger WHERE tgrelid = 'data_2'::regclass
        UNION ALL SELECT concat(relkind, relpersistence, relrowsecurity) FROM pg_class
            WHERE oid = 'data_2'::regclass
        UNION ALL SELECT ev_class::regclass::text FROM pg_rewrite WHERE ev_class = 'data_2'::regclass
        UNION ALL SELECT policyname FROM pg_policies WHERE tablename = 'data_2'
        UNION ALL SELECT relname FROM pg_class WHERE relname = 'aside_data_2'
        UNION ALL SELECT (SELECT count(*) FROM data_2)::text
    """
    try:
        found = [row[0] for row in await admin.fetch(lines)]
    finally:
        admin.terminate()
    # A renamed table keeps the name of its index, and the next one gets another.
    return "\n".join(sorted(found)).replace("pkey1", "pkey").replace("pkey2", "pkey")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sql", SQL.values(), ids=SQL)
async def test_what_a_client_did_to_the_table_is_undone(postgres: Lab, sql: str) -> None:
    """Rows, columns, constraints, indexes, triggers, rules and policies are as after the start, for a warm reader too;
    and again, which tells from a reset that finds nothing to do.
    """
    before = await definition(postgres)
    for _ in range(2):
        with psycopg.connect(postgres.urls[2], autocommit=True) as client:
            client.execute(sql)
        await postgres.reset()
        assert (await postgres.read()).raise_for_missing().frame.equals(postgres.rows)
        assert await definition(postgres) == before
        with psycopg.connect(postgres.urls[2], autocommit=True) as client:
            client.execute("DROP TABLE IF EXISTS elsewhere, hidden, child CASCADE")


@pytest.mark.asyncio(loop_scope="module")
async def test_an_open_transaction_is_ended(postgres: Lab) -> None:
    """What a test wrote and never committed does not hold the next one up, nor appear in it; a session that only read
    lives on, unless it keeps the table from being put back.
    """
    urls = postgres.dsn(2, "asyncpg")
    writer, reader = await asyncpg.connect(urls), await asyncpg.connect(urls)
    await reader.execute("BEGIN; SELECT FROM data_2")
    await writer.execute("BEGIN; UPDATE data_2 SET name = 'uncommitted'")
    await postgres.reset()
    assert writer.is_closed()
    assert await reader.fetchval("SELECT count(*) FROM data_2 WHERE name = 'uncommitted'") == 0
    await postgres.put(12, "changed")
    await postgres.reset()
    assert reader.is_closed()
    assert (await postgres.read()).frame.equals(postgres.rows)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_not_the_labs_own_stays(postgres: Lab) -> None:
    """Tables, views and rows of a test's own stay; of those that depend on the lab's table, a view survives other rows,
    and not another definition.
    """
    with psycopg.connect(postgres.urls[2], autocommit=True) as client:
        client.execute("CREATE TABLE own (id INT); INSERT INTO own VALUES (1)")
        client.execute("CREATE VIEW few AS SELECT * FROM data_2 WHERE id < 15")
        client.execute("DELETE FROM data_2")
        await postgres.reset()
        assert client.execute("SELECT (SELECT count(*) FROM own), (SELECT count(*) FROM few)").fetchone() == (1, 4)
        client.execute("ALTER TABLE data_2 ADD COLUMN more INT")
        await postgres.reset()
        assert client.execute("SELECT (SELECT count(*) FROM own), to_regclass('few')").fetchone() == (1, None)
        client.execute("CREATE TABLE refers (id INT REFERENCES data_2); INSERT INTO refers VALUES (11)")
        client.execute("UPDATE data_2 SET name = 'changed'")
        await postgres.reset()
        assert client.execute("SELECT id FROM refers").fetchall() == [(11,)]
        client.execute("DROP TABLE own, refers")
    assert (await postgres.read()).frame.equals(postgres.rows)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reset_that_finds_nothing_to_do_does_nothing(postgres: Lab) -> None:
    """The reader keeps its connections, and the table its file: nothing was written."""
    what = "SELECT pg_backend_pid(), pg_relation_filenode('data_2'), pg_current_wal_insert_lsn()::text"
    with psycopg.connect(postgres.urls[2], autocommit=True) as client:
        for _ in range(3):  # first reads of new rows may write, too
            await postgres.read()
            await postgres.reset()
        before = client.execute(what).fetchone()
        sessions = "SELECT pid FROM pg_stat_activity WHERE application_name <> 'labkit-admin' ORDER BY pid"
        connected = client.execute(sessions).fetchall()
        await postgres.reset()
        assert client.execute(what).fetchone() == before
        assert client.execute(sessions).fetchall() == connected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("commands", COMMANDS.values(), ids=COMMANDS)
async def test_what_a_client_did_to_the_key_is_undone(redis: Lab, commands: list[tuple]) -> None:
    """Members, type and expiry of the key are as after the start; other keys stay, unless they were deleted too."""
    for _ in range(2):
        async with Redis.from_url(redis.urls[2]) as client:
            await client.set("own", "1")
            for command in commands:
                await client.execute_command(*command)
            await redis.reset()
            assert await client.ttl("data_2") == -1
            assert await client.zcard("data_2") == 20
            assert await client.exists("data_2:aside") == 0
            assert await client.get("own") == (None if commands == [("FLUSHALL",)] else b"1")
        assert (await redis.read()).raise_for_missing().frame.equals(redis.rows)


@pytest.mark.parametrize("backend_and_launcher", LABS)
async def test_faults_events_and_the_truth_are_put_back(backend_and_launcher: tuple[str, str]) -> None:
    """Also those of a server that was killed, and of tables that faults put aside; a fault that never fired is told,
    once all is in place.
    """
    backend, launcher = backend_and_launcher
    async with Lab(backend, launcher=launcher, timeout=1.0) as lab:
        first = lab.rows
        await lab.put(12, "changed")
        await lab.delete(13)
        await lab.inject({1: faults.SchemaDrift(), 2: faults.Kill(), 3: faults.MissingRows()})
        assert (await lab.read()).missing
        await lab.reset()
        assert lab.events == []
        assert not any(one.asked.count for one in await lab.connections())
        assert lab.rows.equals(first)
        assert (await lab.read()).raise_for_missing().frame.equals(first)
        await lab.inject(1, faults.Latency(5))
        await lab.put(1, "changed")
        with pytest.warns(NeverFired, match=r"Latency\(5\) never fired on shard 1"):
            await lab.reset()
        assert (lab.events, len(lab.rows)) == ([], 60)
        assert (await lab.read()).raise_for_missing().frame.equals(first)
        assert lab.running
    assert not lab.running
    with pytest.raises(UsageError, match="not running"):
        await lab.reset()


@pytest.mark.parametrize("backend", ["postgres", "redis"])
def test_a_table_of_any_columns_is_put_back(backend: str) -> None:
    """Decimals, times, lists and NULL come back as they were; without an event loop as well."""
    rows = pd.DataFrame(
        {
            "order_id": range(1, 61),
            "amount": [Decimal(i) / 4 for i in range(60)],
            "at": pd.date_range("2024-01-01", periods=60, tz="UTC"),
            "note": ["paid", None] * 30,
        }
    )
    with Lab(backend, rows=rows, key="order_id", table="orders").sync() as lab:
        before = lab.read().raise_for_missing().table
        for _ in range(2):
            lab.put({"order_id": 12, "amount": Decimal("9.50")})
            lab.delete(13)
            assert not lab.read().table.equals(before)
            lab.reset()
            assert lab.read().raise_for_missing().table.equals(before)
            assert lab.rows.equals(lab.read().frame)


async def test_a_cluster_has_its_rows_and_its_masters_back() -> None:
    """After a failover that a client asked for, and writes to whoever is the master, the first masters have their rows
    again.
    """
    async with Lab("redis-cluster", replicas=1) as lab:
        async with Redis.from_url(lab.cluster.urls["2 replica"], protocol=2) as replica:
            await replica.execute_command("CLUSTER", "FAILOVER")
        assert await lab.cluster.until_moved(2) == "2 replica"
        async with lab.cluster.client() as client:
            await client.zremrangebyrank(lab.tables[2], 0, 3)
            await client.delete(lab.tables[3])
        await lab.reset()
        assert (await lab.read()).raise_for_missing().frame.equals(lab.rows)
        view = (await lab.cluster.view()).set_index("node")
        assert view.loc["2", "role"] == "master"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_shard_that_cannot_be_reset_is_named(postgres: Lab) -> None:
    """Where the table's name is taken by what its clients cannot drop, the error says which shard and why."""
    admin = await postgres.admin(2)
    try:
        await admin.execute("DROP TABLE data_2 CASCADE; CREATE TABLE data_2 ()")
        with pytest.raises(LabError, match="shard 2 cannot be reset: must be owner of table data_2"):
            await postgres.reset()
        await admin.execute("DROP TABLE data_2")
    finally:
        admin.terminate()
    await postgres.reset()
    assert (await postgres.read()).frame.equals(postgres.rows)


@pytest.mark.asyncio(loop_scope="module")
async def test_resets_and_writes_take_turns(redis: Lab) -> None:
    """A write at the same time is whole: before the reset, and gone, or after it, and in the truth."""
    for number in range(5):
        await asyncio.gather(redis.reset(), redis.put(12, f"name {number}"))
        assert (await redis.read()).frame.equals(redis.rows)
