"""Every DSN of a lab connects with the driver that it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import asyncpg
import psycopg
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from labkit import Lab, errors

QUERY = "SELECT count(*) FROM data_2"
JAVA = """
import java.sql.*;
class Count {
    public static void main(String[] given) throws Exception {
        try (Connection connection = DriverManager.getConnection(given[0]);
             ResultSet rows = connection.createStatement().executeQuery(given[1])) {
            rows.next();
            System.out.println(rows.getInt(1));
        }
    }
}
"""
JDBC = Path("/usr/share/java/postgresql.jar")


async def test_every_driver_of_postgres_dials_its_dsn() -> None:
    """psycopg, asyncpg, and SQLAlchemy on either, connect with their DSNs; lab.urls suit libpq."""
    async with Lab("postgres") as lab:
        assert lab.urls[2] == lab.dsn(2, driver="psycopg")
        assert re.match(r"postgresql://labkit:([b-df-hj-np-tv-xz][0-9]){16}@127\.0\.0\.1:", lab.urls[2])
        with psycopg.connect(lab.dsn(2, "psycopg")) as sync:
            assert sync.execute(QUERY).fetchone() == (20,)
        connection = await asyncpg.connect(lab.dsn(2, "asyncpg"))
        assert await connection.fetchval(QUERY) == 20
        await connection.close()
        engine = create_async_engine(lab.dsn(2, "sqlalchemy"))
        async with engine.connect() as pooled:
            assert (await pooled.execute(sa.text(QUERY))).scalar() == 20
        await engine.dispose()
        other = sa.create_engine(lab.dsn(2, "psycopg").replace("postgresql:", "postgresql+psycopg:"))
        with other.connect() as held:
            assert held.execute(sa.text(QUERY)).scalar() == 20
        other.dispose()


@pytest.mark.jdbc
async def test_java_dials_its_dsn(tmp_path: Path) -> None:
    """The JDBC driver of Postgres connects with its DSN."""
    source = tmp_path / "Count.java"
    source.write_text(JAVA)
    java = shutil.which("java")
    assert java is not None
    async with Lab("postgres") as lab:
        command = [java, "-cp", str(JDBC), str(source), lab.dsn(2, "jdbc"), QUERY]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=50)  # noqa: ASYNC221
    assert (ran.stdout, ran.returncode) == ("20\n", 0), ran.stderr


@pytest.mark.parametrize("backend", ["redis", "redis-cluster"])
async def test_redis_py_dials_its_dsn(backend: str) -> None:
    """Synchronous redis-py connects with its DSN; in a cluster the DSN leads to the shard's own master."""
    async with Lab(backend) as lab:
        assert lab.urls[2] == lab.dsn(2, "redis")
        with redis.Redis.from_url(lab.dsn(2, "redis"), protocol=2) as client:
            assert client.zcard(lab.tables[2]) == 20


@pytest.mark.parametrize(
    ("shard", "driver", "words"),
    [
        (2, "psycopg", "a redis lab has no DSN for driver 'psycopg': choose one of redis"),
        (2, "nonsense", "a redis lab has no DSN for driver 'nonsense'"),
        (2, ["redis"], "a redis lab has no DSN for driver"),
        (4, "redis", r"unknown shard 4: this lab has \[1, 2, 3\]"),
        ([2], "redis", r"unknown shard \[2\]: this lab has"),
    ],
)
async def test_what_there_is_no_dsn_for_is_one_clear_error(shard: object, driver: object, words: str) -> None:
    """An unknown driver or shard is an error that names the valid ones; so is a DSN before the lab runs."""
    lab = Lab("redis")
    with pytest.raises(errors.UsageError, match="this lab is not running"):
        lab.dsn(2, "redis")
    async with lab:
        with pytest.raises(errors.UsageError, match=words):
            lab.dsn(shard, driver)  # type: ignore[arg-type]
