"""Classifies what Postgres and its driver raise."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
from asyncpg.pgproto.pgproto import BufferError as TooShort

from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.failures import classify, one_line
from labkit.shards.postgres.url import STATEMENT_TIMEOUT
from labkit.shards.secrets import NONE, Secrets

__all__ = ["CLOSED", "SessionEnded", "connect_failure", "query_failure"]

CLOSED = "the shard was closed"
_NOT_UNDERSTOOD = (asyncpg.InternalClientError, TooShort, IndexError, UnicodeError)
"""What the driver raises for malformed answers; it does not blame the server."""


class SessionEnded(ShardFailure):
    """The server had ended an idle session: the query was not sent, or not received."""

    def __init__(self) -> None:
        super().__init__(Status.DISCONNECTED, "the server closed this idle connection")


def connect_failure(error: Exception, secrets: Secrets = NONE) -> ShardFailure:
    """Refused, reset or still starting is UNREACHABLE; a server's refusal for another reason is REJECTED. `secrets` are
    masked.
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
    """Class 08 and 57P (shut down, crashed) are a lost connection, 57014 is the server's own timeout. For an error
    without a code, `lost` says whether the connection is closed. `secrets` are masked.

    Source of the codes: PostgreSQL documentation, Appendix A, "PostgreSQL Error Codes".
    """
    states, text = list(_sqlstates(error)), _text(error, secrets)
    if "cannot switch to state" in str(error):
        # asyncpg has read the server's final error, but the connection is not closed yet.
        return SessionEnded()
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
    """The five-character SQLSTATEs of the error and its causes."""
    while error is not None:
        state = getattr(error, "sqlstate", None)
        if state:
            yield str(state)
        error = error.__cause__


def _text(error: BaseException, secrets: Secrets) -> str:
    """The words of the server or the system, which the driver may wrap in its own error."""
    return one_line(error.__cause__ or error, secrets)
