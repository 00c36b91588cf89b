"""What a read returns: the rows, what is missing, and how each shard did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from labkit._types import Ranges
from labkit.errors import IncompleteRead
from labkit.report import ShardReport, Window

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from labkit.delta import Delta
    from labkit.show.svg import Picture

__all__ = ["ReadResult"]


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

    def timeline(self) -> Picture:
        """A picture for notebooks (SVG): a bar per shard against the deadline. `str()` gives the SVG text."""
        from labkit.show.timeline import timeline

        return timeline(self)

    def _repr_html_(self) -> str:
        from labkit.show.html import result_html

        return result_html(self)

    def __rich__(self) -> RenderableType:
        from labkit.show.terminal import result_renderable

        return result_renderable(self)

    def __repr__(self) -> str:
        return f"<ReadResult: {'; '.join(str(self).splitlines())}>"

    def __str__(self) -> str:
        from labkit.show.facts import result_text

        return result_text(self)
