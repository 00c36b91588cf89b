"""How a type checker sees the public API: `make lint` checks this file, and each claim in it can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

import pandas as pd
import pyarrow as pa
from fastapi import FastAPI

from labkit import CLASSIC, Lab, RangeRouter, ReadResult, ShardReader, ShardReport, Status, errors, faults
from labkit.api import create_app
from labkit.dask import read as dask_read
from labkit.matrix import MatrixReport
from labkit.matrix import run as run_matrix
from labkit.shards import MemoryShard, PostgresShard, RedisClusterShard, RedisShard
from labkit.topology import Topology, load


async def reads(reader: ShardReader) -> None:
    """A result and its parts; Arrow tables are untyped."""
    result = await reader.read(1, high=20)
    assert_type(result, ReadResult)
    assert_type(result.frame, pd.DataFrame)
    assert_type(result.missing, tuple[tuple[int, int], ...])
    assert_type(result.complete, bool)
    for report in result.reports.values():
        assert_type(report, ShardReport)
        assert_type(report.status, Status)
        assert_type(report.error, str | None)
        assert_type(report.elapsed, float)
    table: pa.Table = result.table
    assert table.num_rows
    assert_type(result.raise_for_missing(), ReadResult)
    assert_type(result.to_dict(), dict[str, Any])
    assert_type(await reader.get(7), dict[str, Any] | None)
    assert_type(await reader.page(10, after=None), ReadResult)
    async for page in reader.pages(size=10):
        assert_type(page, ReadResult)
    async for batch in reader.stream(batch=1000):
        records: pa.RecordBatch = batch
        assert records.num_rows
    async for now in reader.watch(interval=0.5):
        assert_type(now, ReadResult)
    await reader.read("1")  # type: ignore[arg-type]
    result.complete = True  # type: ignore[misc]
    await reader.raed()  # type: ignore[attr-defined]


def routes() -> RangeRouter:
    """Shard keys may be of any type."""
    router = RangeRouter({1: [(1, 10), (31, 40)], "two": [(11, 20)]})
    assert_type(CLASSIC, RangeRouter)
    assert_type(router.prune(5, 15), dict[Any, tuple[tuple[int, int], ...]])
    RangeRouter([1, 2])  # type: ignore[arg-type]
    return router


async def shards() -> AsyncIterator[ShardReader]:
    """Shards of each kind in one reader, which closes itself."""
    sources = {
        1: MemoryShard([(1, "a"), (2, None)]),
        2: PostgresShard("postgresql+asyncpg://127.0.0.1/test", table="data_2"),
        3: RedisShard("redis://127.0.0.1", key="data_3"),
        4: RedisClusterShard("redis+cluster://127.0.0.1", key="data_4"),
    }
    async with ShardReader(routes(), sources, timeout=2) as reader:
        yield reader
    ShardReader(routes(), {1: object()})  # type: ignore[dict-item]


async def labs() -> None:
    """A lab, with faults on one shard or several."""
    async with Lab("postgres", timeout=0.5) as lab:
        assert_type(lab, Lab)
        assert_type(lab.urls, dict[Any, str])
        assert_type(lab.reader, ShardReader)
        async with lab.fault(2, faults.Latency(20), faults.Kill()):
            assert_type(await lab.read(), ReadResult)
        await lab.fault(2, "Kill")  # type: ignore[misc, arg-type]


async def others(reader: ShardReader) -> None:
    """The entry points outside the core."""
    topology = load("topology.toml")
    assert_type(topology, Topology)
    assert_type(create_app(reader), FastAPI)
    assert_type(await run_matrix(backends=["redis"]), MatrixReport)
    assert dask_read(topology)
    try:
        (await reader.read()).raise_for_missing()
    except errors.IncompleteRead as error:
        assert_type(error.result.frame, pd.DataFrame)


def misspelt() -> None:
    """Names that there are not are errors, although faces import what they have when it is needed."""
    from labkit import Leb  # type: ignore[attr-defined] # noqa: F401
    from labkit.matrix import rum  # type: ignore[attr-defined] # noqa: F401
    from labkit.shards import Postgres  # type: ignore[attr-defined] # noqa: F401
