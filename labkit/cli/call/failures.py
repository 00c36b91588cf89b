"""Why a node gave no reply: the statuses of a read, and the cause in one line."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from errno import errorcode

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from labkit.errors import LabkitError
from labkit.report import Status
from labkit.shards.redis.failures import is_reply, status_of
from labkit.shards.secrets import Secrets

__all__ = ["CallFailure", "NobodyAnswers", "failure", "said"]


class NobodyAnswers(LabkitError):
    """Raised when no start-up node lists the nodes of the cluster: all are dead or frozen. The message has the cause
    for each; name other nodes.
    """


class CallFailure(Exception):
    """Raised inside a call when a node gives no reply; it becomes data there, and finally a line on stderr."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(f"{status}: {cause}")
        self.status = status
        self.cause = cause


def failure(error: Exception, secrets: Secrets, *, connected: bool, seconds: float) -> CallFailure:
    """What redis-py or the system raised; `connected`: whether the connection was ready by then. Any other exception
    is this side's failure. What the server said is without `secrets`.
    """
    if isinstance(error, InvalidResponse | ValueError):
        return CallFailure(Status.INVALID, "its answer is not a reply of a Redis server")
    if not isinstance(error, RedisError | OSError | EOFError):
        return CallFailure(Status.ERROR, f"{type(error).__name__}: {said(error, secrets)}")
    status = status_of(error, connected=connected)
    if status is Status.TIMEOUT:
        return CallFailure(status, f"no answer within {seconds:g} s")
    return CallFailure(status, said(error, secrets) if is_reply(error) else _cause(error, secrets))


def said(error: Exception, secrets: Secrets) -> str:
    """A server's error as the server wrote it, without `secrets`: redis-py cuts off its first word, the code."""
    code = error.status_code if isinstance(error, RedisError) else None
    return secrets.masked(f"{code or ''} {error}".strip())


def _cause(error: Exception, secrets: Secrets) -> str:
    """The system's own words, which name no address; else the library's."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLError):  # its errno is OpenSSL's, not the system's
            return f"TLS: {getattr(one, 'verify_message', '') or one.reason or one}".lower()
        if isinstance(one, OSError):
            number = re.search(r"\[Errno (\d+)]", str(one))  # also that of the first of several addresses of a name
            if number is not None and int(number[1]) in errorcode:
                return os.strerror(int(number[1])).lower()
            if one.strerror:
                return one.strerror.lower()
    text = " ".join(str(error).split()) or type(error).__name__
    return text if type(error) is RedisConnectionError else secrets.masked(text)  # that is redis-py's own


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
