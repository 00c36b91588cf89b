"""Filters: their forms, their errors, and that they mean the same as Python's own comparisons of single values."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit._filters import Written, as_filters, fitted, kept, parsed
from labkit.errors import UsageError
from labkit.tables import NUMBER

UTC = datetime.UTC
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("amount", pa.decimal128(12, 2)),
        ("ratio", pa.float64()),
        ("share", pa.float32()),
        ("status", pa.large_string()),
        ("late", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("local", pa.timestamp("us")),
        ("hour", pa.time64("us")),
        ("raw", pa.large_binary()),
        ("tags", pa.list_(pa.large_string())),
        pa.field("exact", pa.large_string(), metadata=NUMBER),
    ]
)


def of(*filters):
    return fitted(as_filters(list(filters)), SCHEMA)


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_filters_are_none(nothing):
    """None, and an empty list, want all rows."""
    assert as_filters(nothing) is None


def test_a_list_of_lists_is_an_or():
    """As in pandas and pyarrow; a plain list is one of them."""
    one, other = ("amount", ">", 1), ("status", "in", ["open", "late"])
    assert as_filters([one, other]) == as_filters([[one, other]])
    assert len(as_filters([[one], [other]])) == 2


def test_operators_may_be_written_as_in_pandas_and_sql():
    """== and <> are = and !=; case and spaces do not matter."""
    assert as_filters([("a", "==", 1), ("a", "<>", 1), ("a", "NOT  IN", [1])]) == as_filters(
        [("a", "=", 1), ("a", "!=", 1), ("a", "not in", [1])]
    )


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ("amount > 1", "filters must be a list such as"),
        ([1], "a filter is (column, operator, value)"),
        ([("amount",)], "a filter is (column, operator, value)"),
        ([("amount", ">")], 'nothing is > NULL; write ("amount", "is null")'),
        ([("amount", "=", None)], 'write ("amount", "is null")'),
        ([("amount", "=>", 1)], "the filter on amount: unknown operator '=>'; did you mean"),
        ([("amount", "in", "abc")], "'in' takes a list of values, not 'abc'"),
        ([("amount", "in", 3)], "'in' takes a list of values, not 3"),
        ([("amount", "is null", 3)], "'is null' takes no value, not 3"),
    ],
)
def test_what_is_not_a_filter_is_refused(filters, said):
    """One clear line says what a filter looks like."""
    with pytest.raises(UsageError) as caught:
        as_filters(filters)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("filter_", "said"),
    [
        (("amuont", ">", 1), "a filter on unknown column 'amuont'; did you mean amount?"),
        (("amount", ">", "1"), "the filter on amount (decimal128(12, 2)): '1' is not one"),
        (("amount", ">", math.nan), "nan is not a finite number"),
        (("amount", "in", [1, None]), "a list has no NULL; add a condition with 'is null'"),
        (("id", "=", 1.5), "1.5 is not an integer"),
        (("id", "=", 2**63), "9223372036854775808 does not fit in 64 bits"),
        (("id", "=", True), "the filter on id (int64): True is not one"),
        (("ratio", "=", "1"), "ratio (double): '1' is not one"),
        (("status", "=", 1), "the filter on status (string): 1 is not one"),
        (("status", "=", "\ud800"), "is not one"),
        (("late", "=", 1), "late (bool): 1 is not one"),
        (("day", "=", "2026-02-30"), "'2026-02-30' is not one"),
        (("day", "=", datetime.datetime(2026, 1, 1)), "day (date32[day])"),
        (("at", "=", "2026-01-01T00:00:00"), "'2026-01-01T00:00:00' has no time zone"),
        (("local", "=", "2026-01-01T00:00:00Z"), "'2026-01-01T00:00:00Z' has a time zone"),
        (("hour", "=", "25:00"), "'25:00' is not one"),
        (("raw", "=", "abc"), "'abc' is not one"),
        (("tags", "=", ["a"]), "it can only be compared with 'is null' and 'is not null'"),
        (("exact", "=", "9"), "the filter on exact (number): '9' is not one"),
    ],
)
def test_what_does_not_fit_the_columns_is_refused(filter_, said):
    """An unknown column, or a value of another type, in one line with a hint."""
    with pytest.raises(UsageError) as caught:
        of(filter_)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("amount>100", ("amount", ">", "100")),
        ("amount >= 100", ("amount", ">=", "100")),
        ('"unit price" <= 9.50', ("unit price", "<=", "9.50")),
        ("status in open,late", ("status", "in", ["open", "late"])),
        ('status not in (\'a,b\', "c""d", e)', ("status", "not in", ["a,b", 'c"d', "e"])),
        ("note is null", ("note", "is null")),
        ("note IS  NOT NULL", ("note", "IS  NOT NULL")),
        ("name = 'it''s'", ("name", "=", "it's")),
        ("in=3", ("in", "=", "3")),
        ("name!=", ("name", "!=", "")),
    ],
)
def test_filters_may_be_written_as_text(text, meant):
    """As on a command line or in a URL; names and values may be quoted."""
    assert parsed(text) == meant
    as_filters([parsed(text)])


@pytest.mark.parametrize("text", ["", "amount", "amount 3", "> 3", "x in", "x in 'a'b", "'a = 3"])
def test_other_text_is_not_a_filter(text):
    """It is refused, not guessed."""
    with pytest.raises(UsageError):
        parsed(text)


@pytest.mark.parametrize(
    ("column", "written", "value"),
    [
        ("id", "12", 12),
        ("amount", "9.50", Decimal("9.50")),
        ("ratio", "1e3", 1000.0),
        ("late", "TRUE", True),
        ("status", "12", "12"),
        ("day", "2026-01-31", datetime.date(2026, 1, 31)),
        ("at", "2026-01-31T00:00:00Z", datetime.datetime(2026, 1, 31, tzinfo=UTC)),
        ("hour", "12:30", datetime.time(12, 30)),
        ("raw", "AP8=", b"\x00\xff"),
        ("exact", "1e400", Decimal("1e400")),
    ],
)
def test_what_is_written_becomes_a_value_of_its_columns_type(column, written, value):
    """Numbers, times and binary are written as JSON has them."""
    [[condition]] = of((column, "=", Written(written)))
    assert (condition.value, type(condition.value)) == (value, type(value))


@pytest.mark.parametrize(
    ("column", "written"), [("id", "x"), ("id", "1_0x"), ("late", "1"), ("raw", "!"), ("day", "1")]
)
def test_what_is_written_and_is_no_such_value_is_refused(column, written):
    """The column is named."""
    with pytest.raises(UsageError, match=f"the filter on {column}"):
        of((column, "=", Written(written)))


AWKWARD = ["", "a", "A", "ä", "z", "Z", "é", "e\u0301", "\U0001f600", "\uffff", "a ", " a", "10", "9", "a\0b"]
VALUES = {
    "amount": st.decimals(-(10**10) + 1, 10**10 - 1, places=2),
    "ratio": st.floats() | st.integers(-3, 3).map(float),
    "share": st.floats(width=32) | st.integers(-3, 3).map(float),
    "status": st.sampled_from(AWKWARD) | st.text(max_size=3),
    "late": st.booleans(),
    "day": st.dates(),
    "at": st.datetimes(timezones=st.just(UTC)),
    "local": st.datetimes(),
    "hour": st.times(),
    "raw": st.binary(max_size=3),
    "exact": st.decimals(allow_nan=False, allow_infinity=False) | st.integers(-3, 3).map(Decimal),
}
OTHERS = {**VALUES, "amount": VALUES["exact"]}
"""Values to compare with: decimals of any size and scale."""


def above(value):
    """Sorts NaN above all other numbers; text by its code points, as UTF-8 does."""
    return (value != value, 0 if value != value else value)


def python(operator, value, other):
    """The comparison in plain Python; NULL is None."""
    if operator in ("is null", "is not null"):
        return (value is None) == (operator == "is null")
    if value is None:
        return False
    if operator in ("in", "not in"):
        return (above(value) in map(above, other)) == (operator == "in")
    left, right = above(value), above(other)
    return {
        "=": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[operator]


@st.composite
def cases(draw):
    column = draw(st.sampled_from(sorted(VALUES)))
    values = draw(st.lists(st.none() | VALUES[column], max_size=8))
    some = [value for value in values if value is not None]
    other = (st.sampled_from(some) | OTHERS[column]) if some else OTHERS[column]
    operator = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "not in", "is null", "is not null"]))
    if operator in ("in", "not in"):
        return column, values, operator, draw(st.lists(other, max_size=4))
    return column, values, operator, None if operator.startswith("is") else draw(other)


@given(cases())
def test_filters_mean_what_python_means(case):
    """One condition on a column of any type, with NULLs, NaN, awkward text, and decimals beyond the column's type."""
    column, values, operator, operand = case
    schema = pa.schema([SCHEMA.field("id"), SCHEMA.field(column)])
    stored = [None if value is None else str(value) for value in values] if column == "exact" else values
    table = pa.table([list(range(len(values))), stored], schema=schema)
    given_ = (column, operator) if operand is None else (column, operator, operand)
    rows = kept(table, fitted(as_filters([given_]), schema))
    assert rows.column(0).to_pylist() == [i for i, value in enumerate(values) if python(operator, value, operand)]


def test_conditions_are_joined_by_and_lists_by_or():
    """As pandas and pyarrow join them."""
    table = pa.table({"id": pa.array([1, 2, 3, 4]), "status": pa.array(["a", "b", "a", None], pa.large_string())})
    both = fitted(as_filters([("status", "=", "a"), ("id", ">", 1)]), table.schema)
    assert kept(table, both).column(0).to_pylist() == [3]
    either = fitted(as_filters([[("status", "is null")], [("id", "=", 1)]]), table.schema)
    assert kept(table, either).column(0).to_pylist() == [1, 4]
