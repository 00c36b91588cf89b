"""What a reader promises, and how a cell can break the promise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labkit.errors import UsageError

__all__ = ["Complaint", "Contract", "Kind", "contract"]


class Contract(StrEnum):
    """What a read must return when a shard fails. labkit's own readers are always judged by `GAPS`."""

    GAPS = "gaps"
    """The rows of the shards that answered, and the exact ranges of IDs that are missing."""
    ALL_OR_NOTHING = "all-or-nothing"
    """All rows, or an exception in time."""
    BEST_EFFORT = "best-effort"
    """The rows of the shards that answered; missing ones need not be reported."""

    @property
    def promise(self) -> str:
        """The contract in a sentence, for reports."""
        return _PROMISES[self]


_PROMISES = {
    Contract.GAPS: "a reader returns the rows of the shards that answered, and the exact ranges that are missing",
    Contract.ALL_OR_NOTHING: "a reader returns all rows, or raises in time if a shard may fail",
    Contract.BEST_EFFORT: "a reader returns the rows of the shards that answered, and need not report what is missing",
}


def contract(name: str) -> Contract:
    """The contract of that name; `UsageError` for an unknown one."""
    try:
        return Contract(name)
    except ValueError:
        raise UsageError(f"unknown contract {name!r}: choose {', '.join(Contract)}") from None


class Kind(StrEnum):
    """Which promise was broken."""

    ROWS = "rows"
    """Rows that are not the truth: lost, changed, repeated, or from a shard that must not be trusted."""
    ORDER = "order"
    """Not ascending by id."""
    SILENT_GAP = "silent gap"
    """Rows are missing, and the reader does not report it."""
    GAP = "gap"
    """What is reported as missing is there, or must not be missing."""
    STATUS = "status"
    """A shard is reported with a status it cannot have."""
    LATE = "late"
    """Returned after the deadline."""
    BLOCKED = "blocked"
    """A late read blocked its event loop, so that nothing could have ended it in time."""
    RAISED = "raised"
    """The read raised where it must not."""
    MALFORMED = "malformed"
    """What the read returned is neither rows nor rows and gaps."""
    CRASHED = "crashed"
    """The read ended its own process."""
    NOT_HEALED = "not healed"
    """Reads were not complete within a second after the fault was undone."""
    LEFT_BEHIND = "left behind"
    """More tasks, threads, child processes or sockets than before."""
    NEVER_FIRED = "never fired"
    """The fault never affected a read: the cell proves nothing."""
    NOT_STARTED = "not started"
    """The fault could not be started: the cell proves nothing."""


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong."""

    kind: Kind
    text: str
    reader: str = ""
    """Whose read it is about: "warm", "cold" or "yours"; "" if it is not about a single read."""

    def by(self, reader: str) -> Complaint:
        """The same, about that reader."""
        return Complaint(self.kind, self.text, reader)

    def __str__(self) -> str:
        return f"{self.kind}{f' ({self.reader})' if self.reader else ''}: {self.text}"
