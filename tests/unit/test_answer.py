"""The contract of an answer: one row that breaks it invalidates the whole answer, and the error names that row."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import check, slices
from labkit.router import to_bounds
from labkit.tables import SCHEMA, InvalidAnswer, to_ids

RANGES = ((1, 10), (31, 40))


@pytest.mark.parametrize(
    "answer",
    [
        [(1, "a"), (10, "b"), (31, "c"), (40, "d")],
        ((5, None), (6, None)),
        [(5, ""), (6, "")],
        [(5, "same"), (6, "same"), (7, "same")],
        [[5, "a"], [6, "b"]],
        [(np.int64(5), "a"), (np.int32(6), "b")],
        [(5, "naïve \U0001f600 \x00 text")],
        [],
    ],
)
def test_a_good_answer_loses_nothing(answer):
    """NULL, empty, repeated and non-ASCII names, lists and numpy IDs come through row by row."""
    table = check(answer, RANGES)
    assert table.schema == SCHEMA
    assert [(row["id"], row["name"]) for row in table.to_pylist()] == [tuple(row) for row in answer]


def test_ids_at_both_ends_of_int64_are_good():
    """The smallest and largest int64 are valid IDs."""
    table = check([(INT64_MIN, "a"), (INT64_MAX, "b")], ((INT64_MIN, INT64_MAX),))
    assert to_ids(table).tolist() == [INT64_MIN, INT64_MAX]


BAD = {
    "duplicate": ([(1, "a"), (2, "b"), (2, "b")], 2, "id 2 is there twice"),
    "duplicate apart": ([(1, "a"), (2, "b"), (1, "a")], 2, "id 1 comes after 2"),
    "unsorted": ([(1, "a"), (5, "b"), (4, "c")], 2, "id 4 comes after 5"),
    "foreign between ranges": ([(1, "a"), (15, "b")], 1, "id 15 is outside"),
    "foreign below": ([(0, "a"), (1, "b")], 0, "id 0 is outside"),
    "foreign above": ([(1, "a"), (41, "b")], 1, "id 41 is outside"),
    "null id": ([(1, "a"), (None, "b")], 1, "NULL"),
    "bool id": ([(True, "a")], 0, "id True is not an integer"),
    "numpy bool id": ([(np.bool_(True), "a")], 0, "id np.True_ is not an integer"),
    "float id": ([(1.0, "a")], 0, "id 1.0 is not an integer"),
    "nan id": ([(float("nan"), "a")], 0, "id nan is not an integer"),
    "text id": ([("1", "a")], 0, "id '1' is not an integer"),
    "decimal id": ([(Decimal(1), "a")], 0, "id Decimal('1') is not an integer"),
    "id above int64": ([(1, "a"), (2**63, "b")], 1, "64 bits"),
    "id below int64": ([(-(2**63) - 1, "a"), (1, "b")], 0, "64 bits"),
    "numpy id above int64": ([(1, "a"), (np.uint64(2**63), "b")], 1, "64 bits"),
    "int name": ([(1, "a"), (2, 7)], 1, "name 7 is not text"),
    "bytes name": ([(1, b"a")], 0, "name b'a' is not text"),
    "float name": ([(1, float("nan"))], 0, "name nan is not text"),
    "lone surrogate": ([(1, "a"), (2, "\ud800")], 1, "Unicode"),
    "one column": ([(1, "a"), (2,)], 1, "not a pair"),
    "three columns": ([(1, "a", "x")], 0, "not a pair"),
    "some three columns": ([(1, "a"), (2, "b", "x")], 1, "not a pair"),
    "not a row": ([(1, "a"), 7], 1, "not a pair"),
}


@pytest.mark.parametrize(("answer", "_position", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_makes_the_answer_invalid(answer, _position, said):
    """Each breach of the contract raises an InvalidAnswer that says what is wrong."""
    with pytest.raises(InvalidAnswer) as caught:
        check(answer, RANGES)
    assert said in str(caught.value)


@pytest.mark.parametrize(("answer", "position", "_said"), BAD.values(), ids=BAD.keys())
def test_the_message_names_the_row(answer, position, _said):
    """The message identifies the row: by its ID, by the row itself, or by its position in the answer (from 0 or 1)."""
    with pytest.raises(InvalidAnswer) as caught:
        check(answer, RANGES)
    row = answer[position]
    names = [repr(row), f"row {position}", f"row {position + 1}"]
    if isinstance(row, tuple) and row[0] is not None:
        names += [f"id {row[0]!r}", f"id {row[0]}"]
    assert any(name in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize("answer", [None, 0, False, 7, {1: "a"}, "ab", object()])
def test_what_is_no_sequence_of_rows_is_invalid(answer):
    """A source that returns something other than rows (a forgotten `return`) has not answered."""
    with pytest.raises(InvalidAnswer):
        check(answer, RANGES)


def test_no_range_was_asked_so_no_row_may_come():
    """With no ranges, an empty answer is valid and any row is foreign."""
    assert check([], ()).num_rows == 0
    with pytest.raises(InvalidAnswer, match="id 1 is outside"):
        check([(1, "a")], ())


def test_slices_are_positions_of_each_range():
    """Each range gets [start, stop) in the ascending IDs; a range without IDs gets an empty slice."""
    ids = np.array([1, 10, 31, 33, 90], dtype=np.int64)
    starts, stops = slices([ids], to_bounds([(1, 10), (11, 30), (31, 40), (41, 60)]))
    assert (starts.tolist(), stops.tolist()) == ([0, 2, 2, 4], [2, 2, 4, 4])


def test_to_ids_is_a_view_of_the_column():
    """IDs of a checked table are read in place, not copied."""
    table = check([(1, "a"), (2, "b")], RANGES)
    assert to_ids(table).ctypes.data == table.column("id").chunk(0).buffers()[1].address


def test_to_ids_of_a_table_in_several_chunks():
    """A table of several chunks gives all its IDs in order."""
    table = check([(i, "x") for i in range(1, 5)], RANGES)
    assert to_ids(pa.Table.from_batches(table.to_batches(max_chunksize=1))).tolist() == [1, 2, 3, 4]
