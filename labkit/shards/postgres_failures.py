"""What Postgres, its driver and SQLAlchemy raise, as statuses."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from labkit.shards.base import ShardFailure
from labkit.shards.failures import one_line
from labkit.status import Status

__all__ = ["HadEnded", "connect_failure", "query_failure"]


class HadEnded(ShardFailure):
    """The server had ended the session while it lay idle, and the driver did not even send the question."""

    def __init__(self) -> None:
        super().__init__(Status.DISCONNECTED, "the server closed this idle connection")


def _sqlstate(error: BaseException | None) -> str:
    """The server's five-letter SQLSTATE, '' where the error is not the server's."""
    while error is not None:
        state = getattr(error, "sqlstate", None)
        if state:
            return str(state)
        error = error.orig if isinstance(error, DBAPIError) else error.__cause__
    return ""


def _text(error: BaseException) -> str:
    """The driver's own words, without SQLAlchemy's SQL and links."""
    inner = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return one_line(inner.__cause__ or inner)


def connect_failure(error: Exception) -> ShardFailure:
    """Refused, reset or still starting is UNREACHABLE; a server that says no for another reason has REJECTED."""
    state = _sqlstate(error)
    rejected = state and not state.startswith("57P") and not state.startswith("08")
    return ShardFailure(Status.REJECTED if rejected else Status.UNREACHABLE, _text(error))


def query_failure(error: Exception, *, lost: bool) -> ShardFailure:
    """Class 08 and 57P (shut down, crashed) are a lost connection, 57014 is the server's own timeout.

    Where the error has no code, `lost` says whether the connection is closed.

    Source of the codes: PostgreSQL documentation, Appendix A, "PostgreSQL Error Codes".
    """
    if "cannot switch to state" in str(error):
        # asyncpg has read the server's farewell, and the end of the connection has not come yet.
        return HadEnded()
    state = _sqlstate(error)
    if state == "57014":
        return ShardFailure(Status.TIMEOUT, _text(error))
    if state:
        lost = state[:2] == "08" or state[:3] == "57P"
    lost = lost or isinstance(error, OSError)
    return ShardFailure(Status.DISCONNECTED if lost else Status.REJECTED, _text(error))
