"""A result in words: single facts, and a few plain lines without times, so that every run prints the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit._replay import steady
from labkit.merge import join
from labkit.report import Status
from labkit.show.format import count, plain, ranges_text, seconds

if TYPE_CHECKING:
    from labkit._types import Ranges
    from labkit.report import ResultLike, ShardReport

__all__ = ["answered", "headline", "missing_text", "outcome", "outline", "result_text"]


def headline(result: ResultLike, dash: str = "–") -> str:
    """The result in one line: "incomplete: 40 rows, missing 11–20, 41–50 (20 IDs)"."""
    rows = count(result.table.num_rows, "row")
    if result.missing:
        return f"incomplete: {rows}, missing {missing_text(result.missing, dash=dash)}"
    if not any(report.ranges for report in result.reports.values()):
        return f"complete: {rows}, no shard owns an ID that was asked for"
    return f"complete: {rows}, nothing missing"


def missing_text(missing: Ranges, most: int = 6, dash: str = "–") -> str:
    """The missing ranges and how many IDs they hold: "11–20, 41–50 (20 IDs)"."""
    ids = sum(high - low + 1 for low, high in missing)
    return f"{ranges_text(missing, most, dash)} ({count(ids, 'ID')})"


def answered(result: ResultLike) -> Ranges:
    """The ID ranges that were answered, ascending, merged where they touch."""
    plan = {report.shard: report.ranges for report in result.reports.values() if report.status is Status.OK}
    return join(plan, plan)


def outcome(report: ShardReport, *, timed: bool = True) -> str:
    """How a shard ended: "ok · 20 rows · 3 ms", "timeout · 2.00 s", "not asked"; without `timed`: "ok · 20 rows"."""
    if report.status is Status.SKIPPED:
        return "not asked"
    rows = [count(report.rows, "row")] if report.status is Status.OK else []
    return " · ".join([report.status.value, *rows, *([seconds(report.elapsed)] if timed else [])])


_NAMED = 12
"""Most shards named one by one; above that, only their number is given."""


def result_text(result: ResultLike) -> str:
    """One line with rows, their shards and the gaps, then one line per failed shard."""
    gaps = f"missing {ranges_text(result.missing, dash='-')}" if result.missing else "complete"
    first = f"{count(result.table.num_rows, 'row')}{_sources(result)}; {gaps}"
    return "\n".join([first, *(_failure_text(report) for report in result.reports.values() if report.failed)])


def outline(result: ResultLike) -> str:
    """The headline, and one line per shard in columns: its status, rows, ranges and cause."""
    told = [
        (
            f"shard {plain(report.shard)}",
            outcome(report, timed=False),
            ranges_text(report.ranges, dash="-"),
            steady(plain(report.error or "")),
        )
        for report in result.reports.values()
    ]
    widths = [max(map(len, column), default=0) for column in zip(*told, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in told]
    return "\n".join([headline(result, dash="-"), *lines])


def _failure_text(report: ShardReport) -> str:
    return f"shard {plain(report.shard)} {report.status}: {plain(report.error or 'no cause given')}"


def _sources(result: ResultLike) -> str:
    shards = [plain(report.shard) for report in result.reports.values() if report.status is Status.OK]
    if not shards:
        return ""
    if len(shards) > _NAMED:
        return f" of {len(shards)} shards"
    return f" of shard{'s' if len(shards) > 1 else ''} {', '.join(shards)}"
