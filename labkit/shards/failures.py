"""What an exception says about a shard: one table for all kinds of shards, most specific first."""

from __future__ import annotations

import os
import ssl
from errno import errorcode

from labkit._streams import visible
from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.secrets import NONE, Secrets
from labkit.tables import InvalidAnswer

__all__ = ["classify", "is_lost_transport", "one_line", "system_words", "tls_words"]

_BY_TYPE: tuple[tuple[type[BaseException], Status], ...] = (
    (InvalidAnswer, Status.INVALID),
    (TimeoutError, Status.TIMEOUT),
    (ConnectionRefusedError, Status.UNREACHABLE),
    (ConnectionError, Status.DISCONNECTED),
    (EOFError, Status.DISCONNECTED),
    (ssl.SSLEOFError, Status.DISCONNECTED),
    (ssl.SSLZeroReturnError, Status.DISCONNECTED),
    (OSError, Status.UNREACHABLE),
)
_PLAINTEXT = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""What OpenSSL calls an answer that is not TLS, by version and by the answer's first bytes."""


def classify(error: BaseException, secrets: Secrets = NONE) -> tuple[Status, str]:
    """The status that stands for `error`, and its cause in one line, what a server said in it without `secrets`.

    A shard that knows better raises `ShardFailure`. What nobody knows is this side's failure and no word of the
    server's: ERROR, with the exception's name.
    """
    if isinstance(error, ShardFailure):
        return error.status, one_line(error)
    if is_lost_transport(error):
        return Status.DISCONNECTED, "the connection was lost"
    status = next((status for kind, status in _BY_TYPE if isinstance(error, kind)), Status.ERROR)
    if status is Status.TIMEOUT:
        return status, "no answer before the deadline"
    if status is Status.ERROR:
        return status, _named(error, secrets)
    return status, one_line(error, secrets)


def is_lost_transport(error: BaseException) -> bool:
    """Whether a write came after the loop had lost the connection, which is not always said by an OSError: uvloop
    raises RuntimeError, and the selector loop of Python 3.12 and later forgets its loop first.
    """
    text = str(error)
    if isinstance(error, RuntimeError):
        return text.endswith("; the handler is closed")
    return isinstance(error, AttributeError) and text == "'NoneType' object has no attribute '_add_writer'"


def one_line(error: BaseException, secrets: Secrets = NONE) -> str:
    """The error's text on one line: the system's own words for its errors, which name no address and are the
    same whatever library passes them on; the name of its type where it has no text.

    What is neither may be a server's: without `secrets`, and with nothing in it that a terminal would obey.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, ssl.SSLError):
            return tls_words(cause)
        number = cause.errno if isinstance(cause, OSError) else None
        if number is not None and number in errorcode:
            return system_words(number)
        # What was handled meanwhile explains a system's error, but not what a server said.
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, OSError) else None)
    text = " ".join(str(error).split())
    return visible(secrets.masked(text)) if text else type(error).__name__


def system_words(number: int) -> str:
    """What the system calls an error number: "connection refused"."""
    return os.strerror(number).lower()


def tls_words(error: ssl.SSLError) -> str:
    """What went wrong in TLS: "certificate verify failed: self-signed certificate". Its `errno` is OpenSSL's own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.rstrip('.')}"
    reason: str = getattr(error, "reason", None) or error.strerror or type(error).__name__
    if reason in _PLAINTEXT:
        return "TLS failed: the server does not answer in TLS"
    return f"TLS failed: {reason.replace('_', ' ').lower()}"


def _named(error: BaseException, secrets: Secrets) -> str:
    name, text = type(error).__name__, one_line(error, secrets)
    return name if text == name else f"{name}: {text}"
