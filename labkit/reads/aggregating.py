"""Aggregates over all shards: each computes its own, or its rows are read, and the results are put together here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

import pyarrow as pa

from labkit._checks import shown, unknown
from labkit._filters import Filters, operand
from labkit._types import ShardKey
from labkit.aggregates import (
    DIGITS,
    Aggregate,
    Bounds,
    Partial,
    above,
    added,
    columns_of,
    extreme_place,
    greatest,
    partial_of,
    refuse_misfits,
)
from labkit.answer import as_table
from labkit.errors import UsageError
from labkit.merge import concatenated, join_parts
from labkit.report import skipped
from labkit.result import AggregateResult
from labkit.router import RangeRouter
from labkit.scatter import Question, Scatter, in_turns
from labkit.tables import is_number, to_json

__all__ = ["Aggregation"]

_ROUNDING = 2.0**-52
"""Relative error of adding two doubles, twice the greatest."""


class Aggregation:
    """Aggregates of a reader's rows. It remembers the constraints of shards that have answered."""

    def __init__(self, scatter: Scatter, router: RangeRouter, timeout: float) -> None:
        self._scatter, self._router, self._timeout = scatter, router, timeout
        self._constraints: dict[ShardKey, dict[str, Bounds]] = {}

    async def read(
        self,
        aggregates: tuple[Aggregate, ...],
        low: int | None,
        high: int | None,
        filters: Filters | None,
        bounds: Any,
    ) -> list[AggregateResult]:
        """A result for each of the aggregates. See `ShardReader.aggregate`."""
        plan, columns = self._router.prune(low, high), columns_of(aggregates)
        deadline = asyncio.get_running_loop().time() + self._timeout
        outcomes = await self._scatter.ask(
            Question(plan, low, high, deadline, columns=columns, filters=filters, aggregates=aggregates)
        )
        rows = {shard: outcome.rows for shard, outcome in outcomes.items() if outcome.rows is not None}
        schema = next((one.schema for one in rows.values()), None)
        if schema is not None:
            refuse_misfits(aggregates, schema)
        given = {} if bounds is None else _fitted_bounds(bounds, self._scatter.columns.common() or schema)
        partials = {}
        for shard, one in rows.items():
            partials[shard] = one if isinstance(one, Partial) else partial_of(as_table(one), aggregates)
            looked_at = partials[shard].schema.names
            before = self._constraints.get(shard, {}).items()
            self._constraints[shard] = {name: pair for name, pair in before if name not in looked_at}
            self._constraints[shard].update(partials[shard].bounds)
        missing = concatenated(await in_turns(join_parts(plan, [shard for shard in plan if shard not in partials])))
        reports = {
            shard: outcomes[shard].report if shard in outcomes else skipped(shard) for shard in self._router.shards
        }
        known = [self._constraints[shard] for shard in plan if shard in self._constraints]
        absent, found = sum(end - start + 1 for start, end in missing), []
        for place, one in enumerate(aggregates):
            limits = given.get(one.column) or _common(known, one.column)
            value, least, most, certain = _merged(one, place, list(partials.values()), absent, limits)
            found.append(AggregateResult(one, value, least, most, missing, reports, certain))
        return found


def _common(constraints: Sequence[Mapping[str, Bounds]], column: str) -> Bounds:
    """The bounds that hold on every shard."""
    pairs = [one.get(column, (None, None)) for one in constraints]
    lows, highs = [low for low, _ in pairs], [high for _, high in pairs]
    return None if None in lows else min(lows, default=None), None if None in highs else max(highs, default=None)


def _merged(
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
        found = [] if not values else _to_rows(greatest(pa.concat_tables(values), aggregate))
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


def _fitted_bounds(bounds: Any, schema: pa.Schema | None) -> dict[str, Bounds]:
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


def _extreme(values: pa.ChunkedArray, kind: str, field: pa.Field) -> Any:
    """The least or greatest value as a Python object."""
    place = extreme_place(values, kind, field)
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
    return _comparable(value, limit) and above(value) > above(limit)


def _comparable(value: Any, limit: Any) -> bool:
    """Not with None, nor a time that is text with one that is not."""
    return limit is not None and isinstance(value, str) == isinstance(limit, str)


def _extreme_within(value: Any, kind: str, bounds: Bounds) -> Bounds:
    """Between what the true minimum or maximum must be, if further values may be anything within the bounds."""
    if value is None:
        return bounds
    low, high = (end if _comparable(value, end) else None for end in bounds)
    if kind == "min":
        return (None if low is None else min(value, low, key=above)), value
    return value, None if high is None else max(value, high, key=above)


def _merged_sum(values: Sequence[Any], absent: int, bounds: Bounds) -> tuple[Any, Bounds]:
    total, (low, high) = added(one for one, _, _ in values if one is not None), bounds
    error = _error(values)
    if not math.isfinite(error) or not _is_finite(total):
        return total, (None, None)
    base: Any = 0 if total is None else total
    with localcontext(prec=DIGITS):
        at_least = None if low is None else base + absent * min(type(low)(0), low) - error
        at_most = None if high is None else base + absent * max(type(high)(0), high) + error
    return total, (at_least, at_most)


def _merged_avg(values: Sequence[Any], absent: int, bounds: Bounds) -> tuple[Any, Bounds]:
    total, number = added(one for one, _, _ in values if one is not None), sum(many for _, many, _ in values)
    error, (low, high) = _error(values), bounds
    if not number:
        return None, bounds
    mean = _divided(total, number, ROUND_HALF_EVEN)
    if not math.isfinite(error) or not _is_finite(mean):
        return mean, (None, None)

    def furthest(end: Any, least: Callable[..., Any], rounding: str) -> Any:
        """The mean if every missing ID is a row with that value, unless it is further off without them."""
        with localcontext(prec=DIGITS):
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


def _is_finite(value: Any) -> bool:
    """Whether it is a number, or None; decimals may be longer than a float."""
    return value.is_finite() if isinstance(value, Decimal) else math.isfinite(value or 0)


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
