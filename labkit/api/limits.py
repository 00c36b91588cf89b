"""What clients may use of an access point. Beyond a limit they get an error at once; nothing is queued."""

from __future__ import annotations

import logging
import resource
import time
from dataclasses import dataclass, fields
from typing import Any

from labkit._checks import positive_seconds, shown
from labkit.errors import UsageError

__all__ = ["SMALL", "Limits", "RateLimitedLogger", "UnsentBytes"]

SMALL = 65_536
"""Bytes; an answer up to this size is always admitted: it fits in a connection's buffer."""
_DEFAULT_CONNECTIONS = 1_000
SPARE_FILES = 64
"""Files besides client connections: connections to shards, and the process's own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an access point grants its clients. Raises `UsageError` for an invalid limit.

    Beyond a limit the answer is a problem document: 408, 422, 431, or 503 with `Retry-After`.
    """

    connections: int | None = None
    """Concurrent connections; None is 1,000, or half of the process's open-file limit if that is less."""
    windows: int = 200
    """Different windows watched at a time; all clients watching the same window count once."""
    head: int = 16_384
    """Bytes of a request line and its headers together."""
    parameters: int = 100
    """Query parameters per request."""
    head_timeout: float = 10.0
    """Seconds from a request's first byte (on a new connection: from its start) to the end of its headers."""
    send_timeout: float = 20.0
    """Seconds within which a client must take what is buffered for it, about 100 KB; else it is disconnected."""
    unsent: int = 128 << 20
    """Total bytes of large answers being read, encoded or sent; a single answer may be larger."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_timeout"):
                positive_seconds(value, field.name)
            elif value is None and field.default is None:
                continue
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{field.name} must be a positive integer, not {shown(value)}")

    def clients(self) -> int:
        """The number of connections granted; `UsageError` if the process may not open that many files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return self.connections or _DEFAULT_CONNECTIONS
        if self.connections is None:
            return max(1, min(_DEFAULT_CONNECTIONS, files // 2))
        if self.connections > files - SPARE_FILES:
            raise UsageError(
                f"connections={self.connections}: this process may open {files} files and needs some for its shards; "
                f"allow fewer connections or more files (ulimit -n {self.connections + 2 * SPARE_FILES})"
            )
        return self.connections


class UnsentBytes:
    """Counts the bytes of large answers until their clients have received them."""

    def __init__(self, limit: int) -> None:
        self._limit, self._reserved = limit, 0
        self.expected = 0
        """Bytes of the last answer of unbounded size: the estimate to reserve for the next one before it is read."""

    def reserve(self, size: int) -> bool:
        """True if there is room; then `release` it later. A single answer always fits, and so do small ones."""
        if size > SMALL and self._reserved and self._reserved + size > self._limit:
            return False
        self._reserved += size
        return True

    def release(self, size: int) -> None:
        self._reserved -= size


class RateLimitedLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs at most one record per second and cause, with the number of records suppressed before it."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})
        self._last: dict[Any, tuple[float, int]] = {}

    @property
    def level(self) -> int:
        """The logger's level; uvicorn reads it."""
        return self.logger.level

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """A cause is a message before formatting, and the type of its exception."""
        error = kwargs.get("exc_info")
        cause = level, msg, type(error) if isinstance(error, BaseException) else None
        now = time.monotonic()
        logged, suppressed = self._last.get(cause, (-1.0, 0))
        if logged >= 0 and now - logged < 1:
            self._last[cause] = logged, suppressed + 1
            return
        self._last[cause] = now, 0
        self.logger.log(level, f"{msg} ({suppressed} more suppressed)" if suppressed else msg, *args, **kwargs)
