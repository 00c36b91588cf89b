"""What all views say about a result: its headline, what answered, and how each shard ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.merge import join
from labkit.report import Status
from labkit.show.format import count, ranges_text, seconds

if TYPE_CHECKING:
    from labkit._types import Ranges
    from labkit.report import Read, ShardReport

__all__ = ["answered", "headline", "missing_text", "outcome"]


def headline(result: Read) -> str:
    """The result in one line: "incomplete: 40 rows, missing 11–20, 41–50 (20 IDs)"."""
    rows = count(result.table.num_rows, "row")
    if result.missing:
        return f"incomplete: {rows}, missing {missing_text(result)}"
    if not any(report.ranges for report in result.reports.values()):
        return f"complete: {rows}, no shard owns an ID that was asked for"
    return f"complete: {rows}, nothing missing"


def missing_text(result: Read, most: int = 6) -> str:
    """The missing ranges and how many IDs they hold: "11–20, 41–50 (20 IDs)"."""
    ids = sum(high - low + 1 for low, high in result.missing)
    return f"{ranges_text(result.missing, most)} ({count(ids, 'ID')})"


def answered(result: Read) -> Ranges:
    """The ID ranges that were answered for, ascending, those that touch made one."""
    plan = {report.shard: report.ranges for report in result.reports.values() if report.status is Status.OK}
    return join(plan, plan)


def outcome(report: ShardReport) -> str:
    """How a shard ended: "ok · 20 rows · 3 ms", "timeout · 2.00 s", "not asked"."""
    if report.status is Status.SKIPPED:
        return "not asked"
    rows = [count(report.rows, "row")] if report.status is Status.OK else []
    return " · ".join([report.status.value, *rows, seconds(report.elapsed)])
