"""What can be wrong with a cell, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Complaint", "Kind"]


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
