"""Sums over all shards: what to ask for, and what is known of it while some shards are missing.

>>> [rows, total] = await reader.aggregate(count(), sum_("amount"), bounds={"amount": (0, 500)})  # doctest: +SKIP
>>> rows.value, rows.at_least, rows.at_most  # doctest: +SKIP
(40, 40, 60)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from labkit._checks import positive_integer, shown
from labkit._types import Ranges, shown_ranges
from labkit.errors import UsageError
from labkit.report import ShardReport
from labkit.tables import to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Aggregate", "AggregateResult", "Partial", "avg", "count", "max_", "min_", "partial_of", "sum_", "top"]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What to compute: made by `count`, `sum_`, `avg`, `min_`, `max_` and `top`."""

    kind: str
    column: str | None = None
    size: int = 0
    """How many rows `top` wants."""

    def __str__(self) -> str:
        arguments = [str(self.size)] * bool(self.size) + [self.column] * bool(self.column)
        return f"{self.kind}({', '.join(map(str, arguments))})"


def count() -> Aggregate:
    """The number of rows."""
    return Aggregate("count")


def sum_(column: str) -> Aggregate:
    """The sum of a column of numbers, without NULLs; None if there is none. Exact, but for floats."""
    return _of("sum", column)


def avg(column: str) -> Aggregate:
    """The mean of a column of numbers, without NULLs; None if there is none: one sum divided by one count, never a mean
    of the shards' means.
    """
    return _of("avg", column)


def min_(column: str) -> Aggregate:
    """The least value of a column, without NULLs; None if there is none."""
    return _of("min", column)


def max_(column: str) -> Aggregate:
    """The greatest value of a column, without NULLs; None if there is none."""
    return _of("max", column)


def top(size: int, column: str) -> Aggregate:
    """The `size` rows with the greatest values of a column, the greatest first, of equal ones that with the lowest key;
    rows with NULL are not among them.
    """
    return Aggregate("top", _of("top", column).column, positive_integer(size, "the size of a top"))


@dataclass(frozen=True, slots=True, repr=False)
class AggregateResult:
    """What is known of an aggregate: exactly `value` if no shard is missing, else bounds where there can be any."""

    aggregate: Aggregate
    value: Any
    """Of the rows of the shards that answered: a number, a value of the column, or for `top` a list of rows."""
    at_least: Any
    """What the true value cannot be below; None if that is not known. Always None for `top`."""
    at_most: Any
    """Likewise for above."""
    missing: Ranges
    """Exact ID ranges that no shard answered for: each of their IDs may be a row, or none."""
    reports: Mapping[Any, ShardReport]
    certain: tuple[bool, ...] = ()
    """For `top`: which of the rows are among the true ones, whatever is missing."""

    @property
    def complete(self) -> bool:
        """True if nothing is missing: `value` is exact."""
        return not self.missing

    def to_dict(self) -> dict[str, Any]:
        """The result in the JSON types of `labkit.tables.to_json`: aggregate, value, at_least, at_most, complete,
        missing, shards (their keys as text), and for `top` certain.
        """
        told = {name: _json(getattr(self, name)) for name in ("value", "at_least", "at_most")}
        certain = {"certain": list(self.certain)} if self.aggregate.kind == "top" else {}
        return {
            "aggregate": str(self.aggregate),
            **told,
            **certain,
            "complete": self.complete,
            "missing": [list(gap) for gap in self.missing],
            "shards": {str(report.shard): report.to_dict() for report in self.reports.values()},
        }

    def _repr_html_(self) -> str:
        from labkit.show.intervals import interval_html

        return interval_html(self)

    def __rich__(self) -> RenderableType:
        from labkit.show.intervals import interval_renderable

        return interval_renderable(self)

    def __str__(self) -> str:
        said = f"{self.aggregate} = {self.value}" if self.complete else f"{self.aggregate}: {self._known}"
        return said if self.complete else f"{said}; missing {shown_ranges(self.missing)}"

    def __repr__(self) -> str:
        return f"<{self}>"

    @property
    def _known(self) -> str:
        if self.aggregate.kind == "top":
            return f"{len(self.value)} rows, of which {sum(self.certain)} are certain"
        low, high = self.at_least, self.at_most
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        return f"{self.value} of what answered, {' and '.join(bounds) or 'of the whole nothing is known'}"


def _json(value: Any) -> Any:
    """A value of the result in JSON types; integers of any size, as a sum may have."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, list):
        return to_json(pa.Table.from_pylist(value))
    return f"{value:f}" if isinstance(value, Decimal) else to_json(pa.table({"value": [value]}))[0]["value"]


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """What one shard computed of its rows."""

    schema: pa.Schema
    """The columns that it has, as far as the aggregates need them, the key first."""
    num_rows: int
    values: tuple[Any, ...]
    """For each aggregate: of `avg` a pair of sum and count of values, of `top` a table of rows."""


def partial_of(table: pa.Table, aggregates: Sequence[Aggregate]) -> Partial:
    """The aggregates of the rows of one shard, computed here."""
    return Partial(table.schema, table.num_rows, tuple(_value(table, one) for one in aggregates))


def merged(
    aggregate: Aggregate,
    values: Iterable[Any],
    missing: Ranges,
    reports: Mapping[Any, ShardReport],
    bounds: tuple[Any, Any],
) -> AggregateResult:
    """The result of the shards' values; `bounds` are those of a value in the column, None where unknown."""
    found = [value for value in values if value is not None]
    unknown = sum(high - low + 1 for low, high in missing)
    value, at_least, at_most = _MERGERS[aggregate.kind](aggregate, found, unknown, bounds)
    certain: tuple[bool, ...] = ()
    if aggregate.kind == "top":
        limit = bounds[1]
        certain = tuple(
            place + unknown <= aggregate.size or (limit is not None and row[aggregate.column] > limit)
            for place, row in enumerate(value, start=1)
        )
    if not unknown and aggregate.kind != "top":
        at_least = at_most = value
    return AggregateResult(aggregate, value, at_least, at_most, missing, reports, certain)


def _of(kind: str, column: Any) -> Aggregate:
    if not isinstance(column, str) or not column:
        raise UsageError(f"{kind} takes the name of a column, not {shown(column)}")
    return Aggregate(kind, column)


def _value(table: pa.Table, aggregate: Aggregate) -> Any:
    if aggregate.kind == "count":
        return table.num_rows
    column = table.column(aggregate.column)
    if aggregate.kind == "top":
        return _top(table, aggregate)
    values = column.drop_null()
    if aggregate.kind in ("min", "max"):
        ordered = _order(values)
        return None if not len(values) else values[int(ordered[0 if aggregate.kind == "min" else -1])].as_py()
    total = _sum(values.to_pylist())
    return (total, len(values)) if aggregate.kind == "avg" else total


def _order(values: pa.ChunkedArray) -> Any:
    """The positions in ascending order, text by its code points, NaN last, as in Postgres."""
    return pc.array_sort_indices(values)


def _sum(values: Sequence[Any]) -> Any:
    """The exact sum; of floats, the nearest one. None of nothing."""
    if not values:
        return None
    if isinstance(values[0], float):
        return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
    with localcontext(prec=_DIGITS):
        return sum(values)


_DIGITS = 200
"""Digits with which decimals are added: no sum of 38 digits, however many values it has, needs more."""


def _top(table: pa.Table, aggregate: Aggregate) -> pa.Table:
    """The rows with the greatest values."""
    some = table.filter(table.column(aggregate.column).is_valid())
    keys = [(aggregate.column, "descending"), (table.schema.names[0], "ascending")]
    return some.take(pc.sort_indices(some, sort_keys=keys)).slice(0, aggregate.size)


def _merged_count(_: Aggregate, found: list[Any], unknown: int, __: Any) -> tuple[Any, Any, Any]:
    rows = sum(found)
    return rows, rows, rows + unknown


def _merged_sum(_: Aggregate, found: list[Any], unknown: int, bounds: Any) -> tuple[Any, Any, Any]:
    total = _sum(found)
    low, high = bounds
    base = 0 if total is None else total
    with localcontext(prec=_DIGITS):
        at_least = None if low is None else base + unknown * min(0, low)
        at_most = None if high is None else base + unknown * max(0, high)
    return total, at_least, at_most


def _merged_avg(_: Aggregate, found: list[Any], unknown: int, bounds: Any) -> tuple[Any, Any, Any]:
    total, number = _sum([total for total, _ in found if total is not None]), sum(number for _, number in found)
    low, high = bounds
    mean = _quotient(total, number) if number else None
    # The mean is furthest off if every missing ID is a row with the least, or the greatest, value.
    ends = [None if end is None else _quotient((total or 0) + unknown * end, number + unknown) for end in (low, high)]
    at_least = None if ends[0] is None else ends[0] if mean is None else min(mean, ends[0])
    at_most = None if ends[1] is None else ends[1] if mean is None else max(mean, ends[1])
    return mean, at_least, at_most


def _quotient(total: Any, number: int) -> Any:
    return total / number if number else None


def _merged_min(_: Aggregate, found: list[Any], unknown: int, bounds: Any) -> tuple[Any, Any, Any]:
    least = min(found, key=_above, default=None)
    low = bounds[0]
    return least, low if least is None or low is None else min(least, low), least


def _merged_max(_: Aggregate, found: list[Any], unknown: int, bounds: Any) -> tuple[Any, Any, Any]:
    greatest = max(found, key=_above, default=None)
    high = bounds[1]
    return greatest, greatest, high if greatest is None or high is None else max(greatest, high)


def _above(value: Any) -> Any:
    """Sorts NaN above all other numbers."""
    return (value != value, value) if isinstance(value, float) else value


def _merged_top(aggregate: Aggregate, found: list[Any], unknown: int, bounds: Any) -> tuple[Any, Any, Any]:
    rows = _top(pa.concat_tables(found), aggregate).to_pylist() if found else []
    return rows, None, None


_MERGERS: dict[str, Callable[..., tuple[Any, Any, Any]]] = {
    "count": _merged_count,
    "sum": _merged_sum,
    "avg": _merged_avg,
    "min": _merged_min,
    "max": _merged_max,
    "top": _merged_top,
}
