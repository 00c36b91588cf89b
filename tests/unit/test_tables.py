"""Columns compared value by value, of every type that a read returns."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.tables import are_same, is_same

quick = settings(derandomize=True, database=None, deadline=None, max_examples=150)
FLOATS = st.none() | st.sampled_from([0.5, 1.0, float("nan"), float("inf")])
LISTS = st.none() | st.lists(FLOATS, max_size=3)


def chunked(values, kind, cut):
    return pa.chunked_array([pa.array(values[:cut], kind), pa.array(values[cut:], kind)], kind)


@quick
@given(st.lists(st.tuples(LISTS, LISTS), max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_lists_are_the_same_if_their_elements_are(pairs, cut, other):
    """Element by element, NULL equal to NULL and NaN to NaN, however the columns are cut."""
    kind = pa.list_(pa.float64())
    left = chunked([one for one, _ in pairs], kind, cut)
    right = chunked([one for _, one in pairs], kind, other)
    assert is_same(left, right).tolist() == [repr(one) == repr(another) for one, another in pairs]


def test_lists_of_moments_beyond_pythons_years_are_compared():
    """Postgres has years that Python's datetime does not, and a watch compares them too."""
    kind = pa.list_(pa.timestamp("us"))
    moments = [[-210_000_000_000_000_000, 253_402_300_800_000_000], None, [None]]
    table = pa.table({"id": [1, 2, 3], "at": pa.array(moments, kind)})
    assert are_same(table, pa.table({"id": [1, 2, 3], "at": pa.array(moments, kind)}))
    assert not are_same(table, pa.table({"id": [1, 2, 3], "at": pa.array([moments[0], None, [0]], kind)}))


def test_intervals_are_compared():
    """Arrow compares none; each part counts: a day is not twenty-four hours."""
    day, hours = pa.MonthDayNano([0, 1, 0]), pa.MonthDayNano([0, 0, 86_400 * 10**9])
    left = chunked([day, day, None], pa.month_day_nano_interval(), 1)
    right = chunked([day, hours, None], pa.month_day_nano_interval(), 2)
    assert is_same(left, right).tolist() == [True, False, True]
