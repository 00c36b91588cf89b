"""How a shard's part of a read ended."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Status"]


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
    """This side failed, and nothing is known of the server: a bug, a wrong setting, a reader that was closed."""
    SKIPPED = "skipped"
    """It was not asked: it owns no ID in the window."""
