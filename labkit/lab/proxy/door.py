"""The address of a proxy: open, closed like a port that nobody listens on, or silent like a black hole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable

__all__ = ["Door"]

BACKLOG = 4096
"""Connections that may wait to be accepted: beyond it the kernel has clients try again a second later."""
MOST_FILLERS = 64
AT_ONCE = 64
"""Connections accepted before others have their turn."""
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REST = 0.1
"""Seconds until accepting is tried again where there was no room for another open file: a connection that waits keeps
the port readable, and asking without a pause would take a whole core.
"""
PROOF = 0.05
"""Seconds without an answer that prove that the kernel drops what knocks; on loopback there is one at once."""


class Door:
    """A port on 127.0.0.1 that is kept for as long as the door is. `knock(client)` is called for each connection."""

    def __init__(self, knock: Callable[[socket.socket], None]) -> None:
        self._knock = knock
        self._holder = _bound(0)  # never listens: keeps the port while nobody does
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._serves = False
        self._rest: asyncio.TimerHandle | None = None
        self._fillers: list[socket.socket] = []

    def open(self) -> None:
        """Accepts."""
        if self._fillers:
            self._accept(2 * BACKLOG)  # while ours can be told from clients that wait
            self._drop_fillers()
        if self._listener is None:
            self._listener = _bound(self.port)
        if not self._serves:
            self._listener.listen(BACKLOG)
            self._serves = True
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def shut(self) -> None:
        """Refuses."""
        self._drop_fillers()
        self.ignore()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def ignore(self) -> None:
        """Accepts no more; connections that are made now wait in the kernel's queue."""
        if self._serves and self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._serves = False

    async def swallow(self) -> None:
        """Makes new connections hang: the queue that nobody accepts from is filled, then the kernel drops every SYN.

        A completed connect means there was room. The one that does not complete is the proof that there is none.
        Raises OSError where the kernel takes connections without an end.
        """
        self.ignore()
        if self._listener is None:
            self._listener = _bound(self.port)
        self._listener.listen(0)
        while len(self._fillers) < MOST_FILLERS:
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            filler.connect_ex(("127.0.0.1", self.port))
            if not await _connected(filler):
                return
        raise OSError("this kernel takes connections beyond the backlog: no black hole here")

    def close(self) -> None:
        """Gives the port back."""
        self.shut()
        self._holder.close()

    def _accept(self, most: int = AT_ONCE) -> None:
        ours = {filler.getsockname() for filler in self._fillers}
        for _ in range(most):
            if self._listener is None:
                return
            try:
                client, address = self._listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_FILES and self._serves:
                    self._pause(self._listener, error)
                return  # or nobody is there
            if address in ours:
                client.close()
                continue
            client.setblocking(False)
            self._knock(client)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        if self._rest is None:
            sys.stderr.write(f"labkit: connections to 127.0.0.1:{self.port} wait: {error.strerror}; raise ulimit -n\n")
        self._rest = loop.call_later(REST, lambda: loop.add_reader(listener, self._accept))

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()


async def _connected(filler: socket.socket) -> bool:
    """Whether it connects in time; not where it was closed meanwhile."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + PROOF
    while filler.fileno() >= 0:
        with contextlib.suppress(OSError):
            filler.getpeername()
            return True
        if loop.time() > ends:
            return False
        await asyncio.sleep(PROOF / 10)
    return False


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    # For ours alone. SO_REUSEADDR as well would let anybody have a port that is held and not listened on.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", port))
    return sock
