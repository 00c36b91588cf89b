"""The truth of a lab: rows from anything row-like, checked before a server sees them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import UsageError
from labkit.lab.truth import by_shard, truth
from labkit.router import CLASSIC, RangeRouter

PAIRS = [(1, "a"), (11, None), (25, "")]


def pairs(frame):
    """The rows of a DataFrame, with NA as None."""
    names = frame["name"].astype(object).where(frame["name"].notna(), None)
    return list(zip(frame["id"].tolist(), names.tolist(), strict=True))


def test_no_rows_given_is_a_row_for_every_id():
    """`rows=None` gives "Test <id>" for every ID that the router owns, ascending."""
    assert pairs(truth(CLASSIC, None)) == [(i, f"Test {i}") for i in range(1, 61)]


@pytest.mark.parametrize(
    "rows",
    [
        PAIRS,
        PAIRS[::-1],
        dict(PAIRS),
        (list(pair) for pair in PAIRS),
        pd.DataFrame(PAIRS, columns=["id", "name"]),
        pd.DataFrame({"name": ["", "a", np.nan], "other": 0, "id": [25, 1, 11]}, index=[7, 8, 9]),
        pd.DataFrame({"id": [1, 11, 25], "name": pd.array(["a", pd.NA, ""], dtype="string")}),
    ],
    ids=["pairs", "descending", "mapping", "generator", "frame", "shuffled frame", "frame with NA"],
)
def test_rows_may_come_as_pairs_mapping_or_frame(rows):
    """Order, index and further columns do not matter; NULL and empty stay distinct."""
    frame = truth(CLASSIC, rows)
    assert pairs(frame) == PAIRS
    assert frame["id"].dtype == "int64"
    assert isinstance(frame.index, pd.RangeIndex)


@pytest.mark.parametrize("rows", [[], {}, pd.DataFrame({"id": [], "name": []})], ids=["list", "dict", "frame"])
def test_no_rows_at_all_is_an_empty_truth(rows):
    """An empty truth has the columns and types of a full one."""
    frame = truth(CLASSIC, rows)
    assert len(frame) == 0
    assert frame.dtypes.to_dict() == truth(CLASSIC, None).dtypes.to_dict()


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
        (pd.DataFrame({"id": [1]}), "'name' is missing"),
        (pd.DataFrame({"name": ["a"]}), "'id' is missing"),
        (pd.DataFrame({"id": [1.0, np.nan], "name": ["a", "b"]}), "id 1.0 is not an integer"),
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


def test_by_shard_splits_the_truth():
    """Every row is in its owner's share, as a pair, ascending; NULL is None."""
    assert by_shard(CLASSIC, truth(CLASSIC, PAIRS)) == {1: [(1, "a")], 2: [(11, None)], 3: [(25, "")]}


def test_by_shard_holds_shards_without_rows():
    """A shard without rows has an empty share, so its table is still created."""
    assert by_shard(CLASSIC, truth(CLASSIC, [])) == {1: [], 2: [], 3: []}


def test_the_shares_make_up_the_truth():
    """No row is lost or duplicated; IDs and names are plain Python types, as drivers require."""
    shares = by_shard(CLASSIC, truth(CLASSIC, None))
    rows = [row for share in shares.values() for row in share]
    assert sorted(rows) == [(i, f"Test {i}") for i in range(1, 61)]
    assert {(type(row_id), type(name)) for row_id, name in rows} == {(int, str)}


def test_large_ids_are_not_rounded():
    """IDs beyond 2**53 survive the DataFrame unchanged."""
    router = RangeRouter({1: [(0, INT64_MAX)]})
    rows = [(2**53 + 1, "a"), (INT64_MAX, "b")]
    assert by_shard(router, truth(router, rows)) == {1: rows}
