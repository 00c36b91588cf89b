"""Answers of external readers: rows in any form, with or without gaps, and answers that are neither."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from decimal import Decimal
from itertools import count, repeat
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labkit.matrix.answers import as_ranges, as_rows, observed, understood
from labkit.matrix.dataset import dataset
from labkit.report import ShardReport, Status
from labkit.result import ReadResult
from labkit.tables import to_json

ROWS = [(1, "one"), (2, None), (3, "")]
FRAME = pd.DataFrame(ROWS, columns=["id", "name"])
GAPS = [[11, 20], [41, 50]]
Pair = namedtuple("Pair", ["rows", "missing"])


class Record:
    """Like asyncpg's: not a mapping, iterates over its values."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def keys(self) -> Any:
        return self.values.keys()

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __iter__(self) -> Any:
        return iter(self.values.values())


@pytest.mark.parametrize(
    "answer",
    [
        ROWS,
        tuple(map(list, ROWS)),
        iter(ROWS),
        [{"id": i, "name": name} for i, name in ROWS],
        [{"name": name, "id": i, "more": 1} for i, name in ROWS],
        [Record(id=i, name=name) for i, name in ROWS],
        [Record(name=name, id=i) for i, name in ROWS],
        [(np.int64(i), None if name is None else np.str_(name)) for i, name in ROWS],
        [(i, float("nan") if name is None else name) for i, name in ROWS],
        [(i, pd.NA if name is None else name) for i, name in ROWS],
        pd.DataFrame(ROWS, columns=["id", "name"]),
        pd.DataFrame(ROWS, columns=["id", "name"]).convert_dtypes(),
        pd.DataFrame({"name": ["one", None, ""], "id": [1, 2, 3]}, dtype=object),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_rows_of_any_form_are_the_same_rows(answer):
    """Pairs, mappings, records and frames are accepted; each library's NULL becomes None."""
    rows = as_rows(answer)
    assert rows == ROWS
    assert {type(value) for row in rows for value in row} == {int, str, type(None)}


def test_ids_stay_what_they_are():
    """IDs are not converted: the judge has to see floats and text, even floats that pandas made because of a NULL."""
    frame = pd.DataFrame([(1.0, "one"), (float("nan"), "two")], columns=["id", "name"])
    assert [type(i) for i, _ in as_rows(frame)] == [float, float]
    assert as_rows([("1", "one")]) == [("1", "one")]


@pytest.mark.parametrize(
    "rows", [ROWS, tuple(ROWS), FRAME, list(map(list, ROWS))], ids=["list", "tuple", "frame", "lists"]
)
@pytest.mark.parametrize(
    "missing", [GAPS, tuple(map(tuple, GAPS)), np.array(GAPS), iter([(41, 50), (11, 20)])], ids=type
)
@pytest.mark.parametrize(
    "form", [lambda r, m: {"rows": r, "missing": m}, lambda r, m: (r, m), lambda r, m: [r, m], Pair]
)
def test_rows_with_what_is_missing(form, rows, missing):
    """An answer may be a mapping or a pair, with rows and ranges in any form."""
    missing = list(map(tuple, GAPS)) if hasattr(missing, "__next__") else missing
    assert understood(form(rows, missing)) == (ROWS, ((11, 20), (41, 50)))


@pytest.mark.parametrize(
    ("answer", "rows", "missing"),
    [
        ([(1, "a"), (2, "b")], [(1, "a"), (2, "b")], None),
        (((1, "a"), (2, "b")), [(1, "a"), (2, "b")], None),
        ([[1, "a"], [2, "b"]], [(1, "a"), (2, "b")], None),
        (([1, "a"], [2, "b"]), [(1, "a"), (2, "b")], None),
        (({"id": 1, "name": "a"}, {"id": 2, "name": "b"}), [(1, "a"), (2, "b")], None),
        ((Record(id=1, name="a"), Record(id=2, name="b")), [(1, "a"), (2, "b")], None),
        ((np.array(["1", "a"]), np.array(["2", "b"])), [("1", "a"), ("2", "b")], None),
        (((None, "a"), (2, "b")), [(None, "a"), (2, "b")], None),
        (([(1, "a")], [(2, 2)]), [(1, "a")], ((2, 2),)),
        ([[(1, "a")], [(2, 2)]], [(1, "a")], ((2, 2),)),
        (([[1, "a"], [2, "b"]], [[3, 4]]), [(1, "a"), (2, "b")], ((3, 4),)),
        (([{"id": 1, "name": "a"}], []), [(1, "a")], ()),
        (([Record(id=1, name="a")], []), [(1, "a")], ()),
        ((FRAME, []), ROWS, ()),
        ((iter(ROWS), []), ROWS, ()),
        (([], [(1, 60)]), [], ((1, 60),)),
        ([[], []], [], ()),
        (((), ()), [], ()),
        (([], None), [], None),
        ([], [], None),
        ([(1, "a")], [(1, "a")], None),
        ({"rows": []}, [], None),
        ({"rows": ROWS, "missing": None}, ROWS, None),
        ({"rows": ROWS, "missing": [], "complete": True}, ROWS, ()),
    ],
)  # fmt: skip
def test_two_rows_are_no_pair(answer, rows, missing):
    """A pair is a tuple or list of two items of which the first is not itself a row."""
    assert understood(answer) == (rows, missing)


@pytest.mark.parametrize(
    ("missing", "ranges"),
    [
        ([(41, 50), (11, 20)], ((11, 20), (41, 50))),
        ([(11, 15), (16, 20)], ((11, 20),)),
        ([(11, 18), (12, 20), (11, 12)], ((11, 20),)),
        ([(np.int64(5), np.int32(6))], ((5, 6),)),
        ([(-(10**30), 10**30)], ((-(10**30), 10**30),)),
        ({(1, 2)}, ((1, 2),)),
        ([], ()),
    ],
)
def test_ranges_are_put_in_order(missing, ranges):
    """Ranges are sorted and joined where they touch or overlap; numpy integers are accepted."""
    assert as_ranges(missing) == ranges


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ([[20, 11]], "missing has [20, 11], whose low end is above its high end"),
        ([11, 20], "missing has 11, which is not a range"),
        ([[11]], "missing has [11], which is not a range"),
        ([[11, 20, 30]], "missing has [11, 20, 30], which is not a range"),
        ([["11", "20"]], "which is not a range"),
        (["11-20"], "missing has '11-20', which is not a range"),
        (["ab"], "which is not a range"),
        ([[11.0, 20.0]], "which is not a range"),
        ([[True, 20]], "which is not a range"),
        ([[None, 20]], "which is not a range"),
        ([None], "missing has None, which is not a range"),
        ("11-20", "missing is '11-20'; return a list of [low, high]"),
        (5, "missing is 5"),
        ({"11": 20}, "missing is {'11': 20}"),
        (repeat((1, 2)), "missing has more than 10,000 ranges"),
    ],
)
def test_what_is_no_range_is_said(missing, words):
    """The error quotes the value; an endless iterator is stopped."""
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        understood({"rows": ROWS, "missing": missing})


@pytest.mark.parametrize(
    "answer",
    [
        None, 5, "rows", b"rows", {1: "one"}, {"missing": []}, {"rows": None}, [5], [(1, "one", 2)], [{"id": 1}],
        pd.DataFrame({"id": [1]}), (None, []), ("ab", "cd"), (1, "one"), ([5], []), [ROWS, ROWS, ROWS],
        ((i, "x") for i in count()), pd.DataFrame({"id": range(20_000), "name": "x"}),
    ],
    ids=lambda answer: str(type(answer)),
)  # fmt: skip
def test_what_is_neither_is_refused(answer):
    """Endless iterators are refused as well."""
    with pytest.raises((TypeError, ValueError, KeyError)):
        understood(answer)


def test_values_that_no_shard_holds_are_kept_as_they_are_written():
    """Foreign values become text: the judging process may not know their classes, and they may be of any length."""

    class Mine:
        def __repr__(self) -> str:
            return "Mine()"

    [(row_id, name), (_, long)] = as_rows([(Mine(), [1]), (2, "x" * 5_000)])
    assert (repr(row_id), repr(name), repr(long)) == ("Mine()", "[1]", "str of length 5,000")


WIDE = dataset("wide")
OBJECTS = WIDE.table.to_pylist()


@pytest.mark.parametrize(
    "rows",
    [
        to_json(WIDE.table),
        [tuple(row.values()) for row in to_json(WIDE.table)],
        [Record(**row) for row in to_json(WIDE.table)],
        OBJECTS,
        [tuple(row.values()) for row in OBJECTS],
        json.loads(json.dumps(to_json(WIDE.table))),
    ],
    ids=["JSON", "tuples of JSON", "records", "Python objects", "tuples of Python objects", "JSON that was text"],
)
def test_rows_of_a_wide_table_are_taken_as_json_or_as_python_objects(rows):
    """Both are the same rows, whatever stands for a value of a type: text of JSON, or the driver's own object."""
    assert as_rows(rows, WIDE.schema) == list(WIDE.rows.values())
    assert understood({"rows": rows, "missing": []}, WIDE.schema) == (list(WIDE.rows.values()), ())


def test_a_frame_of_a_wide_table_is_taken():
    """Columns by name, in any order, of Arrow's own types."""
    frame = WIDE.table.to_pandas(types_mapper=pd.ArrowDtype)
    assert as_rows(frame[frame.columns[::-1]], WIDE.schema) == list(WIDE.rows.values())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("small", "5"),
        ("small", True),
        ("small", 5.5),
        ("count", 2**31),
        ("amount", 0.01),
        ("amount", Decimal("0.001")),
        ("Paid?", 1),
        ("day", "2024-02-30"),
        ("created_at", 5),
        ("raw", "not Base64!"),
        ("tags", "{a}"),
        ("scores", ["a"]),
        ("scores", [1] * 5_000),
        ("name", 5),
    ],
)
def test_a_value_of_another_type_is_kept_as_what_it_is(column, value):
    """It is not made to fit: the judge compares it with the value that is held, and says that it is another."""
    row = {**OBJECTS[0], column: value}
    place = WIDE.schema.names.index(column)
    [found] = as_rows([row], WIDE.schema)
    assert found[:place] + found[place + 1 :] == WIDE.rows[1][:place] + WIDE.rows[1][place + 1 :]
    assert repr(found[place]) == repr(value) or repr(value).startswith(repr(found[place]).removesuffix("…"))


@pytest.mark.parametrize(
    ("rows", "error"),
    [([(1, "one")], ValueError), ([{"id": 1, "name": "one"}], KeyError), ([5], TypeError), ("text", TypeError)],
)
def test_rows_without_all_columns_cannot_be_understood(rows, error):
    """A row must have every value; the message names the columns."""
    with pytest.raises(error):
        as_rows(rows, WIDE.schema)


def result_of(table):
    return ReadResult(table, {1: ShardReport(1, Status.OK, table.num_rows, 0.0, 0.1, None, ((1, 60),))}, (), 0.1, 2.0)


def test_a_result_is_judged_by_its_columns_too():
    """A result with the columns of the table gives its rows; with others it cannot be judged, unless it has no row."""
    assert observed(result_of(WIDE.table), 0.1, WIDE.schema).rows == list(WIDE.rows.values())
    seen = observed(result_of(WIDE.table.select(["id", "name"])), 0.1, WIDE.schema)
    assert (seen.rows, seen.statuses) == (None, {1: Status.OK})
    assert seen.malformed.startswith("its columns are id int64, name string; expected id int64, name string, small")
    assert observed(result_of(WIDE.table.select(["id"]).slice(0, 0)), 0.1, WIDE.schema).rows == []
