"""Loads rows into the servers, generated on the server where possible."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from labkit.shards.redis.layouts.sorted_set import SortedSet
from tests.bench.task import DATABASE, USER
from tests.bench.truth import START, name_of, spans

__all__ = ["federate", "load_many", "load_redis", "load_table", "load_wide", "versions"]

PIPE = 20
"""Commands sent to Redis at a time."""
HOUR = 3600.0


async def load_table(places: Sequence[str], table: str, rows: int) -> None:
    """Creates a table on each server with its share of IDs 1 to `rows`, vacuumed and analyzed."""
    async with asyncio.TaskGroup() as group:
        for place, ranges in zip(places, spans(rows, len(places)).values(), strict=True):
            group.create_task(_run(place, [*_creation(table, ranges), f"VACUUM ANALYZE {table}"]))


async def load_wide(places: Sequence[str], table: str, rows: int) -> None:
    """Likewise a table of eight columns, `truth.WIDE`, of which the last has NULLs."""
    async with asyncio.TaskGroup() as group:
        for place, ranges in zip(places, spans(rows, len(places)).values(), strict=True):
            inserts = [
                f"INSERT INTO {table} SELECT i, i % 1000, i / 3.0::float8, i::bigint * 37 % 1000000 / 100.0, "
                f"to_timestamp({START} + i), i % 2 = 0, 'Test ' || i, CASE WHEN i % 3 > 0 THEN 'note ' || i END "
                f"FROM generate_series({low}, {high}) AS i"
                for low, high in ranges
            ]
            creation = (
                f"CREATE TABLE {table} (order_id bigint, pieces int, ratio double precision, amount numeric(12,2), "
                "created_at timestamptz, late boolean, customer text, note text)"
            )
            index = f"ALTER TABLE {table} ADD PRIMARY KEY (order_id)"
            group.create_task(_run(place, [creation, *inserts, index, f"VACUUM ANALYZE {table}"]))


async def load_many(places: Sequence[str], table: str, rows: int, shards: int) -> None:
    """The same for more shards than servers: tables `table`_1, `table`_2, … spread over the servers in turn."""
    of_place: dict[str, list[str]] = {place: [] for place in places}
    for shard, ranges in spans(rows, shards).items():
        of_place[places[(shard - 1) % len(places)]] += _creation(f"{table}_{shard}", ranges)
    async with asyncio.TaskGroup() as group:
        for place, statements in of_place.items():
            group.create_task(_run(place, [*statements, "VACUUM ANALYZE"]))


async def federate(federated: str, places: Sequence[str], table: str) -> None:
    """Creates a view `table` on the server `federated` of the tables on all `places`."""
    pieces = []
    statements = ["CREATE EXTENSION IF NOT EXISTS postgres_fdw"]
    for number, place in enumerate(places, start=1):
        server = f"shard_{number}"
        where = f"host '{place}', port '5432', dbname '{DATABASE}', fetch_size '10000', use_remote_estimate 'true'"
        statements += [
            f"CREATE SERVER IF NOT EXISTS {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({where})",
            f"CREATE USER MAPPING IF NOT EXISTS FOR {USER} SERVER {server} OPTIONS (user '{USER}')",
            f"CREATE FOREIGN TABLE {table}_{number} (id INT NOT NULL, name VARCHAR(255)) SERVER {server} "
            f"OPTIONS (table_name '{table}')",
        ]
        pieces.append(f"SELECT id, name FROM {table}_{number}")
    await _run(federated, [*statements, f"CREATE VIEW {table} AS {' UNION ALL '.join(pieces)}"])


async def load_redis(places: Sequence[str], key: str, rows: int) -> None:
    """Creates a sorted set on each server with its share of IDs 1 to `rows`, in labkit's layout."""
    for place, ranges in zip(places, spans(rows, len(places)).values(), strict=True):
        ids = (row_id for low, high in ranges for row_id in range(low, high + 1))
        await asyncio.to_thread(_fill, place, key, ((row_id, name_of(row_id)) for row_id in ids))


async def versions(postgres: str | None, federated: str | None, redis: str | None) -> dict[str, str]:
    """The versions that the servers report."""
    said = {}
    if postgres:
        said["Postgres"] = await _version(postgres)
    if federated:
        said["Postgres with postgres_fdw"] = await _version(federated)
    if redis:
        from redis import Redis

        with Redis(unix_socket_path=redis) as client:
            information: Any = client.info("server")
            said["Redis"] = information["redis_version"]
    return said


def _creation(table: str, ranges: Iterable[tuple[int, int]]) -> list[str]:
    inserts = [
        f"INSERT INTO {table} SELECT i, 'Test ' || i FROM generate_series({low}, {high}) AS i" for low, high in ranges
    ]
    # Building the index after the inserts takes a fraction of the time.
    return [f"CREATE TABLE {table} (id INT, name VARCHAR(255))", *inserts, f"ALTER TABLE {table} ADD PRIMARY KEY (id)"]


async def _run(place: str, statements: Iterable[str]) -> None:
    import asyncpg

    connection = await asyncpg.connect(host=place, user=USER, database=DATABASE, command_timeout=HOUR)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        connection.terminate()


async def _version(place: str) -> str:
    import asyncpg

    connection = await asyncpg.connect(host=place, user=USER, database=DATABASE)
    try:
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        connection.terminate()


def _fill(place: str, key: str, rows: Iterable[tuple[int, str]]) -> None:
    from redis import Redis

    with Redis(unix_socket_path=place) as client:
        pipe = client.pipeline(transaction=False)
        for number, words in enumerate(SortedSet().write(key, rows), start=1):
            pipe.execute_command(*words)
            if number % PIPE == 0:
                pipe.execute()
        pipe.execute()
