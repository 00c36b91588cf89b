"""The difference between two results."""

from __future__ import annotations

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from labkit.delta import difference
from labkit.merge import join
from labkit.result import ReadResult
from labkit.tables import SCHEMA
from tests.support.scenes import NAMES, quick

TABLES = st.dictionaries(st.integers(1, 30), NAMES)
GAPS = st.lists(st.integers(0, 9), max_size=4)


def table(rows: dict[int, str | None]) -> pa.Table:
    pairs = sorted(rows.items())
    return pa.table({"id": [i for i, _ in pairs], "name": [name for _, name in pairs]}, schema=SCHEMA)


def result(rows: dict[int, str | None], missing=()) -> ReadResult:
    return ReadResult(table(rows), {}, missing, 0.0, 1.0)


def test_each_kind_of_difference():
    """Rows are added, changed, removed or lost; NULL is a name like any other and differs from the empty name."""
    before = {1: "a", 2: "b", 3: None, 4: "", 5: "e", 6: "f"}
    after = {1: "a", 2: "B", 3: "", 4: None, 7: "g"}
    delta = result(after, missing=((6, 6),)).since(result(before))
    assert delta.to_dict() == {
        "added": [{"id": 7, "name": "g"}],
        "changed": [{"id": 2, "name": "B"}, {"id": 3, "name": ""}, {"id": 4, "name": None}],
        "removed": [5],
        "lost": [6],
    }
    assert repr(delta) == "<Delta: 1 added, 3 changed, 1 removed, 1 lost>"
    assert json.loads(json.dumps(delta.to_dict())) == delta.to_dict()


def test_no_difference_is_false():
    """`if delta:` is true when something differs."""
    same = result({1: None, 2: "b"})
    assert not same.since(result({1: None, 2: "b"}))
    assert same.since(result({}))
    assert result({}).since(same)


@quick
@given(TABLES, TABLES, GAPS)
def test_applied_to_the_one_it_gives_the_other(before, after, at):
    """Taking `removed` and `lost` out of the earlier result and putting `added` and `changed` in gives the later one,
    row by row; only IDs in a gap are lost.
    """
    missing = join({1: tuple({(3 * i + 1, 3 * i + 2) for i in at})}, [1])
    after = {i: name for i, name in after.items() if not any(low <= i <= high for low, high in missing)}
    delta = difference(table(before), table(after), missing)
    copy = {i: name for i, name in before.items() if i not in {*delta.removed, *delta.lost}}
    changed = {row["id"]: row["name"] for row in delta.changed.to_pylist()}
    assert changed.keys() <= copy.keys()
    assert all(copy[i] != name for i, name in changed.items())
    added = {row["id"]: row["name"] for row in delta.added.to_pylist()}
    assert not added.keys() & before.keys()
    assert {**copy, **changed, **added} == after
    assert all(any(low <= i <= high for low, high in missing) for i in delta.lost)
    assert not any(low <= i <= high for low, high in missing for i in delta.removed)
