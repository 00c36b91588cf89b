"""Sums over all shards: what to ask for, and what is known of it while some shards are missing.

>>> [rows, total] = await reader.aggregate(count(), sum_("amount"), bounds={"amount": (0, 500)})  # doctest: +SKIP
>>> rows.value, rows.at_least, rows.at_most  # doctest: +SKIP
(40, 40, 60)

A gap bounds a count, since each of its IDs is a row or none. It bounds a sum, a mean, a minimum or a maximum only
together with bounds of a value: those of the caller, or of a CHECK constraint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit._checks import positive_integer, shown, unknown
from labkit._filters import operand
from labkit.errors import UsageError
from labkit.tables import is_number, shown_type, to_json

__all__ = [
    "Aggregate",
    "Bounds",
    "Partial",
    "avg",
    "columns_of",
    "count",
    "fitted_bounds",
    "max_",
    "merged",
    "min_",
    "partial_of",
    "refuse_misfits",
    "sum_",
    "top",
]

Bounds: TypeAlias = tuple[Any, Any]
"""The least and the greatest value that there can be in a column; None where that is not known."""
_DIGITS = 160_000
"""With which decimals are added, if they have so many: a numeric of Postgres has up to 147,455 digits."""
_ROUNDING = 2.0**-52
"""Relative error of adding two doubles, twice the greatest."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What to compute: made by `count`, `sum_`, `avg`, `min_`, `max_` and `top`."""

    kind: str
    column: str = ""
    """"" for `count`."""
    size: int = 0
    """How many rows `top` wants."""

    def __str__(self) -> str:
        return f"{self.kind}({', '.join([str(self.size)] * bool(self.size) + [self.column] * bool(self.column))})"


def count() -> Aggregate:
    """The number of rows."""
    return Aggregate("count")


def sum_(column: str) -> Aggregate:
    """The sum of a column of numbers, without NULLs; None if there is none. Exact, except for floats."""
    return _of("sum", column)


def avg(column: str) -> Aggregate:
    """The mean of a column of numbers, without NULLs; None if there is none: one sum divided by one count, never a mean
    of the shards' means.
    """
    return _of("avg", column)


def min_(column: str) -> Aggregate:
    """The least value of a column, without NULLs; None if there is none. Text is ordered by its code points."""
    return _of("min", column)


def max_(column: str) -> Aggregate:
    """The greatest value of a column, without NULLs; None if there is none. NaN is above all other numbers."""
    return _of("max", column)


def top(size: int, column: str) -> Aggregate:
    """The `size` rows with the greatest values of a column, the greatest first, of equal ones that with the lowest key;
    rows with NULL are not among them. Raises `UsageError` for a size below 1.
    """
    return Aggregate("top", _of("top", column).column, positive_integer(size, "the size of a top"))


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """What one shard computed of its rows, after it has checked them as `labkit.answer` does."""

    schema: pa.Schema
    """The columns that the aggregates need, the key first."""
    num_rows: int
    values: tuple[Any, ...]
    """For each aggregate. `count`: None, since it is `num_rows`. `sum` and `avg`: the sum, the number of values, and by
    how much the sum may be wrong. `min` and `max`: an array of one value, or of none. `top`: a table."""
    bounds: Mapping[str, Bounds]
    """Of the columns that the table's own constraints bound."""


def columns_of(aggregates: Sequence[Aggregate]) -> tuple[str, ...] | None:
    """The columns that aggregates need besides the key; None is all, since `top` returns rows."""
    if any(one.kind == "top" for one in aggregates):
        return None
    return tuple(dict.fromkeys(one.column for one in aggregates if one.column))


def refuse_misfits(aggregates: Iterable[Aggregate], schema: pa.Schema) -> None:
    """`UsageError` for an aggregate of a column that is not there, or of a type that it is not defined for."""
    for one in aggregates:
        if not one.column:
            continue
        if one.column not in schema.names:
            raise UsageError(f"{one}: {unknown('column', one.column, schema.names)}")
        field = schema.field(one.column)
        numbers = is_number(field) or any(test(field.type) for test in _NUMBERS)
        if one.kind in ("sum", "avg") and not numbers:
            raise UsageError(f"{one}: {one.column} is {shown_type(field.type)}, and only numbers can be added")
        if any(test(field.type) for test in _UNORDERED):
            raise UsageError(f"{one}: {one.column} is {shown_type(field.type)}, which has no order")


def fitted_bounds(bounds: Any, schema: pa.Schema | None) -> dict[str, Bounds]:
    """The bounds that a caller gave, `{column: (least, greatest)}`, as values of the columns, if these are known.

    Raises `UsageError` for anything else, for a column that is not there, and for bounds in the wrong order.
    """
    if not isinstance(bounds, Mapping):
        raise UsageError(f'bounds must be such as {{"amount": (0, 500)}}, not {shown(bounds)}')
    found = {}
    for column, pair in bounds.items():
        if schema is not None and column not in schema.names:
            raise UsageError(f"bounds of {unknown('column', column, schema.names)}")
        if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
            raise UsageError(f"the bounds of {column} must be a pair (least, greatest), not {shown(pair)}")
        low, high = pair
        if schema is not None:
            field = schema.field(column)
            low, high = (None if end is None else operand(end, field, "a bound of") for end in pair)
        if low is not None and high is not None and not low <= high:
            raise UsageError(f"the bounds of {column}: {shown(pair[0])} is not at most {shown(pair[1])}")
        found[column] = low, high
    return found


def partial_of(table: pa.Table, aggregates: Sequence[Aggregate]) -> Partial:
    """The aggregates of the rows of one shard, computed here. Raises what `refuse_misfits` does."""
    refuse_misfits(aggregates, table.schema)
    return Partial(table.schema, table.num_rows, tuple(_value(table, one) for one in aggregates), {})


def merged(
    aggregate: Aggregate, place: int, partials: Sequence[Partial], absent: int, bounds: Bounds
) -> tuple[Any, Any, Any, tuple[bool, ...]]:
    """What is known of an aggregate over all shards: its value of those that answered, what the true one is at least,
    and at most, and for `top` which rows are certain.

    `place` is that of the aggregate in the partial values; `absent` is the number of IDs in the gaps, and `bounds` are
    those of a value in its column.
    """
    if aggregate.kind == "count":
        rows = sum(one.num_rows for one in partials)
        return rows, rows, rows + absent, ()
    values = [one.values[place] for one in partials]
    if aggregate.kind == "top":
        found = [] if not values else _to_rows(_top(pa.concat_tables(values), aggregate))
        certain = (
            rank + absent <= aggregate.size or _exceeds(row[aggregate.column], bounds[1])
            for rank, row in enumerate(found, start=1)
        )
        return found, None, None, tuple(certain)
    if aggregate.kind in ("min", "max"):
        field = partials[0].schema.field(aggregate.column) if partials else None
        value = None if field is None else _extreme(pa.chunked_array(values), aggregate.kind, field)
        known = _extreme_within(value, aggregate.kind, bounds)
    else:
        value, known = _SUMS[aggregate.kind](values, absent, bounds)
    return value, *(known if absent else (value, value)), ()


def _of(kind: str, column: Any) -> Aggregate:
    if not isinstance(column, str) or not column:
        raise UsageError(f"{kind} takes the name of a column, not {shown(column)}")
    return Aggregate(kind, column)


_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_UNORDERED = (pa.types.is_nested, pa.types.is_interval)


def _value(table: pa.Table, aggregate: Aggregate) -> Any:
    if aggregate.kind == "count":
        return None
    if aggregate.kind == "top":
        return _top(table, aggregate)
    field, values = table.schema.field(aggregate.column), table.column(aggregate.column).drop_null()
    if aggregate.kind not in ("min", "max"):
        return _sum(values, field)
    found = _extreme_place(values, aggregate.kind, field)
    return pa.array([], field.type) if found is None else values.slice(found, 1).combine_chunks()


def _sum(values: pa.ChunkedArray, field: pa.Field) -> tuple[Any, int, float]:
    """The sum of values, none of which is NULL: exact, of floats the nearest one; their number, and no error."""
    number, kind = len(values), field.type
    if not number:
        return None, 0, 0.0
    if pa.types.is_floating(kind):
        floats = values.to_pylist()
        return (math.fsum(floats) if all(map(math.isfinite, floats)) else sum(floats)), number, 0.0
    if is_number(field):
        return _added(map(Decimal, values.to_pylist())), number, 0.0
    # No number of values of 38 digits overflows 76 digits.
    total = pc.sum(values.cast(pa.decimal256(76, kind.scale if pa.types.is_decimal(kind) else 0))).as_py()
    return int(total) if pa.types.is_integer(kind) else total, number, 0.0


def _added(values: Iterable[Any]) -> Any:
    """The sum of values, exact if they are integers or decimals; None of nothing."""
    found = list(values)
    with localcontext(prec=_DIGITS) as context:
        context.traps[InvalidOperation] = False  # infinity less infinity is NaN, as in Postgres
        return sum(found) if found else None


def _extreme_place(values: pa.ChunkedArray, kind: str, field: pa.Field) -> int | None:
    """Where the least or greatest value is; None of nothing."""
    if not len(values):
        return None
    if is_number(field):
        numbers = [_above(Decimal(text)) for text in values.to_pylist()]
        return numbers.index(min(numbers) if kind == "min" else max(numbers))
    if pa.types.is_floating(field.type):
        nan = pc.is_nan(values)
        if pc.any(nan).as_py() if kind == "max" else pc.all(nan).as_py():
            return int(pc.index(nan, True).as_py())
    return int(pc.index(values, pc.min_max(values)[kind]).as_py())


def _extreme(values: pa.ChunkedArray, kind: str, field: pa.Field) -> Any:
    """The least or greatest value as a Python object."""
    place = _extreme_place(values, kind, field)
    if place is None:
        return None
    value = _to_python(values[place])
    return Decimal(value) if is_number(field) else value


def _to_python(value: pa.Scalar) -> Any:
    """The value as a Python object; a time that Python does not have, after the year 9999, as text in ISO 8601."""
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return to_json(pa.table({"value": pa.array([value])}))[0]["value"]


def _to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts of Python objects; numbers that are kept as text as decimals."""
    rows = [{name: _to_python(table.column(name)[i]) for name in table.schema.names} for i in range(table.num_rows)]
    for name in (field.name for field in table.schema if is_number(field)):
        for row in rows:
            row[name] = None if row[name] is None else Decimal(row[name])
    return rows


def _exceeds(value: Any, limit: Any) -> bool:
    """Whether no value can be as great; not if that is unknown."""
    return _comparable(value, limit) and _above(value) > _above(limit)


def _comparable(value: Any, limit: Any) -> bool:
    """Not with None, nor a time that is text with one that is not."""
    return limit is not None and isinstance(value, str) == isinstance(limit, str)


def _extreme_within(value: Any, kind: str, bounds: Bounds) -> Bounds:
    """Between what the true minimum or maximum must be, if further values may be anything within the bounds."""
    if value is None:
        return bounds
    low, high = (end if _comparable(value, end) else None for end in bounds)
    if kind == "min":
        return (None if low is None else min(value, low, key=_above)), value
    return value, None if high is None else max(value, high, key=_above)


def _above(value: Any) -> Any:
    """Sorts NaN above all other numbers."""
    if isinstance(value, float | Decimal) and value != value:
        return True, 0
    return False, value


def _top(table: pa.Table, aggregate: Aggregate) -> pa.Table:
    """The rows with the greatest values."""
    column = table.column(aggregate.column)
    some = table.filter(column.is_valid())
    column, key = some.column(aggregate.column), some.column(0)
    if is_number(some.schema.field(aggregate.column)):
        numbers, keys = [_above(Decimal(text)) for text in column.to_pylist()], key.to_pylist()
        order = sorted(range(len(keys)), key=lambda i: keys[i])
        order.sort(key=lambda i: numbers[i], reverse=True)
        return some.take(pa.array(order[: aggregate.size], pa.int64()))
    nan = pc.is_nan(column) if pa.types.is_floating(column.type) else pa.array(np.zeros(len(column), np.bool_))
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    parts = pa.table({"nan": nan.cast(pa.int8()), "value": column, "key": key})
    order = pc.sort_indices(parts, sort_keys=[("nan", "descending"), ("value", "descending"), ("key", "ascending")])
    return some.take(order.slice(0, aggregate.size))


def _merged_sum(values: Sequence[Any], absent: int, bounds: Bounds) -> tuple[Any, Bounds]:
    total, (low, high) = _added(one for one, _, _ in values if one is not None), bounds
    error = _error(values)
    if not math.isfinite(error) or not math.isfinite(total or 0):
        return total, (None, None)
    base: Any = 0 if total is None else total
    with localcontext(prec=_DIGITS):
        at_least = None if low is None else base + absent * min(type(low)(0), low) - error
        at_most = None if high is None else base + absent * max(type(high)(0), high) + error
    return total, (at_least, at_most)


def _merged_avg(values: Sequence[Any], absent: int, bounds: Bounds) -> tuple[Any, Bounds]:
    total, number = _added(one for one, _, _ in values if one is not None), sum(many for _, many, _ in values)
    error, (low, high) = _error(values), bounds
    if not number:
        return None, bounds
    mean = _divided(total, number, ROUND_HALF_EVEN)
    if not math.isfinite(error) or not math.isfinite(mean):
        return mean, (None, None)

    def furthest(end: Any, least: Callable[..., Any], rounding: str) -> Any:
        """The mean if every missing ID is a row with that value, unless it is further off without them."""
        with localcontext(prec=_DIGITS):
            other = total + absent * end
        found = least(_divided(total, number, rounding), _divided(other, number + absent, rounding))
        if isinstance(found, float):
            wrong = error / number + 2 * _ROUNDING * abs(found)
            return found - wrong if least is min else found + wrong
        return found

    at_least = None if low is None else furthest(low, min, ROUND_FLOOR)
    at_most = None if high is None else furthest(high, max, ROUND_CEILING)
    return mean, (at_least, at_most)


def _error(values: Sequence[Any]) -> Any:
    """By how much the sum of sums may be wrong: 0, an int, if all are exact."""
    totals = [total for total, _, _ in values if isinstance(total, float)]
    if not totals:
        return 0
    return sum(error for _, _, error in values) + 2 * _ROUNDING * (1 + len(totals)) * sum(map(abs, totals))


def _divided(total: Any, number: int, rounding: str) -> Any:
    """The quotient; of integers and decimals, to 28 digits."""
    if isinstance(total, float):
        return total / number
    with localcontext(prec=28, rounding=rounding):
        return Decimal(total) / number


_SUMS: dict[str, Callable[[Sequence[Any], int, Bounds], tuple[Any, Bounds]]] = {
    "sum": _merged_sum,
    "avg": _merged_avg,
}
