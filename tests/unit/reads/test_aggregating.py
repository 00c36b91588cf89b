"""Aggregates: exact while nothing is missing, and never outside their bounds while something is."""

from __future__ import annotations

import asyncio
import datetime
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit import CLASSIC, RangeRouter, ShardReader, Status
from labkit.aggregates import avg, count, max_, min_, sum_, top
from labkit.errors import RangeError, UsageError
from labkit.shards import CircuitBreaker, MemoryShard
from labkit.shards.base import Ask
from labkit.shards.postgres.aggregation import between, bounds_in
from labkit.tables import NUMBER

DOWN = ConnectionRefusedError("connection refused")
UTC = datetime.UTC
MIDNIGHT = datetime.datetime(2020, 1, 1, tzinfo=UTC)
HALF, CENT = Decimal("0.5"), Decimal("0.01")
SCHEMA = pa.schema(
    [
        ("order_id", pa.int64()),
        ("pieces", pa.int32()),
        ("amount", pa.decimal128(12, 2)),
        ("ratio", pa.float64()),
        pa.field("exact", pa.large_string(), metadata=NUMBER),
        ("note", pa.large_string()),
        ("late", pa.bool_()),
        ("at", pa.timestamp("us", "UTC")),
        ("raw", pa.large_binary()),
        ("tags", pa.list_(pa.large_string())),
    ]
)


def reader_of(rows, down=(), schema=SCHEMA):
    """Rows as dicts over the three shards, of which some are down."""
    shards = {}
    for shard in CLASSIC.shards:
        own = [row for row in rows if CLASSIC.locate(row["order_id"]) == shard]
        shards[shard] = MemoryShard(pa.Table.from_pylist(own, schema), error=DOWN if shard in down else None)
    return ShardReader(CLASSIC, shards)


def aggregate(reader, *aggregates, **others):
    async def ask():
        async with reader:
            return await reader.aggregate(*aggregates, **others)

    return asyncio.run(ask())


def order(order_id, **values):
    return {"order_id": order_id, **values}


ORDERS = [order(i, pieces=i % 7, amount=Decimal(i) / 2, note=f"note {i}") for i in range(1, 61)]


def test_what_is_complete_is_exact():
    """With all shards there, a result is one number, and both its bounds."""
    found = aggregate(
        reader_of(ORDERS),
        count(), sum_("amount"), avg("amount"), min_("amount"), max_("note"), sum_("pieces"), top(2, "pieces"),
    )  # fmt: skip
    rows = [row for row in ORDERS if row["pieces"] == 6][:2]
    assert [one.value for one in found[:-1]] == [60, 915, Decimal("15.25"), Decimal("0.50"), "note 9", sum(
        row["pieces"] for row in ORDERS
    )]  # fmt: skip
    assert [(row["order_id"], row["pieces"]) for row in found[-1].value] == [(row["order_id"], 6) for row in rows]
    assert found[-1].certain == (True, True)
    for one in found[:-1]:
        assert one.complete
        assert one.at_least == one.at_most == one.value


def test_a_count_is_between_what_answered_and_that_plus_the_ids_of_the_gaps():
    """40 of 60 IDs answered: a count is 40 to 60; in a window, only the gap inside it counts."""
    [rows] = aggregate(reader_of(ORDERS, down={2}), count())
    assert (rows.value, rows.at_least, rows.at_most) == (40, 40, 60)
    assert rows.missing == ((11, 20), (41, 50))
    assert rows.reports[2].status is Status.UNREACHABLE
    assert str(rows) == "count(): at least 40 and at most 60 (40 of what answered); missing ((11, 20), (41, 50))"
    [rows] = aggregate(reader_of(ORDERS, down={2}), count(), low=15, high=35)
    assert (rows.value, rows.at_least, rows.at_most, rows.missing) == (15, 15, 21, ((15, 20),))


def test_a_filter_makes_no_gap_smaller():
    """Each missing ID may be a row that the filter wants."""
    [rows] = aggregate(reader_of(ORDERS, down={2}), count(), filters=[("amount", ">", 29)])
    assert (rows.value, rows.at_most, rows.missing) == (2, 22, ((11, 20), (41, 50)))


def test_other_bounds_need_those_of_a_value():
    """Each ID of a gap may be a row with the greatest value, or none; a sum is at least what answered if no value is
    negative."""
    wanted = sum_("amount"), min_("amount"), max_("amount"), avg("amount")
    known = aggregate(reader_of(ORDERS, down={2}), *wanted, bounds={"amount": (0, 500)})
    assert [(one.at_least, one.at_most) for one in known[:-1]] == [
        (610, 610 + 20 * 500),
        (0, Decimal("0.50")),
        (30, 500),
    ]
    mean = known[-1]
    assert (mean.value, f"{mean.at_least:.24f}", f"{mean.at_most:.24f}") == (
        Decimal("15.25"), "10.166666666666666666666667", "176.833333333333333333333333",
    )  # fmt: skip
    unknown = aggregate(reader_of(ORDERS, down={2}), *wanted)
    assert [(one.at_least, one.at_most) for one in unknown] == [
        (None, None), (None, Decimal("0.50")), (30, None), (None, None),
    ]  # fmt: skip
    below = aggregate(reader_of(ORDERS, down={2}), sum_("amount"), bounds={"amount": (-1, None)})[0]
    assert (below.at_least, below.at_most) == (590, None)


def test_a_row_of_a_top_is_certain_if_the_missing_ones_cannot_push_it_out():
    """With 20 IDs missing, the first 5 of 25 stay; or all whose value no other can have."""
    [first] = aggregate(reader_of(ORDERS, down={2}), top(25, "amount"))
    assert first.certain == (True,) * 5 + (False,) * 20
    assert "5 of them certain" in str(first)
    limits = {"amount": (None, Decimal("29.5"))}
    [first] = aggregate(reader_of(ORDERS, down={2}), top(3, "amount"), bounds=limits)
    assert [row["amount"] for row in first.value] == [30, Decimal("29.5"), 29]
    assert first.certain == (True, False, False)


def test_nothing_answered():
    """A count is then 0 to all IDs, and other results are as wide as the bounds of a value."""
    rows, total, least, first = aggregate(
        reader_of(ORDERS, down={1, 2, 3}), count(), sum_("amount"), min_("amount"), top(1, "amount"),
        bounds={"amount": (0, 500)},
    )  # fmt: skip
    assert (rows.value, rows.at_least, rows.at_most) == (0, 0, 60)
    assert (total.value, total.at_least, total.at_most) == (None, 0, 30_000)
    assert (least.value, least.at_least, least.at_most) == (None, 0, 500)
    assert (first.value, first.certain) == ([], ())


def test_nothing_to_add():
    """NULLs are not counted as values; a sum of none is None."""
    found = aggregate(
        reader_of([order(1), order(60)]), count(), sum_("amount"), avg("ratio"), min_("at"), top(3, "late")
    )
    assert [one.value for one in found] == [2, None, None, None, []]


def test_sums_are_exact_beyond_64_bits_and_28_digits():
    """Integers and decimals are added without loss, whatever their size."""
    rows = [order(i, pieces=2**31 - 1, exact="1e400" if i % 2 else "1e-400") for i in range(1, 61)]
    pieces, exact = aggregate(reader_of(rows), sum_("pieces"), sum_("exact"))
    assert pieces.value == 60 * (2**31 - 1)
    assert Fraction(exact.value) == 30 * (Fraction(10) ** 400 + Fraction(1, 10**400))


def test_nan_is_above_all_other_numbers():
    """As on Postgres, so that a minimum does not depend on which shard has it."""
    rows = [order(1, ratio=1.0), order(11, ratio=math.nan), order(21, ratio=math.inf), order(22, exact="NaN")]
    least, most, first = aggregate(reader_of(rows), min_("ratio"), max_("ratio"), top(2, "ratio"))
    assert least.value == 1.0
    assert math.isnan(most.value)
    assert [row["order_id"] for row in first.value] == [11, 21]


def test_a_year_that_python_does_not_have_is_text():
    """Arrow holds times after the year 9999; they are compared with no bound."""
    schema = pa.schema([("order_id", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
    far = pa.table([[1], pa.array([300_000_000_000_000_000], pa.int64()).cast(schema.field("at").type)], schema=schema)
    reader = ShardReader(RangeRouter({1: [(1, 9)], 2: [(10, 19)]}), {1: MemoryShard(far), 2: MemoryShard(error=DOWN)})
    limit = datetime.datetime(2026, 1, 1, tzinfo=UTC)
    most, first = aggregate(reader, max_("at"), top(1, "at"), bounds={"at": (None, limit)})
    assert (most.value, most.at_least, most.at_most) == ("11476-08-15T05:20:00.000000Z",) * 2 + (None,)
    assert first.certain == (False,)


@pytest.mark.parametrize(
    ("aggregates", "others", "said"),
    [
        ((), {}, "aggregate() takes count(), sum_(column)"),
        (("count",), {}, "not 'count'"),
        ((sum_("note"),), {}, "sum(note): note is string, and only numbers can be added"),
        ((avg("late"),), {}, "avg(late): late is bool"),
        ((min_("tags"),), {}, "min(tags): tags is list"),
        ((top(3, "amuont"),), {}, "top(3, amuont): unknown column 'amuont'; did you mean amount?"),
        ((count(),), {"filters": [("amuont", ">", 3)]}, "a filter on unknown column 'amuont'; did you mean amount?"),
        ((sum_("amount"),), {"bounds": {"amuont": (0, 1)}}, "bounds of unknown column 'amuont'"),
        ((sum_("amount"),), {"bounds": {"amount": 5}}, "the bounds of amount must be a pair (least, greatest), not 5"),
        ((sum_("amount"),), {"bounds": {"amount": (5, 0)}}, "the bounds of amount: 5 is not at most 0"),
        ((sum_("amount"),), {"bounds": {"amount": ("a", 0)}}, "a bound of amount (decimal128(12, 2)): 'a' is not one"),
        ((sum_("amount"),), {"bounds": 5}, 'bounds must be such as {"amount": (0, 500)}, not 5'),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(aggregates, others, said):
    """Columns, filters and bounds that do not fit are the caller's error, named with a hint."""
    with pytest.raises(UsageError) as caught:
        aggregate(reader_of(ORDERS), *aggregates, **others)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_and_a_size_are_checked_at_once():
    """What is no column or size fails where it is written."""
    with pytest.raises(UsageError, match="sum takes the name of a column, not 5"):
        sum_(5)
    with pytest.raises(UsageError, match="the size of a top must be a positive integer, not 0"):
        top(0, "amount")


def test_bounds_of_a_window_are_checked():
    """As in a read."""
    with pytest.raises(RangeError):
        aggregate(reader_of(ORDERS), count(), low=5, high=3)


def test_a_closed_reader_computes_nothing():
    """As a read, it raises."""
    reader = reader_of(ORDERS)
    asyncio.run(reader.aclose())
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(reader.aggregate(count()))


def test_a_shard_with_another_type_is_missing_not_added():
    """A migration half done: the odd shard is named with the column."""
    shards = {
        1: MemoryShard(pa.table({"id": [1], "amount": [5]})),
        2: MemoryShard(pa.table({"id": [11], "amount": ["5"]})),
    }
    shards[3] = MemoryShard(pa.table({"id": [21], "amount": [7]}))
    rows, total = aggregate(ShardReader(CLASSIC, shards), count(), sum_("amount"))
    assert (rows.value, rows.at_most, total.value) == (2, 22, 12)
    assert rows.reports[2].status is Status.INVALID
    assert "amount is string, not int64" in rows.reports[2].error


def test_a_shard_that_lies_about_its_ids_is_missing():
    """An ID that is there twice must not be counted twice."""
    rows = [order(1), order(11), order(21)]
    reader = reader_of(rows)
    reader.shards[2].rows = pa.Table.from_pylist([order(11), order(11)], SCHEMA)
    [found] = aggregate(reader, count())
    assert (found.value, found.at_most, found.reports[2].status) == (2, 22, Status.INVALID)


def test_a_circuit_breaker_passes_on_what_its_source_can():
    """Its source still computes, rather than send all rows."""

    class Counting(MemoryShard):
        aggregates = selects = True

    assert CircuitBreaker(Counting()).aggregates
    assert not hasattr(CircuitBreaker(MemoryShard()), "aggregates")


@pytest.mark.parametrize(
    ("low", "high", "gaps"),
    [
        (None, None, [(-(2**63), 0), (11, 30), (41, 2**63 - 1)]),
        (1, 40, [(11, 30)]),
        (5, 5, []),
        (0, 45, [(0, 0), (11, 30), (41, 45)]),
    ],
)
def test_where_no_row_should_be(low, high, gaps):
    """All of the window that is in no range, from the least to the greatest 64-bit ID."""
    ranges = ((5, 5),) if low == 5 else ((1, 10), (31, 40))
    assert list(between(Ask(ranges, low, high, 0.0))) == gaps


@pytest.mark.parametrize(
    ("check", "bounds"),
    [
        ("(amount >= (0)::numeric)", {"amount": (0, None)}),
        ("((amount >= (0)::numeric) AND (amount <= (500)::numeric))", {"amount": (0, 500)}),
        ("((amount > 0.5) AND (amount < 99.99) AND (pieces >= 1))", {"amount": (HALF, 100 - CENT), "pieces": (1, None)}),  # noqa: E501
        ("(pieces = 3)", {"pieces": (3, 3)}),
        ("(pieces >= '-5'::integer)", {"pieces": (-5, None)}),
        ("(amount >= ('-5'::integer)::numeric)", {"amount": (-5, None)}),
        ("(ratio <= (0.5)::double precision)", {"ratio": (None, 0.5)}),
        ("(at >= '2020-01-01 00:00:00+00'::timestamp with time zone)", {"at": (MIDNIGHT, None)}),
        ('("unit price" > 0)', {"unit price": (0, None)}),
        ('(("say ""AND""" > 0) AND ("unit price" > 0))', {'say "AND"': (0, None), "unit price": (0, None)}),
        ("((amount >= (0)::numeric) OR (pieces > 5))", {}),
        ("(((pieces >= 0) AND (pieces < 9)) OR (amount > (5)::numeric))", {}),
        ("(((pieces >= 0) OR (pieces < 9)) AND (amount > (5)::numeric))", {"amount": (5, None)}),
        ("(note >= 'a'::text)", {}),
        ("(pieces <> 5)", {}),
        ("(NOT (pieces > 5))", {}),
        ("((pieces + 1) > 5)", {}),
        ("(pieces >= other)", {}),
        ("(abs(pieces) >= 5)", {}),
        ("(note = ') AND (pieces > 5'::text)", {}),
        ("(pieces > length('5'::text))", {}),
        ("(pieces >= (5 * 3))", {}),
        ("(pieces >= ('1'::text || '0'::text)::integer)", {}),
    ],
)  # fmt: skip
def test_what_check_constraints_say_of_a_column(check, bounds):
    """In the form in which Postgres shows them; what is not a plain comparison with a constant says nothing."""
    schema = pa.schema([*SCHEMA, ("unit price", pa.int64()), ('say "AND"', pa.int64())])
    assert bounds_in([check], schema) == bounds


def test_several_checks_bound_together():
    """The narrowest holds."""
    assert bounds_in(["(pieces >= 0)", "(pieces >= 3)", "(pieces <= 9)"], SCHEMA) == {"pieces": (3, 9)}


NUMBERS = {
    "pieces": st.integers(-(2**31), 2**31 - 1),
    "amount": st.decimals(-500, 500, places=2),
    "ratio": st.floats(-1e6, 1e6),
    "exact": st.decimals(-(10**20), 10**20, allow_nan=False),
}
VALUES = {
    **NUMBERS,
    "note": st.text(max_size=2),
    "at": st.datetimes(timezones=st.just(UTC)),
    "raw": st.binary(max_size=2),
}


@st.composite
def scenes(draw):
    """A column, rows with values of it, the shards that are down, and a window."""
    column = draw(st.sampled_from(sorted(VALUES)))
    ids = draw(st.lists(st.integers(1, 60), max_size=12, unique=True).map(sorted))
    values = {i: draw(st.none() | VALUES[column]) for i in ids}
    down = draw(st.sets(st.sampled_from([1, 2, 3]), max_size=3))
    low, high = draw(st.tuples(st.none() | st.integers(0, 30), st.none() | st.integers(30, 61)))
    return column, values, down, low, high, draw(st.sampled_from([None, "is not null", ">"])), draw(st.integers(1, 4))


@given(scenes())
def test_every_value_is_within_its_bounds(scene):
    """Of random rows, shards down, windows and filters: exact of what answered, the truth within the bounds, and a row
    that is certain among the true ones."""
    column, values, down, low, high, operator, size = scene
    rows = [
        order(i, **{column: value if value is None or column != "exact" else str(value)}) for i, value in values.items()
    ]
    known = [value for value in values.values() if value is not None]
    bounds = {column: (min(known), max(known))} if known else None
    kind = avg if column in NUMBERS else min_
    add = sum_ if column in NUMBERS else max_
    filters = None
    if operator == ">":
        filters = [(column, ">", known[0])] if known else None
    elif operator:
        filters = [(column, operator)]
    wanted = {
        i: value
        for i, value in values.items()
        if (low is None or i >= low) and (high is None or i <= high)
        and (filters is None or (value is not None and (operator != ">" or value > known[0])))
    }  # fmt: skip
    found = aggregate(
        reader_of(rows, down), count(), add(column), kind(column), min_(column), max_(column), top(size, column),
        low=low, high=high, filters=filters, bounds=bounds,
    )  # fmt: skip
    answered = {i: value for i, value in wanted.items() if CLASSIC.locate(i) not in down}
    absent = sum(end - start + 1 for start, end in found[0].missing)
    assert down or not found[0].missing
    assert (found[0].value, found[0].at_least, found[0].at_most) == (
        len(answered),
        len(answered),
        len(answered) + absent,
    )
    for one in found[1:-1]:
        assert one.value == about(expected(one.aggregate, answered))
        truth = expected(one.aggregate, wanted)
        if truth is not None and one.missing:
            exact = Fraction if isinstance(truth, Fraction) else lambda bound: bound
            assert one.at_least is None or exact(one.at_least) <= truth
            assert one.at_most is None or truth <= exact(one.at_most)
    truth = expected(found[-1].aggregate, wanted)
    assert [row["order_id"] for row in found[-1].value] == expected(found[-1].aggregate, answered)
    for row, certain in zip(found[-1].value, found[-1].certain, strict=True):
        assert not certain or row["order_id"] in truth
        assert certain or not found[-1].complete


def about(value):
    """The value; of floats and quotients, one that differs by rounding."""
    if isinstance(value, Fraction):
        value = Decimal(value.numerator) / value.denominator
    return pytest.approx(value, rel=type(value)("1e-12")) if isinstance(value, float | Decimal) else value


def expected(aggregate, values):
    """What the aggregate is of values by ID, in plain Python."""
    some = {i: value for i, value in values.items() if value is not None}
    if aggregate.kind == "top":
        return sorted(sorted(some), key=lambda i: some[i], reverse=True)[: aggregate.size]
    if not some:
        return None
    match aggregate.kind:
        case "min":
            return min(some.values())
        case "max":
            return max(some.values())
        case "sum":
            return math.fsum(some.values()) if isinstance(next(iter(some.values())), float) else added(some.values())
        case "avg":
            exact = Fraction(added(map(Decimal, some.values()))) / len(some)
            return float(exact) if isinstance(next(iter(some.values())), float) else exact


def added(values):
    with localcontext(prec=200):
        return sum(values)
