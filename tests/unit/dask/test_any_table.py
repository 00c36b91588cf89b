"""`labkit.dask.read` of a table with any columns: the same as a reader's, and never a silently mended partition."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import dask
import pandas as pd
import pyarrow as pa
import pytest

import labkit.dask
from labkit import RangeRouter, ShardReader, errors
from labkit.errors import LabkitError, UsageError
from labkit.shards import MemoryShard
from tests.unit.dask.test_dask import topology

NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
ROUTER = RangeRouter({1: [(1, 10)], 2: [(11, 20)], 3: [(21, 30)]})


def orders(low: int) -> pa.Table:
    """Ten orders of many types; every third is NULL but for its ID."""
    ids = range(low, low + 10)

    def some(kind: pa.DataType, value: Any) -> pa.Array:
        return pa.array([None if i % 3 == 0 else value(i) for i in ids], kind)

    return pa.table(
        {
            "order id": pa.array(ids, pa.int64()),
            "amount": some(pa.decimal128(12, 2), lambda i: Decimal(i * 100 + 5) / 100),
            "number": some(pa.int32(), lambda i: i),
            "at": some(pa.timestamp("us", "UTC"), lambda i: NOON + dt.timedelta(hours=i)),
            "note": some(pa.large_string(), lambda i: "" if i % 2 else "é"),
            "tags": some(pa.list_(pa.large_string()), lambda i: ["a", None]),
            "paid": some(pa.bool_(), lambda i: i % 2 == 0),
        }
    )


@pytest.fixture
def shards() -> dict[Any, MemoryShard]:
    return {1: MemoryShard(orders(1)), 2: MemoryShard(orders(11)), 3: MemoryShard(orders(21))}


async def test_every_type_is_as_a_reader_has_it(shards: dict[Any, MemoryShard]) -> None:
    """The key, by its own name, is the index; the types are known before anything is computed, and hold afterwards."""
    frame = labkit.dask.read(topology(ROUTER, shards))
    found = frame.compute()
    expected = (await ShardReader(ROUTER, shards).read()).frame.set_index("order id")
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_series_equal(frame.dtypes, expected.dtypes)
    assert frame["number"].sum().compute() == expected["number"].sum()


def test_columns_and_filters(shards: dict[Any, MemoryShard]) -> None:
    """Both are asked of each shard; the frame has the columns in the order given."""
    wanted: dict[str, Any] = {"columns": ["note", "amount"], "filters": [("number", ">", 8), ("paid", "=", True)]}
    frame = labkit.dask.read(topology(ROUTER, shards), **wanted)
    assert list(frame.columns) == ["note", "amount"]
    assert frame.compute().index.tolist() == [i for i in range(9, 31) if i % 2 == 0 and i % 3]
    assert frame.loc[:10].compute()["amount"].tolist() == [Decimal("10.05")]


@pytest.mark.parametrize(
    ("column", "change", "why"),
    [
        ("note", lambda table: table.drop_columns(["note"]), "note is missing"),
        ("note", lambda table: table.rename_columns({"note": "remark"}), "note is missing, remark is extra"),
        ("number", lambda table: table.set_column(2, "number", pa.array(["x"] * 10)), "number is string, not int32"),
        (None, lambda table: table.append_column("new", pa.array([1] * 10)), "new is extra"),
    ],
)
@pytest.mark.parametrize("columns", [None, ["number", "note"]])
def test_a_shard_with_other_columns_is_a_gap(
    shards: dict[Any, MemoryShard], column: str | None, change: Any, why: str, columns: list[str] | None
) -> None:
    """The others hold, as in a read of all shards: its ranges are missing, with the difference as their cause. Columns
    that were not asked for do not matter.
    """
    shards[2].rows = change(shards[2].rows)
    rows, gaps = labkit.dask.read(topology(ROUTER, shards), columns=columns, missing="report")
    found, lost = dask.compute(rows, gaps)
    if column is None and columns is not None:
        assert (len(found), len(lost)) == (30, 0)
        return
    assert found.index.tolist() == [*range(1, 11), *range(21, 31)]
    assert lost.reset_index()[["low", "high", "shard", "status"]].to_numpy().tolist() == [[11, 20, 2, "invalid"]]
    assert columns is not None or why in lost["cause"].iloc[0]
    assert str(column or "new") in lost["cause"].iloc[0]
    with pytest.raises(errors.IncompleteRead, match="11-20"):
        labkit.dask.read(topology(ROUTER, shards), columns=columns).compute()


def test_a_declared_schema_needs_no_shard(shards: dict[Any, MemoryShard]) -> None:
    """With it no shard is asked for its columns, so one that is down is only a gap."""

    async def never(deadline: float) -> pa.Schema:
        raise AssertionError("asked")

    schema = orders(1).schema
    for shard in shards.values():
        shard.describe = never  # type: ignore[method-assign]
    shards[2].error = ConnectionRefusedError("refused")
    rows, gaps = labkit.dask.read(topology(ROUTER, shards), schema=schema, missing="report")
    found, lost = dask.compute(rows, gaps)
    assert (len(found), lost.index.tolist()) == (20, [11])
    with pytest.raises(LabkitError, match="no shard says which columns the table has: pass schema="):
        labkit.dask.read(topology(ROUTER, shards), timeout=0.1)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"columns": ["amont"]}, "unknown column 'amont'; did you mean amount?"),
        ({"columns": "amount"}, "columns must be a list of different names"),
        ({"filters": [("amont", ">", 1)]}, "unknown column 'amont'; did you mean amount?"),
        ({"filters": [("amount", ">", "much")]}, r"the filter on amount \(decimal128\(12, 2\)\)"),
        ({"schema": ["id"]}, "schema must be a pyarrow.Schema, the key first"),
    ],
)
def test_a_mistake_is_one_line(shards: dict[Any, MemoryShard], wanted: dict[str, Any], words: str) -> None:
    """It is raised before any task is made."""
    with pytest.raises(UsageError, match=words):
        labkit.dask.read(topology(ROUTER, shards), **wanted)
