"""Other ways a user would pick to get all rows of three Postgres shards into one sorted DataFrame.

Each queries the three servers in three threads without ORDER BY and sorts at the end, its fastest way. Those whose
interface cannot keep a connection open have their connecting timed too, which takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote

from tests.bench.bulk import frame_bytes
from tests.bench.task import DATABASE, USER, Contestant, Ready, Task

__all__ = ["CONTESTANTS"]


def _select(task: Task, few: bool = False) -> str:
    return f"SELECT {task.columns} FROM {task.table}" + " LIMIT 1" * few


def _uri(place: str) -> str:
    """A URL for libpq."""
    return f"postgresql://{USER}@/{DATABASE}?host={place}"


def _engine_url(place: str) -> str:
    """A URL for SQLAlchemy with psycopg."""
    return f"postgresql+psycopg://{USER}@/{DATABASE}?host={place}"


def _encoded(place: str) -> str:
    """A URL for parsers that refuse an empty host."""
    return f"postgresql://{USER}@{quote(place, safe='')}/{DATABASE}"


def _sorted(frames: Any, key: str) -> Any:
    import pandas as pd

    return pd.concat(list(frames), ignore_index=True).sort_values(key, ignore_index=True)


def _threefold(one: Callable[[Any, str], Any], sources: list[Any], task: Task) -> Iterator[Ready]:
    """Calls `one(source, sql)`, which returns a shard's frame, for all shards in threads; then concat and sort."""
    with ThreadPoolExecutor(len(sources)) as pool:

        def read(few: bool = False) -> Any:
            sql = _select(task, few)
            return _sorted(pool.map(lambda source: one(source, sql), sources), task.key)

        read(few=True)
        yield Ready(read, figures=frame_bytes)


@contextmanager
def adbc(task: Task) -> Iterator[Ready]:
    """ADBC: Arrow tables, concatenated and sorted, then converted to one DataFrame."""
    import adbc_driver_postgresql.dbapi as driver
    import pyarrow as pa

    def one(connection: Any, sql: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()

    with ExitStack() as stack, ThreadPoolExecutor(len(task.places)) as pool:
        connections = [stack.enter_context(driver.connect(_uri(place))) for place in task.places]

        def read(few: bool = False) -> Any:
            tables = list(pool.map(lambda connection: one(connection, _select(task, few)), connections))
            return pa.concat_tables(tables).sort_by(task.key).to_pandas()

        read(few=True)
        yield Ready(read, figures=frame_bytes)


@contextmanager
def read_sql_adbc(task: Task) -> Iterator[Ready]:
    """pandas.read_sql on ADBC connections."""
    import adbc_driver_postgresql.dbapi as driver
    import pandas as pd

    with ExitStack() as stack:
        connections = [stack.enter_context(driver.connect(_uri(place))) for place in task.places]
        yield from _threefold(lambda connection, sql: pd.read_sql(sql, connection), connections, task)


@contextmanager
def read_sql(task: Task) -> Iterator[Ready]:
    """pandas.read_sql on SQLAlchemy connections with psycopg."""
    import pandas as pd
    import psycopg  # noqa: F401 - if missing, it is reported by name
    import sqlalchemy as sa

    with ExitStack() as stack:
        engines = [sa.create_engine(_engine_url(place)) for place in task.places]
        connections = [stack.enter_context(engine.connect()) for engine in engines]
        yield from _threefold(lambda connection, sql: pd.read_sql(sa.text(sql), connection), connections, task)


@contextmanager
def polars(task: Task) -> Iterator[Ready]:
    """polars.read_database_uri with its fastest engine, ADBC; sorted by polars, then converted to one DataFrame."""
    import adbc_driver_postgresql  # noqa: F401 - if missing, it is reported by name
    import polars as pl

    with ThreadPoolExecutor(len(task.places)) as pool:

        def read(few: bool = False) -> Any:
            sql = _select(task, few)
            frames = pool.map(lambda place: pl.read_database_uri(sql, _uri(place), engine="adbc"), task.places)
            return pl.concat(list(frames)).sort(task.key).to_pandas()

        read(few=True)
        yield Ready(read, figures=frame_bytes)


@contextmanager
def connectorx(task: Task) -> Iterator[Ready]:
    """connectorx; Arrow is its fastest way to pandas, and two partitions per shard were slower on 2 cores."""
    import connectorx as cx

    def one(place: str, sql: str) -> Any:
        return cx.read_sql(_encoded(place), sql, return_type="arrow").to_pandas()

    yield from _threefold(one, task.places, task)


@contextmanager
def fdw(task: Task) -> Iterator[Ready]:
    """postgres_fdw: a fourth server queries the three and merges in order; ADBC reads from it."""
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(_uri(task.extra["federated"])) as connection:

        def read(few: bool = False) -> Any:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT id, name FROM {task.table} ORDER BY id" + " LIMIT 1" * few)
                return cursor.fetch_arrow_table().to_pandas()

        read(few=True)
        yield Ready(read, figures=frame_bytes)


@contextmanager
def dask(task: Task) -> Iterator[Ready]:
    """One dask.dataframe.read_sql_table per shard, concat, compute, sort."""
    import dask.dataframe as dd
    import psycopg  # noqa: F401 - if missing, it is reported by name

    def read(places: list[str] = task.places, table: str = task.table) -> Any:
        shards = [dd.read_sql_table(table, _engine_url(place), index_col="id", columns=["name"]) for place in places]
        return dd.concat(shards).compute(scheduler="threads").sort_index().reset_index()

    read(table=task.extra["tiny"])
    yield Ready(read, figures=frame_bytes)


CONTESTANTS: dict[str, Contestant] = {
    "adbc": adbc,
    "read_sql_adbc": read_sql_adbc,
    "polars": polars,
    "connectorx": connectorx,
    "fdw": fdw,
    "read_sql": read_sql,
    "dask": dask,
}
