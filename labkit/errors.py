"""Every exception that labkit raises on purpose; each says when it is raised and what the caller can do.

A shard's failure is never one of these while reading: it is data (see `labkit.Status`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.report import ResultLike, ShardReport

__all__ = [
    "IncompleteRead",
    "LabError",
    "LabkitError",
    "MissingExtra",
    "NeverFired",
    "RangeError",
    "ShardUnavailable",
    "TopologyError",
    "UsageError",
]

NAMED = 20
"""Most ranges, and most shards, that a message names."""


class LabkitError(Exception):
    """Base of all labkit errors; catch it to catch them all."""


class UsageError(LabkitError, ValueError):
    """Raised for wrong use: an unknown shard or backend, a bad URL, a timeout of zero.

    The message names the value and the fix.
    """


class RangeError(UsageError):
    """Raised for ID ranges that overlap, are empty, reversed, not integers or beyond 64 bits.

    Also raised for a read whose `low` is above its `high`. The message names the ranges.
    """


class TopologyError(UsageError):
    """Raised for a topology file that cannot be read or is invalid: a key that is missing, unknown or of the wrong
    type, overlapping ranges, an unknown scheme, a variable that is not set.

    The message names the file, the line or key, the value and the fix; never a URL or a password.
    """


class ShardUnavailable(LabkitError):
    """Raised by `ShardReader.get` when the shard that owns the ID failed, so it is unknown whether the row exists.

    `report` holds the shard's `ShardReport`. Try again, or treat the row as unknown.
    """

    def __init__(self, row_id: int, report: ShardReport) -> None:
        super().__init__(f"row {row_id} is unknown: shard {report.shard!r} is {report.status}: {report.error}")
        self.row_id = row_id
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.row_id, self.report)


class IncompleteRead(LabkitError):
    """Raised by `ReadResult.raise_for_missing` when a range went unanswered.

    `result` holds the partial result; the message names ranges, shards and causes, at most 20 of each.
    """

    def __init__(self, result: ResultLike, failed: Iterable[ShardReport]) -> None:
        failed = tuple(failed)
        gaps = _listed([f"{low}-{high}" for low, high in result.missing[:NAMED]], len(result.missing), ", ")
        named = [f"shard {r.shard!r} is {r.status}: {r.error}" for r in failed[:NAMED]]
        causes = _listed(named, len(failed), "; ")
        super().__init__(f"rows with these IDs are missing: {gaps} ({causes})")
        self.result = result
        self._failed = failed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.result, self._failed)


def _listed(named: list[str], count: int, between: str) -> str:
    return between.join(named if len(named) == count else [*named, f"{count - len(named):,} more"])


class LabError(LabkitError):
    """Raised when a lab cannot do what was requested: no server binaries, a server that does not start, a shard that
    does not recover after a fault was undone.

    The message ends with the last line of the server's log, if there is one.
    """


class MissingExtra(LabkitError, ImportError):
    """Raised when a part of labkit is used whose extra is not installed: `labkit.api`, `labkit.dask`, a lab.

    The message names what is missing, the extra, and the command that installs it.
    """


class NeverFired(LabkitError, UserWarning):
    """Raised as a warning when a fault is undone that affected no client, so that a test with it proves nothing.

    Read the shard while the fault lasts; over a new connection, if the fault affects only those.
    """
