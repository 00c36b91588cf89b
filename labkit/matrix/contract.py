"""What a reader promises about rows that it cannot have."""

from __future__ import annotations

from enum import StrEnum

from labkit.errors import UsageError

__all__ = ["Contract", "contract"]


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
