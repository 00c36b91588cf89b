"""Classifies exceptions as statuses: one table for all kinds of shards, most specific first."""

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
"""OpenSSL's reasons for an answer that is not TLS; they depend on its version and on the answer's first bytes."""


def classify(error: BaseException, secrets: Secrets = NONE) -> tuple[Status, str]:
    """The status for `error`, and its cause in one line, with `secrets` masked in what a server said.

    A shard that knows better raises `ShardFailure`. An unknown exception is this side's failure, not the server's:
    ERROR, with the exception's name.
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
    """Whether this was a write after the loop had lost the connection, which is not always an OSError: uvloop raises
    RuntimeError, and the selector transport of Python 3.12 and later AttributeError, since it drops its loop first.
    """
    text = str(error)
    if isinstance(error, RuntimeError):
        return text.endswith("; the handler is closed")
    return isinstance(error, AttributeError) and text == "'NoneType' object has no attribute '_add_writer'"


def one_line(error: BaseException, secrets: Secrets = NONE) -> str:
    """The error's text on one line. For a system error these are the system's own words, which name no address and do
    not depend on the library that passes them on; an error without text is the name of its type.

    Any other text may be a server's: `secrets` are masked, and control characters are made visible.
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
        # The context, an error that was being handled, explains a system error but not what a server said.
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, OSError) else None)
    text = " ".join(str(error).split())
    return visible(secrets.masked(text)) if text else type(error).__name__


def system_words(number: int) -> str:
    """The system's text for an error number: "connection refused"."""
    return os.strerror(number).lower()


def tls_words(error: ssl.SSLError) -> str:
    """A TLS failure: "certificate verify failed: self-signed certificate". Its `errno` is OpenSSL's own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.rstrip('.')}"
    reason: str = getattr(error, "reason", None) or error.strerror or type(error).__name__
    if reason in _PLAINTEXT:
        return "TLS failed: the server does not answer in TLS"
    return f"TLS failed: {reason.replace('_', ' ').lower()}"


def _named(error: BaseException, secrets: Secrets) -> str:
    name, text = type(error).__name__, one_line(error, secrets)
    return name if text == name else f"{name}: {text}"
