"""What a result is, on one line: for who has its rows elsewhere."""

from __future__ import annotations

from labkit.result import ReadResult
from labkit.show.facts import headline
from labkit.show.format import plain

__all__ = ["summary"]

_NAMED = 3
"""Failed shards that are named with their causes; of more, their number is given."""


def summary(result: ReadResult) -> str:
    """How many rows there are, what is missing and why, and where a page goes on."""
    parts = [headline(result), *_causes(result)]
    if result.next is not None:
        parts.append(f"go on with --after {result.next}")
    return "; ".join(parts)


def _causes(result: ReadResult) -> list[str]:
    failed = [report for report in result.reports.values() if report.failed]
    causes = [f"shard {plain(r.shard)} {r.status}: {plain(r.error or 'no cause given')}" for r in failed[:_NAMED]]
    return [*causes, f"{len(failed) - _NAMED} shards more"] if len(failed) > _NAMED else causes
