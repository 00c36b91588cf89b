"""A result as a few plain lines, without times: what `print(result)` shows is the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.report import Status
from labkit.show.format import count, plain, ranges_text

if TYPE_CHECKING:
    from labkit.report import Read, ShardReport

__all__ = ["result_text"]

_NAMED = 12
"""Shards named one by one; of more, their number is given."""


def result_text(result: Read) -> str:
    """Rows, their shards and the gaps on one line, then one line per shard that failed."""
    gaps = f"missing {ranges_text(result.missing, dash='-')}" if result.missing else "complete"
    first = f"{count(result.table.num_rows, 'row')}{_sources(result)}; {gaps}"
    return "\n".join([first, *(_failure(report) for report in result.reports.values() if report.failed)])


def _failure(report: ShardReport) -> str:
    return f"shard {plain(report.shard)} {report.status}: {plain(report.error or 'no cause given')}"


def _sources(result: Read) -> str:
    shards = [plain(report.shard) for report in result.reports.values() if report.status is Status.OK]
    if not shards:
        return ""
    if len(shards) > _NAMED:
        return f" of {len(shards)} shards"
    return f" of shard{'s' if len(shards) > 1 else ''} {', '.join(shards)}"
