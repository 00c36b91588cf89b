"""The receiving end of a connection to a Redis server.

A server sends a long answer in pieces of some 64 KiB. Here they are kept as they come, without copying, until they may
hold an answer or are many: waking a task for each of them takes longer than receiving them.
Source: Redis, `server.h` (NET_MAX_WRITES_PER_EVENT).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["CLOSED", "Arrivals"]

CLOSED = "Connection closed by server."


class Arrivals(asyncio.StreamReader):
    """A stream for `asyncio.StreamReaderProtocol`, read by `arrived` only. With `most` unread bytes or more, receiving
    pauses until they are read.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._end: Any = None
        self._is_paused = False
        self._waiting: asyncio.Future[None] | None = None
        self.can_wait: Callable[[int, bytes], bool] = lambda _size, _last: False
        """Whether so many bytes, of which these are the last, are not worth reading yet, as more must follow."""

    @property
    def has_data(self) -> bool:
        """Whether there are unread bytes."""
        return bool(self._parts)

    async def arrived(self) -> list[bytes]:
        """The unread bytes, as soon as they are worth reading. Raises why the connection was lost, or redis-py's
        ConnectionError at its end.
        """
        if not self._is_due:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if (error := self.exception()) is not None:
            raise error
        if not self._parts:
            raise RedisConnectionError(CLOSED)
        parts, self._parts, self._size = self._parts, [], 0
        if self._is_paused:
            self._is_paused = False
            self._end.resume_reading()
        return parts

    # For the protocol:

    def set_transport(self, transport: Any) -> None:
        super().set_transport(transport)
        self._end = transport

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        self._parts.append(data)
        self._size += len(data)
        if self._size >= self._most and not self._is_paused:
            self._is_paused = True
            self._end.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        super().feed_eof()
        self._wake()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]
        self._wake()

    @property
    def _is_due(self) -> bool:
        if self.at_eof() or self.exception() is not None:
            return True
        return bool(self._parts) and not self.can_wait(self._size, self._parts[-1])

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done() and self._is_due:
            self._waiting.set_result(None)
