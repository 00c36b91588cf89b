"""Classifies what redis-py raises. `labkit call` uses this module too, so it loads neither numpy nor pyarrow."""

from __future__ import annotations

from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from labkit.report import Status

__all__ = ["is_reply", "status_of"]


def status_of(error: Exception, *, connected: bool) -> Status:
    """The status for a `RedisError` or OSError; `connected`: whether the connection was ready by then.

    A reply other than LOADING is the server's refusal; the rest are failures of the connection.
    """
    if isinstance(error, RedisTimeout | TimeoutError):
        return Status.TIMEOUT
    if isinstance(error, BusyLoadingError):
        return Status.UNREACHABLE
    if is_reply(error):
        return Status.REJECTED
    return Status.DISCONNECTED if connected else Status.UNREACHABLE


def is_reply(error: Exception) -> bool:
    """Whether the server replied with this error."""
    full = "max number of clients" in str(error)  # redis-py makes it a ConnectionError
    return full or isinstance(error, ResponseError | AuthenticationError | BusyLoadingError)
