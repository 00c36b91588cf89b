"""What an exception says about a shard: one table for all kinds of shards, most specific first."""

from __future__ import annotations

import os
from errno import errorcode

from labkit.answer import InvalidAnswer
from labkit.shards.base import ShardFailure
from labkit.status import Status

__all__ = ["classify", "one_line", "system_words"]

_BY_TYPE: tuple[tuple[type[BaseException], Status], ...] = (
    (InvalidAnswer, Status.INVALID),
    (TimeoutError, Status.TIMEOUT),
    (ConnectionRefusedError, Status.UNREACHABLE),
    (ConnectionError, Status.DISCONNECTED),
    (EOFError, Status.DISCONNECTED),
    (OSError, Status.UNREACHABLE),
)


def classify(error: BaseException) -> tuple[Status, str]:
    """The status that stands for `error`, and its cause in one line.

    A shard that knows better raises `ShardFailure`. What nobody knows is an answer of the server's: REJECTED.
    """
    if isinstance(error, ShardFailure):
        return error.status, one_line(error)
    status = next((status for kind, status in _BY_TYPE if isinstance(error, kind)), Status.REJECTED)
    if status is Status.TIMEOUT:
        return status, "no answer before the deadline"
    return status, one_line(error)


def one_line(error: BaseException) -> str:
    """The error's text on one line: the system's own words for its errors, which name no address and are the
    same whatever library passes them on; the name of its type where it has no text.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        number = cause.errno if isinstance(cause, OSError) else None
        if number is not None and number in errorcode:
            return system_words(number)
        # What was handled meanwhile explains a system's error, but not what a server said.
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, OSError) else None)
    text = " ".join(str(error).split())
    return text if text else type(error).__name__


def system_words(number: int) -> str:
    """What the system calls an error number: "connection refused"."""
    return os.strerror(number).lower()
