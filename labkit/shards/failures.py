"""What an exception says about a shard: one table for all kinds of shards, most specific first."""

from __future__ import annotations

from labkit.answer import InvalidAnswer
from labkit.shards.base import ShardFailure
from labkit.status import Status

__all__ = ["classify", "one_line"]

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
    """The error's text on one line, or the name of its type where it has none."""
    text = " ".join(str(error).split())
    return text if text else type(error).__name__
