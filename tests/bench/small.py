"""Small reads, 20 rows per shard of 3 to 100 Postgres shards, where the overhead per read counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from tests.bench.task import DATABASE, USER, Contestant, Ready, Task
from tests.bench.truth import Proof, of_frame, of_table, spans

__all__ = ["CONTESTANTS", "ROWS", "timed"]

ROWS = 20
"""Rows per shard."""
TIMEOUT = 10.0

Read: TypeAlias = Callable[[], Awaitable[Any]]


def _tables(task: Task) -> list[tuple[str, str]]:
    """The server and the table of each shard."""
    return [(task.places[i % len(task.places)], f"{task.table}_{i + 1}") for i in range(task.shards)]


def _select(table: str) -> str:
    return f"SELECT id, name FROM {table} ORDER BY id"


async def timed(read: Read, count: int) -> tuple[list[float], Any]:
    """Reads `count` times in a row; returns the seconds of each read and the last answer."""
    seconds, answer = [], None
    for _ in range(count):
        began = time.perf_counter()
        answer = await read()
        seconds.append(time.perf_counter() - began)
    return seconds, answer


@contextmanager
def _on_a_loop(opened: Any, prove: Callable[[Any], Proof]) -> Iterator[Ready]:
    """Enters the async context manager `opened`, which gives a read, on one loop; reads once to warm up."""
    with asyncio.Runner() as runner:
        read: Read = runner.run(opened.__aenter__())
        runner.run(timed(read, 1))
        yield Ready(burst=lambda count: runner.run(timed(read, count)), prove=prove)
        runner.run(opened.__aexit__(None, None, None))


def _of_rows(answers: Any) -> Proof:
    """The proof of lists of rows, one per shard, sorted first since they were only gathered, not merged."""
    import pandas as pd

    rows = sorted(tuple(row) for rows in answers for row in rows)
    return of_frame(pd.DataFrame(rows, columns=["id", "name"]))


@asynccontextmanager
async def _asyncpg(task: Task) -> AsyncIterator[Read]:
    import asyncpg

    async def one(place: str) -> Any:
        return await asyncpg.connect(host=place, user=USER, database=DATABASE)

    pairs = [(await one(place), _select(table)) for place, table in _tables(task)]
    yield lambda: asyncio.gather(*(connection.fetch(sql) for connection, sql in pairs))
    for connection, _ in pairs:
        await connection.close()


@asynccontextmanager
async def _sqlalchemy(task: Task) -> AsyncIterator[Read]:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

    pairs = [
        (
            create_async_engine(
                f"postgresql+asyncpg://{USER}@/{DATABASE}?host={place}", isolation_level="AUTOCOMMIT", pool_size=1
            ),
            sa.text(_select(table)),
        )
        for place, table in _tables(task)
    ]

    async def one(engine: AsyncEngine, statement: sa.TextClause) -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(statement)).all()

    yield lambda: asyncio.gather(*(one(engine, statement) for engine, statement in pairs))
    for engine, _ in pairs:
        await engine.dispose()


@asynccontextmanager
async def _labkit(task: Task, frame: bool) -> AsyncIterator[Read]:
    from labkit import RangeRouter, ShardReader
    from labkit.shards import PostgresShard

    urls = [(f"postgresql+asyncpg://{USER}@/{DATABASE}?host={place}", table) for place, table in _tables(task)]
    shards = {number: PostgresShard(url, table) for number, (url, table) in enumerate(urls, start=1)}

    async def read() -> Any:
        result = (await reader.read()).raise_for_missing()
        return result.frame if frame else result.table

    async with ShardReader(RangeRouter(spans(task.rows, task.shards)), shards, timeout=TIMEOUT) as reader:
        yield read


@contextmanager
def asyncpg(task: Task) -> Iterator[Ready]:
    """The floor: `asyncio.gather` of one `fetch` per shard on open connections; nothing is merged."""
    with _on_a_loop(_asyncpg(task), _of_rows) as ready:
        yield ready


@contextmanager
def sqlalchemy(task: Task) -> Iterator[Ready]:
    """The same with SQLAlchemy on asyncpg, AUTOCOMMIT, one pool per shard; nothing is merged."""
    with _on_a_loop(_sqlalchemy(task), _of_rows) as ready:
        yield ready


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`await reader.read()`: a checked and merged Arrow table."""
    with _on_a_loop(_labkit(task, frame=False), of_table) as ready:
        yield ready


@contextmanager
def labkit_frame(task: Task) -> Iterator[Ready]:
    """`(await reader.read()).frame`."""
    with _on_a_loop(_labkit(task, frame=True), of_frame) as ready:
        yield ready


@contextmanager
def read_sql(task: Task) -> Iterator[Ready]:
    """pandas.read_sql on SQLAlchemy with psycopg, one shard after another, concat and sort."""
    import pandas as pd
    import psycopg  # noqa: F401 - if missing, it is reported by name
    import sqlalchemy as sa

    with ExitStack() as stack:
        pairs = []
        for place, table in _tables(task):
            engine = sa.create_engine(f"postgresql+psycopg://{USER}@/{DATABASE}?host={place}")
            pairs.append((stack.enter_context(engine.connect()), sa.text(_select(table))))

        async def read() -> Any:
            frames = [pd.read_sql(statement, connection) for connection, statement in pairs]
            return pd.concat(frames).sort_values("id", ignore_index=True)

        asyncio.run(timed(read, 1))
        yield Ready(burst=lambda count: asyncio.run(timed(read, count)), prove=of_frame)


CONTESTANTS: dict[str, Contestant] = {
    "floor": asyncpg,
    "labkit": labkit,
    "labkit_frame": labkit_frame,
    "sqlalchemy": sqlalchemy,
    "read_sql": read_sql,
}
