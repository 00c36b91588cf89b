"""Accepting connections: at most a given number at a time; further ones are refused with 503.

asyncio's own acceptor has no limit, and logs thousands of tracebacks a second when no file is left.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from labkit._resolve import AddressInfo
from labkit.api.connection import Connection
from labkit.api.limits import RateLimitedLogger
from labkit.api.problems import raw_problem
from labkit.api.responses import RETRY

__all__ = ["Acceptor", "listen"]

_BACKLOG = 512
_MAX_PORT = 65535
_MAX_REFUSED = 64
"""Clients at a time that get time to read the refusal; beyond it they are refused and closed at once."""
_PAUSE = 0.5
"""Seconds without accepting after the system ran out of files or memory."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SEND_BUFFER = 131_072
"""Bytes that the kernel buffers per client (Linux doubles it). Its default, megabytes, would hide slow clients."""


class Acceptor:
    """Accepts connections on `listening`, serves at most `limit` at a time and refuses the others."""

    def __init__(
        self,
        listening: socket.socket,
        limit: int,
        make: Callable[[Callable[[], None], int | None], Connection],
        log: RateLimitedLogger,
    ) -> None:
        self._listening, self._limit, self._make, self._log = listening, limit, make, log
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = {"served": 0, "refused": 0}
        """Open connections of each kind."""

    def start(self) -> None:
        """Accepts connections from now on."""
        self._resume = None
        self._loop.add_reader(self._listening, self._accept)

    def stop(self) -> None:
        """Accepts no more connections."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)

    def _accept(self) -> None:
        for _ in range(_MAX_REFUSED):  # then other tasks get a turn
            try:
                client, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.error("cannot accept connections: %s", error.strerror)
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(self._listening)
                    self._resume = self._loop.call_later(_PAUSE, self.start)
                return
            client.setblocking(False)
            self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        full = self._count["served"] >= self._limit
        if full:
            self._log.warning("all %d connections are in use; refusing more", self._limit)
        if full and self._count["refused"] >= _MAX_REFUSED:
            with suppress(OSError), client:
                client.send(raw_problem(503, f"all {self._limit} connections are in use", RETRY))
            return
        kind = "refused" if full else "served"
        self._count[kind] += 1
        task = self._loop.create_task(self._connect(client, kind))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: socket.socket, kind: str) -> None:
        lost = partial(self._lost, kind)
        connection = self._make(lost, self._limit if kind == "refused" else None)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, client)
        except BaseException:
            if not connection.made:
                client.close()
                lost()
            raise

    def _lost(self, kind: str) -> None:
        self._count[kind] -= 1


def listen(port: int, found: AddressInfo) -> socket.socket:
    """A socket that listens at this address; raises OSError or OverflowError if it cannot."""
    if not 0 <= port <= _MAX_PORT:
        raise OverflowError(f"a port is a number from 0 to {_MAX_PORT}")  # some systems take it modulo 65536
    family, kind, protocol, _, address = found
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # inherited by its connections
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(_BACKLOG)  # at once: two sockets that only bind would both succeed
    except BaseException:
        listening.close()
        raise
    return listening
