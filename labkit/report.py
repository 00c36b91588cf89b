"""How each shard did in a read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from labkit._replay import replaying, steady
from labkit._types import Ranges, ShardKey, shown_ranges

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["ResultLike", "ShardReport", "Status", "Window", "combined", "skipped"]


class Status(StrEnum):
    """The outcome of one shard in one read; a `str`, so it compares and serialises as its value."""

    OK = "ok"
    """It answered in time, and its answer passed the check."""
    TIMEOUT = "timeout"
    """No whole answer before the deadline (or before the server's own statement timeout)."""
    UNREACHABLE = "unreachable"
    """No connection: refused, reset while connecting, no such host, still starting up."""
    DISCONNECTED = "disconnected"
    """The connection broke after the question was sent."""
    REJECTED = "rejected"
    """The server answered with an error: password, missing table, too many connections."""
    INVALID = "invalid"
    """It answered with rows that break the contract; none of them is used."""
    ERROR = "error"
    """This side failed, and nothing is known about the server: a bug, a wrong setting, a reader that was closed."""
    SKIPPED = "skipped"
    """It was not asked: it owns no ID in the window."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """How one shard did in one read."""

    shard: ShardKey
    status: Status
    rows: int
    """Rows of this shard in the result: 0 if it failed, unless it had answered an earlier question of the same page."""
    started: float
    """Seconds from the start of the read until this shard was asked."""
    elapsed: float
    """Seconds from then until the answer, the failure or the deadline."""
    error: str | None
    """The cause in one line; None when the shard answered or was not asked."""
    ranges: Ranges
    """The ID ranges asked of it; () when it was skipped."""

    def __repr__(self) -> str:
        parts = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)[:-1]]
        return f"ShardReport({', '.join(parts)}, ranges={shown_ranges(self.ranges)})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython shows: no measured times where outputs are compared."""
        printer.text(steady(repr(self)) if replaying() else repr(self))

    @property
    def failed(self) -> bool:
        """True when it was asked and did not answer."""
        return self.status not in (Status.OK, Status.SKIPPED)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON types, without the shard."""
        return {
            "status": self.status.value,
            "rows": self.rows,
            "started": self.started,
            "elapsed": self.elapsed,
            "error": self.error,
            "ranges": [list(pair) for pair in self.ranges],
        }


@dataclass(frozen=True, slots=True)
class Window:
    """Something that happened at a shard during a read, such as a fault injected by a lab; drawn on the timeline."""

    shard: ShardKey
    label: str
    started: float
    """Seconds from the start of the read; 0 if it began before."""
    ended: float | None
    """Likewise; None if it had not ended when the read returned."""


def skipped(shard: ShardKey) -> ShardReport:
    """The report of a shard that was not asked."""
    return ShardReport(shard, Status.SKIPPED, 0, 0.0, 0.0, None, ())


def combined(earlier: ShardReport | None, later: ShardReport) -> ShardReport:
    """One report for a shard that was asked again: the later status, the rows, ranges and time of both."""
    if earlier is None:
        return later
    return replace(
        later,
        rows=earlier.rows + later.rows,
        started=earlier.started,
        elapsed=later.started + later.elapsed - earlier.started,
        ranges=(*earlier.ranges, *later.ranges),
    )


class ResultLike(Protocol):
    """A `ReadResult`, as errors and pictures see it."""

    @property
    def table(self) -> pa.Table: ...
    @property
    def frame(self) -> pd.DataFrame: ...
    @property
    def reports(self) -> Mapping[Any, ShardReport]: ...
    @property
    def missing(self) -> Ranges: ...
    @property
    def complete(self) -> bool: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def timeout(self) -> float: ...
    @property
    def windows(self) -> tuple[Window, ...]: ...
