"""Reads lines of stdin on the event loop, be it a terminal, a pipe, a file or closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

__all__ = ["lines", "typed_at"]

CHUNK = 65536
MAX_FILE = 1 << 20
"""Bytes read of a file; some files are endless."""
RECHECK = 0.5
"""Seconds between checks whether this job is in the foreground of its terminal again."""


async def lines(descriptor: int) -> AsyncIterator[str]:
    """Each line without its end, as it arrives, until the input ends. Uses no thread, since none could be stopped.

    Does not read a terminal while another job is in its foreground: the system would stop this one.
    """
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    watcher = _Watcher(descriptor, chunks)
    rest = b""
    try:
        watcher.start()
        while chunk := await chunks.get():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")
    finally:
        watcher.stop()


def typed_at(descriptor: int) -> bool:
    """Whether it is a terminal with this job in its foreground."""
    return os.isatty(descriptor) and not _in_background(descriptor)


def _in_background(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:  # not our controlling terminal: reading it stops nobody
        return False


class _Watcher:
    """Puts into `chunks` what can be read, as soon as it can be; b"" marks the end."""

    def __init__(self, descriptor: int, chunks: asyncio.Queue[bytes]) -> None:
        self._descriptor, self._chunks = descriptor, chunks
        self._loop = asyncio.get_running_loop()
        self._recheck: asyncio.TimerHandle | None = None

    def start(self) -> None:
        try:
            self._loop.add_reader(self._descriptor, self._read)
        except PermissionError:  # epoll refuses files and /dev/null, which can be read at once
            self._read_all()
        except (OSError, ValueError):
            self._chunks.put_nowait(b"")

    def stop(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._recheck is not None:
            self._recheck.cancel()

    def _read(self) -> None:
        if _in_background(self._descriptor):
            self._loop.remove_reader(self._descriptor)
            self._recheck = self._loop.call_later(RECHECK, self.start)
            return
        chunk = self._chunk(CHUNK)
        if not chunk:
            self._loop.remove_reader(self._descriptor)
        self._chunks.put_nowait(chunk)

    def _read_all(self) -> None:
        left = MAX_FILE
        while left and (chunk := self._chunk(min(CHUNK, left))):
            self._chunks.put_nowait(chunk)
            left -= len(chunk)
        self._chunks.put_nowait(b"")

    def _chunk(self, most: int) -> bytes:
        """An error is the end of input, as when a terminal hangs up."""
        try:
            return os.read(self._descriptor, most)
        except OSError:
            return b""
