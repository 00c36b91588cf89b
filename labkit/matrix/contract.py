"""What a reader promises, and what can be wrong with a cell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labkit.errors import UsageError

__all__ = ["Complaint", "Contract", "Kind", "contract"]


class Contract(StrEnum):
    """What must come of a read when a shard fails. labkit's own readers are always judged by `GAPS`."""

    GAPS = "gaps"
    """The rows of the shards that answered, and the exact ranges of IDs that are missing."""
    ALL_OR_NOTHING = "all-or-nothing"
    """All rows, or an exception in time."""
    BEST_EFFORT = "best-effort"
    """The rows of the shards that answered; nobody has to say that some are missing."""

    @property
    def promise(self) -> str:
        """The same in a sentence, for reports."""
        return _PROMISES[self]


_PROMISES = {
    Contract.GAPS: "a reader returns the rows of the shards that answered, and says exactly which ranges are missing",
    Contract.ALL_OR_NOTHING: "a reader returns all rows, or raises in time where a shard may fail",
    Contract.BEST_EFFORT: "a reader returns the rows of the shards that answered, and need not say what is missing",
}


def contract(name: str) -> Contract:
    """The contract of that name; `UsageError` for one that does not exist."""
    try:
        return Contract(name)
    except ValueError:
        raise UsageError(f"unknown contract {name!r}: choose {', '.join(Contract)}") from None


class Kind(StrEnum):
    """What kind of promise was not kept."""

    ROWS = "rows"
    """Rows that are not the truth: lost, changed, repeated, or of a shard that was not to be trusted."""
    ORDER = "order"
    """Not ascending by id."""
    SILENT_GAP = "silent gap"
    """Rows are missing, and the reader does not say so."""
    GAP = "gap"
    """What is said to be missing is not missing, or may not be missing."""
    STATUS = "status"
    """A shard is reported as what it cannot be."""
    LATE = "late"
    """Not within the deadline."""
    BLOCKED = "blocked"
    """A late read kept its event loop from running, so that nothing could have ended it in time."""
    RAISED = "raised"
    """An exception came out of the read where none may."""
    MALFORMED = "malformed"
    """What came out of the read cannot be understood as rows, or as rows and gaps."""
    CRASHED = "crashed"
    """The read ended the process that it ran in."""
    NOT_HEALED = "not healed"
    """The read was not complete again within a second after the fault."""
    LEFT_BEHIND = "left behind"
    """More tasks, threads or sockets than before."""
    NEVER_FIRED = "never fired"
    """The fault never met the read: the cell says nothing."""
    NOT_STARTED = "not started"
    """The fault could not be made: the cell says nothing."""


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong."""

    kind: Kind
    text: str
    reader: str = ""
    """Whose read it is about: "warm", "cold" or "yours"; "" where it is about none in particular."""

    def by(self, reader: str) -> Complaint:
        """The same, about that reader."""
        return Complaint(self.kind, self.text, reader)

    def __str__(self) -> str:
        return f"{self.kind}{f' ({self.reader})' if self.reader else ''}: {self.text}"
