"""Lines of stdin on the event loop, whatever stdin is: a terminal, a pipe, a file, nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

__all__ = ["lines", "typed_at"]

CHUNK = 65536
MOST = 1 << 20
"""Bytes of what is no pipe and no terminal; there are files without an end."""
REST = 0.5
"""Seconds until a terminal is looked at again that others are typing in."""


async def lines(descriptor: int) -> AsyncIterator[str]:
    """Each line without its end, as it comes; ends at the end of the input. Needs no thread, which could not be ended.

    Of a terminal whose foreground is another job nothing is taken: the system would stop this one for it.
    """
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    watching = _Watch(descriptor, chunks)
    rest = b""
    try:
        watching.start()
        while chunk := await chunks.get():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")
    finally:
        watching.stop()


def typed_at(descriptor: int) -> bool:
    """Whether it is a terminal, and who types there may mean us."""
    return os.isatty(descriptor) and not _in_background(descriptor)


def _in_background(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:  # no terminal, or not the one of our session: nobody is stopped for reading it
        return False


class _Watch:
    """Puts into `chunks` what can be read, as soon as it can; b"" is the end."""

    def __init__(self, descriptor: int, chunks: asyncio.Queue[bytes]) -> None:
        self._descriptor, self._chunks = descriptor, chunks
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None

    def start(self) -> None:
        try:
            self._loop.add_reader(self._descriptor, self._read)
        except PermissionError:  # epoll's word for a file, or /dev/null: all of it is there already
            self._read_all()
        except (OSError, ValueError):
            self._chunks.put_nowait(b"")

    def stop(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._later is not None:
            self._later.cancel()

    def _read(self) -> None:
        if _in_background(self._descriptor):
            self._loop.remove_reader(self._descriptor)
            self._later = self._loop.call_later(REST, self.start)
            return
        chunk = self._chunk(CHUNK)
        if not chunk:
            self._loop.remove_reader(self._descriptor)
        self._chunks.put_nowait(chunk)

    def _read_all(self) -> None:
        left = MOST
        while left and (chunk := self._chunk(min(CHUNK, left))):
            self._chunks.put_nowait(chunk)
            left -= len(chunk)
        self._chunks.put_nowait(b"")

    def _chunk(self, most: int) -> bytes:
        """What fails has ended: a terminal that was hung up."""
        try:
            return os.read(self._descriptor, most)
        except OSError:
            return b""
