"""What strangers may take of an access point: each limit has an answer that says so, and none of them queues."""

from __future__ import annotations

import resource
from dataclasses import dataclass, fields
from typing import Any

from labkit._checks import positive_seconds, shown
from labkit.errors import UsageError

__all__ = ["Limits", "Unsent"]

SMALL = 65_536
"""Bytes of an answer that are let through however much waits: a connection has room for as many."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an access point gives its clients. Raises `UsageError` for what is no such number.

    Beyond a limit the answer is a problem document: 408, 422, 431, or 503 with `Retry-After`.
    """

    connections: int | None = None
    """Connections at a time; None is 1,000, or half of the files that the process may open where those are fewer."""
    windows: int = 200
    """Different windows that are watched at a time; all who watch the same one count once."""
    head: int = 16_384
    """Bytes of a request's first line and headers together."""
    parameters: int = 100
    """Query parameters of a request."""
    head_timeout: float = 10.0
    """Seconds from a request's first byte (on a new connection: from its beginning) to the end of its head."""
    send_timeout: float = 20.0
    """Seconds that a client may let pass without taking what is sent to it, about 100 KB; then it is cut off."""
    unsent: int = 128 << 20
    """Bytes of large answers that are being read, made and sent, all together; a single one may be larger."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_timeout"):
                positive_seconds(value, field.name)
            elif not (value is None and field.default is None):
                _positive(value, field.name)

    def clients(self) -> int:
        """How many connections: `UsageError` where the process may not open as many files."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most == resource.RLIM_INFINITY:
            return self.connections or MANY
        if self.connections is None:
            return max(1, min(MANY, most // 2))
        if self.connections > most - SPARE:
            raise UsageError(
                f"connections={self.connections}: this process may open {most} files, and needs some for its shards; "
                f"allow fewer connections or more files (ulimit -n {self.connections + 2 * SPARE})"
            )
        return self.connections


MANY = 1_000
SPARE = 64
"""Files besides connections of clients: those to the shards, and what the process itself needs."""


class Unsent:
    """Counts the bytes of large answers until their clients have them."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self.expected = 0
        """Bytes of the last answer that could have any size: what the next such one is taken for until it is there."""

    def take(self, size: int) -> bool:
        """Whether there is room; then `give` it back. A single answer always has it, and so have small ones."""
        if size > SMALL and self._taken and self._taken + size > self._most:
            return False
        self._taken += size
        return True

    def give(self, size: int) -> None:
        self._taken -= size


def _positive(value: Any, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be a positive integer, not {shown(value)}")
