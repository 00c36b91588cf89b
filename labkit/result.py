"""What a read returns: the rows, or aggregates of them, what is missing, and how each shard did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from labkit._replay import replaying, steady
from labkit._types import Ranges, shown_ranges
from labkit.aggregates import Aggregate
from labkit.errors import IncompleteRead
from labkit.report import ShardReport, Window
from labkit.tables import NUMBER, to_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from labkit.delta import Delta
    from labkit.show.svg import Picture

__all__ = ["AggregateResult", "ReadResult"]


@dataclass(frozen=True, eq=False, repr=False)
class ReadResult:
    """The rows that were read, and the ranges that are missing: answered and missing together are what was asked."""

    table: pa.Table
    """The key first (int64), then the other columns as their servers have them; ascending by key."""
    reports: Mapping[Any, ShardReport]
    """One `ShardReport` per shard, in the router's order."""
    missing: Ranges
    """Exact ID ranges that no shard answered for, ascending, merged where they touch."""
    elapsed: float
    """Seconds the whole read took."""
    timeout: float
    """Seconds it was allowed to take."""
    windows: tuple[Window, ...] = ()
    """What happened at the shards meanwhile, such as injected faults; empty unless a lab fills it in."""
    next: int | None = None
    """For a page: the `after` of the next page; None if nothing follows."""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a DataFrame with a RangeIndex, ascending by key: the key int64, text str (missing = NA), other
        columns in their Arrow types.
        """
        from labkit.tables import to_frame

        return to_frame(self.table)

    @property
    def complete(self) -> bool:
        """True if every asked range was answered by its owner under the router's map. It says nothing about time: an
        acknowledged write can be lost in a failover.
        """
        return not self.missing

    def raise_for_missing(self) -> ReadResult:
        """This result if it is complete; else raises `IncompleteRead`, which names ranges, shards and causes."""
        if self.missing:
            raise IncompleteRead(self, [report for report in self.reports.values() if report.failed])
        return self

    def since(self, before: ReadResult) -> Delta:
        """The difference from `before`, an earlier result of the same window: rows added, changed, removed, lost."""
        from labkit.delta import difference

        return difference(before.table, self.table, self.missing)

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON types: columns (name and Arrow type, the key first), rows (see `labkit.tables.to_json`),
        complete, missing, next, elapsed, timeout, shards (their keys as text).
        """
        from labkit.tables import shown_type, to_json

        return {
            "columns": [{"name": field.name, "type": shown_type(field.type)} for field in self.table.schema],
            "rows": to_json(self.table),
            "complete": self.complete,
            "missing": [list(gap) for gap in self.missing],
            "next": self.next,
            "elapsed": self.elapsed,
            "timeout": self.timeout,
            "shards": {str(report.shard): report.to_dict() for report in self.reports.values()},
        }

    def outline(self) -> str:
        """What a notebook can compare: how complete it is, and one line per shard with its status, rows, ranges and
        cause, without measured times, ports and paths.
        """
        from labkit.show.facts import outline

        return outline(self)

    def timeline(self) -> Picture:
        """A picture for notebooks (SVG): a bar per shard against the deadline. `str()` gives the SVG text."""
        from labkit.show.timeline import timeline

        return timeline(self)

    def _repr_html_(self) -> str:
        from labkit.show.html import result_html

        return result_html(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython shows as text."""
        printer.text(steady(repr(self)) if replaying() else repr(self))

    def __rich__(self) -> RenderableType:
        from labkit.show.terminal import result_renderable

        return result_renderable(self)

    def __repr__(self) -> str:
        return f"<ReadResult: {'; '.join(str(self).splitlines())}>"

    def __str__(self) -> str:
        from labkit.show.facts import result_text

        return result_text(self)


@dataclass(frozen=True, slots=True, repr=False)
class AggregateResult:
    """What is known of an aggregate: exactly `value` if no shard is missing, else bounds where there can be any."""

    aggregate: Aggregate
    value: Any
    """Of the shards that answered: a number, a value of the column, or for `top` a list of rows as dicts."""
    at_least: Any
    """What the true value cannot be below; None if that is not known. Always None for `top`."""
    at_most: Any
    """Likewise for above."""
    missing: Ranges
    """Exact ID ranges that no shard answered for: each of their IDs may be a row, or none."""
    reports: Mapping[Any, ShardReport]
    """One `ShardReport` per shard, in the router's order."""
    certain: tuple[bool, ...] = ()
    """For `top`: which of the rows are among the true ones, whatever is missing."""

    @property
    def complete(self) -> bool:
        """True if nothing is missing: `value` is exact."""
        return not self.missing

    @property
    def table(self) -> pa.Table:
        """Of a `top` the rows as a table, decimals as exact text (`labkit.tables.NUMBER`); else one without rows."""
        return _as_table(self.value if self.aggregate.kind == "top" else [])

    def to_dict(self) -> dict[str, Any]:
        """The result in the JSON types of `labkit.tables.to_json`: aggregate, value, at_least, at_most, complete,
        missing, shards (their keys as text), and for `top` certain.
        """
        told = {name: _json(getattr(self, name)) for name in ("at_least", "at_most")}
        if self.aggregate.kind == "top":
            told |= {"value": to_json(self.table), "certain": list(self.certain)}
        else:
            told["value"] = _json(self.value)
        return {
            "aggregate": str(self.aggregate),
            **told,
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
        if self.aggregate.kind == "top":
            known = f"{len(self.value)} rows, {'all' if self.complete else sum(self.certain)} of them certain"
        elif self.complete:
            known = _said(self.value)
        else:
            ends = (self.at_least, "at least"), (self.at_most, "at most")
            bounds = [f"{words} {_said(end)}" for end, words in ends if end is not None]
            if len(bounds) == 2 and self.at_least == self.at_most:
                bounds = [f"exactly {_said(self.at_least)}"]
            known = f"{' and '.join(bounds) or 'unknown'} ({_said(self.value)} of what answered)"
        return f"{self.aggregate}: {known}" + ("" if self.complete else f"; missing {shown_ranges(self.missing)}")

    def __repr__(self) -> str:
        return f"<{self}>"


def _said(value: Any) -> str:
    """A value as text; a float without the digits that rounding may have changed."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _json(value: Any) -> Any:
    """A value of the result in JSON types; integers of any size, as a sum may have."""
    return value if value is None or isinstance(value, int) else to_json(_as_table([{"value": value}]))[0]["value"]


def _as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of Python objects as a table; decimals, which may be of any size, as text that is marked as a number."""
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    fields, arrays = [], []
    for name, values in columns.items():
        number = any(isinstance(value, Decimal) for value in values)
        if number:
            values = [None if value is None else f"{value:f}" for value in values]
        elif any(isinstance(value, str) for value in values):  # with times that Python does not have
            values = [None if value is None else str(value) for value in values]
        arrays.append(pa.array(values))
        fields.append(pa.field(name, arrays[-1].type, metadata=NUMBER if number else None))
    return pa.table(arrays, schema=pa.schema(fields))
