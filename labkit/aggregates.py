"""Sums over all shards: what to ask for, and what is known of it while some shards are missing.

>>> [rows, total] = await reader.aggregate(count(), sum_("amount"), bounds={"amount": (0, 500)})  # doctest: +SKIP
>>> rows.value, rows.at_least, rows.at_most  # doctest: +SKIP
(40, 40, 60)

A gap bounds a count, since each of its IDs is a row or none. It bounds a sum, a mean, a minimum or a maximum only
together with bounds of a value: those of the caller, or of a CHECK constraint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit._checks import positive_integer, shown, unknown
from labkit.errors import UsageError
from labkit.tables import is_number, shown_type

__all__ = [
    "DIGITS",
    "Aggregate",
    "Bounds",
    "Partial",
    "above",
    "added",
    "avg",
    "columns_of",
    "count",
    "extreme_place",
    "greatest",
    "max_",
    "min_",
    "partial_of",
    "refuse_misfits",
    "sum_",
    "top",
]

Bounds: TypeAlias = tuple[Any, Any]
"""The least and the greatest value that there can be in a column; None where that is not known."""
DIGITS = 160_000
"""With which decimals are added, if they have so many: a numeric of Postgres has up to 147,455 digits."""


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


def partial_of(table: pa.Table, aggregates: Sequence[Aggregate]) -> Partial:
    """The aggregates of the rows of one shard, computed here. Raises what `refuse_misfits` does."""
    refuse_misfits(aggregates, table.schema)
    return Partial(table.schema, table.num_rows, tuple(_value(table, one) for one in aggregates), {})


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
        return greatest(table, aggregate)
    field, values = table.schema.field(aggregate.column), table.column(aggregate.column).drop_null()
    if aggregate.kind not in ("min", "max"):
        return _sum(values, field)
    found = extreme_place(values, aggregate.kind, field)
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
        return added(map(Decimal, values.to_pylist())), number, 0.0
    # No number of values of 38 digits overflows 76 digits.
    total = pc.sum(values.cast(pa.decimal256(76, kind.scale if pa.types.is_decimal(kind) else 0))).as_py()
    return int(total) if pa.types.is_integer(kind) else total, number, 0.0


def added(values: Iterable[Any]) -> Any:
    """The sum of values, exact if they are integers or decimals; None of nothing."""
    found = list(values)
    with localcontext(prec=DIGITS) as context:
        context.traps[InvalidOperation] = False  # infinity less infinity is NaN, as in Postgres
        return sum(found) if found else None


def extreme_place(values: pa.ChunkedArray, kind: str, field: pa.Field) -> int | None:
    """Where the least or greatest value is; None of nothing."""
    if not len(values):
        return None
    if is_number(field):
        numbers = [above(Decimal(text)) for text in values.to_pylist()]
        return numbers.index(min(numbers) if kind == "min" else max(numbers))
    if pa.types.is_floating(field.type):
        nan = pc.is_nan(values)
        if pc.any(nan).as_py() if kind == "max" else pc.all(nan).as_py():
            return int(pc.index(nan, True).as_py())
    return int(pc.index(values, pc.min_max(values)[kind]).as_py())


def above(value: Any) -> Any:
    """Sorts NaN above all other numbers."""
    if isinstance(value, float | Decimal) and value != value:
        return True, 0
    return False, value


def greatest(table: pa.Table, aggregate: Aggregate) -> pa.Table:
    """The rows with the greatest values."""
    column = table.column(aggregate.column)
    some = table.filter(column.is_valid())
    column, key = some.column(aggregate.column), some.column(0)
    if is_number(some.schema.field(aggregate.column)):
        numbers, keys = [above(Decimal(text)) for text in column.to_pylist()], key.to_pylist()
        order = sorted(range(len(keys)), key=lambda i: keys[i])
        order.sort(key=lambda i: numbers[i], reverse=True)
        return some.take(pa.array(order[: aggregate.size], pa.int64()))
    nan = pc.is_nan(column) if pa.types.is_floating(column.type) else pa.array(np.zeros(len(column), np.bool_))
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    parts = pa.table({"nan": nan.cast(pa.int8()), "value": column, "key": key})
    order = pc.sort_indices(parts, sort_keys=[("nan", "descending"), ("value", "descending"), ("key", "ascending")])
    return some.take(order.slice(0, aggregate.size))
