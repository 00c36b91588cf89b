"""What Postgres and its driver raise, as statuses."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
from asyncpg.pgproto.pgproto import BufferError as TooShort

from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.failures import classify, one_line
from labkit.shards.postgres.url import STATEMENT_TIMEOUT
from labkit.shards.secrets import NONE, Secrets

__all__ = ["CLOSED", "HadEnded", "connect_failure", "query_failure"]

CLOSED = "the shard was closed"
_NOT_UNDERSTOOD = (asyncpg.InternalClientError, TooShort, IndexError, UnicodeError)
"""What the driver has for bytes that are no answer; it does not say that they came from the server."""


class HadEnded(ShardFailure):
    """The server had ended the session while it lay idle: the question was not sent, or nobody was there to hear it."""

    def __init__(self) -> None:
        super().__init__(Status.DISCONNECTED, "the server closed this idle connection")


def connect_failure(error: Exception, secrets: Secrets = NONE) -> ShardFailure:
    """Refused, reset or still starting is UNREACHABLE; a server that says no for another reason has REJECTED. What it
    says is without `secrets`.
    """
    state = next(_sqlstates(error), "")
    said, text = str(error), _text(error, secrets)
    if "unsupported startup parameter" in said and STATEMENT_TIMEOUT in said:
        advice = f"write ?{STATEMENT_TIMEOUT}=off at the end of the shard's URL, or have the pooler ignore it"
        return ShardFailure(Status.REJECTED, f"{text}; {advice}")
    if state:
        lost = state.startswith(("57P", "08"))
        return ShardFailure(Status.UNREACHABLE if lost else Status.REJECTED, text)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return ShardFailure(Status.UNREACHABLE, text)
    status, cause = classify(error, secrets)
    return ShardFailure(Status.UNREACHABLE, text) if status is Status.DISCONNECTED else ShardFailure(status, cause)


def query_failure(error: Exception, *, lost: bool, secrets: Secrets = NONE) -> ShardFailure:
    """Class 08 and 57P (shut down, crashed) are a lost connection, 57014 is the server's own timeout.

    Where the error has no code, `lost` says whether the connection is closed. What the server says is without
    `secrets`.

    Source of the codes: PostgreSQL documentation, Appendix A, "PostgreSQL Error Codes".
    """
    states, text = list(_sqlstates(error)), _text(error, secrets)
    if "cannot switch to state" in str(error):
        # asyncpg has read the server's farewell, and the end of the connection has not come yet.
        return HadEnded()
    if "57014" in states:
        return ShardFailure(Status.TIMEOUT, text)
    if states:
        lost = states[0].startswith(("08", "57P"))
        return ShardFailure(Status.DISCONNECTED if lost else Status.REJECTED, text)
    if isinstance(error, _NOT_UNDERSTOOD) and not lost:
        return ShardFailure(Status.INVALID, f"the answer cannot be understood: {text}")
    if lost or isinstance(error, OSError):
        return ShardFailure(Status.DISCONNECTED, text)
    return ShardFailure(*classify(error, secrets))


def _sqlstates(error: BaseException | None) -> Iterator[str]:
    """The server's five-letter SQLSTATEs, of the error and of its causes."""
    while error is not None:
        state = getattr(error, "sqlstate", None)
        if state:
            yield str(state)
        error = error.__cause__


def _text(error: BaseException, secrets: Secrets) -> str:
    """The words of the server or the system, where the driver tells of its own first."""
    return one_line(error.__cause__ or error, secrets)
