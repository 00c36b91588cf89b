"""The result: rows as table, DataFrame and JSON, and the gaps it reports."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pyarrow as pa
import pytest

from labkit.answer import check
from labkit.report import ShardReport, Status
from labkit.result import ReadResult
from labkit.tables import SCHEMA, to_frame

OK = ShardReport(1, Status.OK, 2, 0.0, 0.01, None, ((1, 10),))
DOWN = ShardReport("b", Status.UNREACHABLE, 0, 0.0, 0.02, "refused", ((11, 20),))
SKIPPED = ShardReport((3, "c"), Status.SKIPPED, 0, 0.0, 0.0, None, ())


def result(*reports, missing=(), rows=((1, "Test 1"), (2, None))):
    table = check(rows, ((1, 60),))
    return ReadResult(table, {report.shard: report for report in reports}, missing, elapsed=0.03, timeout=2.0)


def test_frame_has_the_promised_columns():
    """id is int64, name is str with missing as NA, the index is a RangeIndex."""
    frame = result(OK).frame
    assert list(frame.columns) == ["id", "name"]
    assert frame["id"].dtype == "int64"
    assert frame["name"].dtype == pd.StringDtype(na_value=float("nan"))
    assert isinstance(frame.index, pd.RangeIndex)
    assert frame["id"].tolist() == [1, 2]
    assert frame["name"].isna().tolist() == [False, True]


def test_frame_of_no_rows_has_the_same_columns():
    """An empty result has the dtypes of a full one, so that code relying on them keeps working."""
    empty, full = to_frame(SCHEMA.empty_table()), result(OK).frame
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert isinstance(empty.index, pd.RangeIndex)


def test_frame_keeps_large_ids_and_empty_names():
    """IDs beyond 2**53 are not rounded; an empty name is not a missing one."""
    frame = to_frame(check([(2**53 + 1, ""), (2**63 - 1, "b")], ((0, 2**63 - 1),)))
    assert frame["id"].tolist() == [2**53 + 1, 2**63 - 1]
    assert frame["name"].isna().tolist() == [False, False]


def test_frame_of_a_merged_table_is_in_one_piece():
    """A table of several chunks gives one RangeIndex from 0."""
    pieces = [check([(i, f"Test {i}")], ((1, 60),)) for i in (1, 2, 3)]
    frame = to_frame(pa.concat_tables(pieces))
    assert frame.index.tolist() == [0, 1, 2]
    assert frame["name"].tolist() == ["Test 1", "Test 2", "Test 3"]


def test_frame_is_made_once():
    """Every access returns the same DataFrame, as a notebook may use it often."""
    one = result(OK)
    assert one.frame is one.frame


def test_complete_means_nothing_missing():
    """`complete` depends on the gaps alone."""
    assert result(OK).complete is True
    assert result(OK, DOWN, missing=((11, 20),)).complete is False


@pytest.mark.parametrize("status", list(Status))
def test_failed_means_asked_and_not_answered(status):
    """Every status but OK and SKIPPED is a failure."""
    assert dataclasses.replace(OK, status=status).failed is (status not in (Status.OK, Status.SKIPPED))


def test_to_dict_survives_json():
    """The dict consists of JSON types: it survives a round trip through JSON."""
    whole = result(OK, DOWN, SKIPPED, missing=((11, 20),))
    as_dict = whole.to_dict()
    assert json.loads(json.dumps(as_dict, allow_nan=False)) == as_dict


def test_to_dict_says_all_there_is():
    """Columns, rows, completeness, gaps, times and one report per shard; shard keys are text."""
    assert result(OK, DOWN, SKIPPED, missing=((11, 20),)).to_dict() == {
        "columns": [{"name": "id", "type": "int64"}, {"name": "name", "type": "string"}],
        "rows": [{"id": 1, "name": "Test 1"}, {"id": 2, "name": None}],
        "complete": False,
        "missing": [[11, 20]],
        "next": None,
        "elapsed": 0.03,
        "timeout": 2.0,
        "shards": {
            "1": {"status": "ok", "rows": 2, "started": 0.0, "elapsed": 0.01, "error": None, "ranges": [[1, 10]]},
            "b": {
                "status": "unreachable",
                "rows": 0,
                "started": 0.0,
                "elapsed": 0.02,
                "error": "refused",
                "ranges": [[11, 20]],
            },
            "(3, 'c')": {"status": "skipped", "rows": 0, "started": 0.0, "elapsed": 0.0, "error": None, "ranges": []},
        },
    }


@pytest.mark.parametrize("field", ["missing", "reports", "table", "elapsed", "timeout"])
def test_a_result_cannot_be_changed(field):
    """The gaps a result reports cannot be edited away."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result(OK), field, None)


def test_a_report_cannot_be_changed():
    """A report is a value: frozen, comparable, hashable."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        OK.status = Status.INVALID
    assert dataclasses.replace(OK) == OK
    assert len({OK, DOWN, SKIPPED}) == 3


def test_repr_holds_no_rows():
    """`repr` stays short for any number of rows; it shows the gaps."""
    text = repr(result(OK, DOWN, missing=((11, 20),)))
    assert "Test 1" not in text
    assert "11" in text
    assert "20" in text


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (Status.OK, "ok"),
        (Status.TIMEOUT, "timeout"),
        (Status.UNREACHABLE, "unreachable"),
        (Status.DISCONNECTED, "disconnected"),
        (Status.REJECTED, "rejected"),
        (Status.INVALID, "invalid"),
        (Status.ERROR, "error"),
        (Status.SKIPPED, "skipped"),
    ],
)
def test_a_status_is_its_text(status, value):
    """A status compares, formats and serialises as its lower-case value."""
    assert status == value
    assert f"{status}" == value
    assert json.dumps(status) == f'"{value}"'


def test_there_are_eight_statuses():
    """The table above lists every status."""
    assert len(Status) == 8
