"""The truth of a lab: rows from anything row-like, checked before a server sees them."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import RangeError, UsageError
from labkit.lab.truth import as_rows, by_shard, one_row, truth, with_row, without_row
from labkit.router import CLASSIC, RangeRouter
from labkit.tables import SCHEMA

PAIRS = [(1, "a"), (11, None), (25, "")]


def shares(router, rows):
    """The rows of each shard as Python objects."""
    return {shard: as_rows(table) for shard, table in by_shard(router, truth(router, rows)).items()}


def test_no_rows_given_is_a_row_for_every_id():
    """`rows=None` gives "Test <id>" for every ID that the router owns, ascending."""
    assert as_rows(truth(CLASSIC, None)) == [(i, f"Test {i}") for i in range(1, 61)]


@pytest.mark.parametrize(
    "rows",
    [
        PAIRS,
        PAIRS[::-1],
        dict(PAIRS),
        (list(pair) for pair in PAIRS),
        pd.DataFrame(PAIRS, columns=["id", "name"]),
        pd.DataFrame({"name": ["", "a", np.nan], "id": [25, 1, 11]}, index=[7, 8, 9]),
        pd.DataFrame({"name": ["", "a", np.nan]}, index=pd.Index([25, 1, 11], name="id")),
        pd.DataFrame({"id": [1, 11, 25], "name": pd.array(["a", pd.NA, ""], dtype="string")}),
        pa.table({"name": ["", "a", None], "id": pa.array([25, 1, 11], pa.int32())}),
        pa.record_batch({"id": pa.array([25, 1, 11], pa.uint8()), "name": ["", "a", None]}),
    ],
    ids=[
        "pairs",
        "descending",
        "mapping",
        "generator",
        "frame",
        "shuffled frame",
        "frame with its key as index",
        "frame with NA",
        "table",
        "batch",
    ],
)
def test_rows_may_come_as_pairs_mapping_or_frame(rows):
    """The order of rows and columns, and the width of integers, do not matter; NULL and empty stay distinct."""
    table = truth(CLASSIC, rows)
    assert as_rows(table) == PAIRS
    assert table.schema.equals(SCHEMA)


@pytest.mark.parametrize(
    "rows", [[], {}, pd.DataFrame({"id": [], "name": []}, dtype=object)], ids=["list", "dict", "frame"]
)
def test_no_rows_at_all_is_an_empty_truth(rows):
    """An empty truth has the columns and types of a full one."""
    table = truth(CLASSIC, rows)
    assert table.num_rows == 0
    assert table.schema.equals(truth(CLASSIC, None).schema)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1, "a"), (1, "b")], "id 1 is there twice"),
        ([("1", "a")], "id '1' is not an integer"),
        ([(1.0, "a")], "id 1.0 is not an integer"),
        ([(True, "a")], "id True is not an integer"),
        ([(None, "a")], "NULL"),
        ([(1, "a"), ("2", "b")], "unique integer ids"),
        ([(1, b"a")], "name b'a' is not text"),
        ([(1, 5)], "name 5 is not text"),
        ([(2**63, "a")], "64 bits"),
        ([(1,)], "pair"),
        ([()], "pairs"),
        ([(1, "a", "x")], "pair"),
        ([1, 2], "pairs"),
        (5, "pairs"),
        ([(61, "a")], "no shard owns id 61"),
        ([(1, "a"), (-3, "b")], "no shard owns id -3"),
        (pd.DataFrame({"name": ["a"]}), "rows of a lab need the column id, their key: they have name"),
        (pd.DataFrame({"id": [1.0, 2.5], "name": ["a", "b"]}), "the key id must be integers without NULL, not double"),
        (pd.DataFrame({"id": [1.0, np.nan], "name": ["a", "b"]}), "without NULL, not NULL in row 1: cast it to int64"),
        (pd.DataFrame({"id": ["1"]}), "the key id must be integers without NULL, not string: cast it to int64"),
        (pd.DataFrame({"id": [True]}), "the key id must be integers without NULL, not bool: cast it to int64"),
        (pd.DataFrame({"id": [2**63]}), "id cannot be"),
        (pd.DataFrame({"id": [1, 1]}), "id 1 is there twice"),
        (pd.DataFrame([[1, 2, 3]], columns=["id", "a", "a"]), "two columns named a: rename one"),
        (pd.DataFrame({"id": [1], 7: [2]}), "have texts for names, not 7: rename the column"),
        (pd.DataFrame({"id": [1], "tags": [{"a": 1}]}), "column tags cannot be loaded: struct<a: int64> is not"),
        (pd.DataFrame({"id": [1], "tags": [[[1]]]}), "column tags cannot be loaded: list<item: list<item: int64>>"),
        (pd.DataFrame({"id": [1], "x": [1 + 2j]}), "column x cannot be loaded: Unsupported numpy type"),
        (pd.DataFrame({"id": [1, 2], "note": ["a", 1]}), "column note cannot be loaded: Expected bytes, got a 'int'"),
        (pd.DataFrame({"id": [1], "took": [pd.Timedelta(1, "s")]}), "make it a number, for example with .dt.total_sec"),
        (
            pd.DataFrame({"id": [1], "at": pd.to_datetime([1])}),
            "column at cannot be loaded: Casting from timestamp[ns]",
        ),
        (pd.DataFrame({"id": [1], "at": pd.to_datetime([1])}), "round it to microseconds, for example with .dt.floor"),
        (
            pa.table({"id": [1], "d": pa.array([1], pa.decimal256(60, 2))}),
            "column d cannot be loaded: decimal256(60, 2)",
        ),
        (pa.table([[1], [2]], names=["id", "id"]), "two columns named id"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_rows_that_no_correct_shard_could_hold_are_refused(rows, said):
    """Wrong rows are a `UsageError` before any server is started."""
    with pytest.raises(UsageError) as caught:
        truth(CLASSIC, rows)
    assert said in str(caught.value)


@pytest.mark.parametrize("last", [10_000_001, INT64_MAX])
def test_a_router_too_large_to_fill_asks_for_rows(last):
    """More than ten million IDs require `rows=`: memory is not filled with made-up rows."""
    with pytest.raises(UsageError, match="pass rows="):
        truth(RangeRouter({1: [(1, last)]}), None)


def test_a_router_of_all_ids_asks_for_rows():
    """All 2**64 IDs require `rows=` too, though `len` cannot count them."""
    with pytest.raises(UsageError, match="pass rows="):
        truth(RangeRouter({1: [(INT64_MIN, INT64_MAX)]}), None)


def test_any_table_keeps_its_columns_in_the_types_that_reads_return():
    """pandas' usual types become Arrow's; NaN, NaT and NA become NULL; the key comes first, rows ascend."""
    when = dt.datetime(2024, 2, 29, 12, 0, 0, 123456)
    frame = pd.DataFrame(
        {
            "amount": [Decimal("9.50"), None, Decimal("-100.25")],
            "order_id": [25, 1, 11],
            "text": pd.Series(["a", None, "c"], dtype=object),
            "at": pd.to_datetime([when, pd.NaT, when]).astype("datetime64[ns]"),
            "zoned": pd.to_datetime([when, pd.NaT, when])
            .tz_localize("Europe/Paris")
            .astype("datetime64[ns, Europe/Paris]"),
            "ratio": [0.5, np.nan, np.inf],
            "kind": pd.Series(["x", "y", None], dtype="category"),
            "count": pd.array([1, None, 3], dtype="Int64"),
            "small": np.array([1, 2, 3], "int8"),
            "narrow": np.array([0.5, 1, 2], "float32"),
            "ok": [True, False, True],
            "maybe": pd.Series([True, None, False], dtype=object),
            "tags": [["a", None], None, []],
            "day": [dt.date(2024, 2, 29), None, dt.date(1, 1, 1)],
            "raw": [b"\0", None, b""],
            "who": [uuid.UUID(int=5), None, uuid.UUID(int=6)],
            "nothing": [None, None, None],
        }
    )
    table = truth(CLASSIC, frame, "order_id")
    assert dict(zip(table.schema.names, map(str, table.schema.types), strict=True)) == {
        "order_id": "int64",
        "amount": "decimal128(38, 2)",
        "text": "large_string",
        "at": "timestamp[us]",
        "zoned": "timestamp[us, tz=UTC]",
        "ratio": "double",
        "kind": "large_string",
        "count": "int64",
        "small": "int16",
        "narrow": "float",
        "ok": "bool",
        "maybe": "bool",
        "tags": "list<item: large_string>",
        "day": "date32[day]",
        "raw": "large_binary",
        "who": "large_string",
        "nothing": "large_string",
    }
    first, _, last = table.to_pylist()
    assert {name: value for name, value in first.items() if value is not None} == {
        "order_id": 1,
        "kind": "y",
        "small": 2,
        "narrow": 1.0,
        "ok": False,
    }
    assert (last["order_id"], last["amount"], last["at"], last["tags"]) == (25, Decimal("9.50"), when, ["a", None])
    assert last["zoned"] == when.replace(tzinfo=dt.timezone(dt.timedelta(hours=1)))


def test_nan_in_an_arrow_table_is_a_number():
    """Arrow tells NaN from NULL, and so does a lab."""
    table = truth(CLASSIC, pa.table({"id": [1, 2], "x": [float("nan"), None]}))
    assert [repr(value) for value in table["x"].to_pylist()] == ["nan", "None"]


@pytest.mark.parametrize("key", ["", None, 5])
def test_a_key_is_the_name_of_a_column(key):
    """Anything but a name is refused."""
    with pytest.raises(UsageError, match="key must be the name of a column, not"):
        truth(CLASSIC, None, key)


def test_pairs_may_have_a_key_of_another_name():
    """Rows that are made up, or given as pairs, have their key under the name asked for."""
    assert truth(CLASSIC, [(1, "a")], "order_id").to_pylist() == [{"order_id": 1, "name": "a"}]


def test_by_shard_splits_the_truth():
    """Every row is in its owner's share, as a pair, ascending; NULL is None."""
    assert shares(CLASSIC, PAIRS) == {1: [(1, "a")], 2: [(11, None)], 3: [(25, "")]}


def test_by_shard_holds_shards_without_rows():
    """A shard without rows has an empty share, so its table is still created."""
    assert shares(CLASSIC, []) == {1: [], 2: [], 3: []}


def test_the_shares_make_up_the_truth():
    """No row is lost or duplicated; IDs and names are plain Python types, as drivers require."""
    rows = [row for share in shares(CLASSIC, None).values() for row in share]
    assert sorted(rows) == [(i, f"Test {i}") for i in range(1, 61)]
    assert {(type(row_id), type(name)) for row_id, name in rows} == {(int, str)}


def test_large_ids_are_not_rounded():
    """IDs beyond 2**53 survive unchanged, from a DataFrame too."""
    router = RangeRouter({1: [(0, INT64_MAX)]})
    rows = [(2**53 + 1, "a"), (INT64_MAX, "b")]
    assert shares(router, rows) == {1: rows}
    assert shares(router, pd.DataFrame(rows, columns=["id", "name"])) == {1: rows}


ORDERS = pa.schema(
    [
        ("order_id", pa.int64()),
        ("amount", pa.decimal128(12, 2)),
        ("note", pa.large_string()),
        ("count", pa.int32()),
        ("tags", pa.list_(pa.large_string())),
    ]
)


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ({"order_id": 12, "amount": Decimal("9.5")}, (Decimal("9.50"), None, None, None)),
        ({"note": "n", "order_id": np.int64(12), "tags": ["a", None]}, (None, "n", None, ["a", None])),
        ((12, None, "n", 5, []), (None, "n", 5, [])),
        ([12, Decimal("-1"), None, 0, None], (Decimal("-1.00"), None, 0, None)),
    ],
)
def test_a_row_to_write_may_be_a_mapping_or_a_sequence(row, values):
    """A mapping may leave columns out, which are NULL; a sequence has all of them, in order."""
    assert one_row(row, ORDERS).to_pylist() == [dict(zip(ORDERS.names, (12, *values), strict=True))]


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        (5, UsageError, "a row is a mapping, or a sequence of order_id, amount, note, count, tags, not 5"),
        ("12", UsageError, "a row is a mapping, or a sequence of"),
        ((), UsageError, r"a row needs its key, order_id: \(\)"),
        ({"amount": None}, UsageError, "a row needs its key, order_id"),
        ((12, "x"), UsageError, r"a row has 5 values \(order_id, amount, note, count, tags\), not \(12, 'x'\)"),
        ({"order_id": 12, "amonut": 1}, UsageError, "the table has no column amonut: it has order_id, amount"),
        ({"order_id": "12"}, RangeError, "an ID must be an integer, not '12'"),
        (
            {"order_id": 12, "amount": 9.5},
            UsageError,
            r"the amount of a row must be decimal128\(12, 2\) or None, not 9.5",
        ),
        ({"order_id": 12, "amount": Decimal("0.005")}, UsageError, "the amount of a row must be"),
        ({"order_id": 12, "note": 5}, UsageError, "the note of a row must be text or None, not 5"),
        ({"order_id": 12, "note": "\ud800"}, UsageError, "the note of a row must be text or None, not"),
        ({"order_id": 12, "count": True}, UsageError, "the count of a row must be int32 or None, not True"),
        ({"order_id": 12, "count": 1.0}, UsageError, "the count of a row must be int32 or None, not 1.0"),
        ({"order_id": 12, "count": 2**31}, UsageError, "the count of a row must be int32 or None, not 2147483648"),
        ({"order_id": 12, "tags": "a"}, UsageError, "the tags of a row must be list<item: large_string> or None"),
    ],
)
def test_a_wrong_row_to_write_is_refused(row, error, said):
    """One line names the value or the column, before anything is written."""
    with pytest.raises(error, match=said):
        one_row(row, ORDERS)


def test_rows_are_written_and_deleted_in_their_order():
    """A row replaces the one with its key, or takes its place between its neighbours; none other changes."""
    table = truth(CLASSIC, [(1, "a"), (3, "c")])
    table = with_row(table, one_row((2, "b"), table.schema))
    table = with_row(table, one_row((3, "new"), table.schema))
    assert as_rows(table) == [(1, "a"), (2, "b"), (3, "new")]
    assert as_rows(without_row(without_row(table, 1), 9)) == [(2, "b"), (3, "new")]
