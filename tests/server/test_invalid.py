"""A shard that lies: rows that break the contract make it invalid, and none of its rows are returned."""

from __future__ import annotations

import json

import pytest

from labkit import Lab, Status
from tests.support.watching import admin

NO_KEY = "ALTER TABLE data_2 DROP CONSTRAINT data_2_pkey, ALTER COLUMN id DROP NOT NULL"

POSTGRES_LIES = {
    "duplicate": (f"{NO_KEY}; INSERT INTO data_2 VALUES (12, 'again')", "id 12 is there twice"),
    "foreign": ("INSERT INTO data_2 VALUES (25, 'not mine')", "id 25 is outside"),
    "null id": (f"{NO_KEY}; INSERT INTO data_2 VALUES (NULL, 'nobody')", "has NULL for id, the key"),
    "text ids": ("ALTER TABLE data_2 ALTER COLUMN id TYPE text", "is not an integer"),
    "fractions": ("ALTER TABLE data_2 ALTER COLUMN id TYPE numeric", "is not an integer"),
    "names that are no text": ("ALTER TABLE data_2 ALTER COLUMN name TYPE bytea USING name::bytea", "is not text"),
}

REDIS_LIES: dict[str, tuple[dict[str, float], str]] = {
    "duplicate": ({'[12,"again"]': 12}, "id 12 is there twice"),
    "foreign": ({'[25,"not mine"]': 25}, "id 25 is outside"),
    "null id": ({'[null,"nobody"]': 12}, "has NULL for id, the key"),
    "text id": ({'["12","Test 12"]': 12}, "is not an integer"),
    "fraction": ({'[12.5,"between"]': 12.5}, "is not an integer"),
    "unsorted": ({'[14,"at the wrong score"]': 11.5}, "comes after"),
    "no row": ({"hello": 12}, "is not a row"),
    "instead, a name that is no text": ({'[12,["a"]]': 12}, "is not text"),
}


async def assert_shard_2_is_invalid(lab: Lab, cause: str) -> None:
    result = await lab.read()
    assert result.reports[2].status is Status.INVALID
    assert cause in (result.reports[2].error or "")
    assert result.missing == ((11, 20), (41, 50))
    assert result.frame.equals(lab.rows[lab.router.locate_many(lab.rows["id"]) != 1].reset_index(drop=True))


@pytest.mark.parametrize("lie", POSTGRES_LIES)
async def test_lies_of_a_postgres_shard(lie: str) -> None:
    """Each way to break the contract is detected, on connections that have read the table before."""
    sql, cause = POSTGRES_LIES[lie]
    async with Lab("postgres") as lab:
        assert (await lab.read()).complete
        connection = await admin(lab)
        await connection.execute(sql)
        connection.terminate()
        await assert_shard_2_is_invalid(lab, cause)


@pytest.mark.parametrize("lie", REDIS_LIES)
async def test_lies_of_a_redis_shard(lie: str) -> None:
    """Each way to break the contract with members of the sorted set is detected."""
    members, cause = REDIS_LIES[lie]
    async with Lab("redis") as lab:
        async with await admin(lab) as client:
            if "instead" in lie:
                await client.zremrangebyscore("data_2", 12, 12)
            await client.zadd("data_2", members)
        await assert_shard_2_is_invalid(lab, cause)


async def test_a_missing_table_is_rejected_with_the_servers_words() -> None:
    """A query that the server refuses is REJECTED with the server's message."""
    async with Lab("postgres") as lab:
        connection = await admin(lab)
        await connection.execute("DROP TABLE data_2")
        connection.terminate()
        result = await lab.read()
        assert result.reports[2].status is Status.REJECTED
        assert 'relation "data_2" does not exist' in (result.reports[2].error or "")


async def test_a_key_of_another_type_is_rejected() -> None:
    """A Redis key that is not a sorted set is REJECTED, not an empty answer."""
    async with Lab("redis") as lab:
        async with await admin(lab) as client:
            await client.set("data_2", json.dumps([12, "Test 12"]))
        result = await lab.read()
        assert result.reports[2].status is Status.REJECTED
        assert "WRONGTYPE" in (result.reports[2].error or "")
