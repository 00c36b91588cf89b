"""What redis-py raises, as the status of a shard."""

from __future__ import annotations

import re
from errno import ECONNRESET

from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.failures import one_line, system_words
from labkit.shards.secrets import NONE, Secrets

__all__ = ["failure"]


def failure(error: Exception, *, connected: bool, secrets: Secrets = NONE) -> Exception:
    """A `RedisError` or OSError, as what a reader knows; `connected`: whether there was a connection by then.

    A `ResponseError` is the server's no, the rest is the connection's. What the server says is without `secrets`.
    """
    if isinstance(error, RedisTimeout | TimeoutError):
        return TimeoutError()
    if isinstance(error, BusyLoadingError):
        return ShardFailure(Status.UNREACHABLE, one_line(error, secrets))
    full = "max number of clients" in str(error)
    if full or isinstance(error, ResponseError | AuthenticationError):
        return ShardFailure(Status.REJECTED, one_line(error, secrets))
    cause = _cause(error, secrets)
    lost = connected or cause == system_words(ECONNRESET)  # which takes a connection, if not one that was ready
    return ShardFailure(Status.DISCONNECTED if lost else Status.UNREACHABLE, cause)


def _cause(error: Exception, secrets: Secrets) -> str:
    """redis-py may lose the system's error on the way, and keep its number in a text that names the address."""
    number = re.match(r"Error (\d+) connecting|Error while \w+ [^(]*\((\d+), ", str(error))
    if number:
        return system_words(int(number[1] or number[2]))
    return one_line(error, NONE if type(error) is RedisConnectionError else secrets)  # that is redis-py's own
