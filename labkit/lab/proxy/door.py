"""The listening side of a proxy: it accepts, refuses like a port that nobody listens on, or drops every SYN."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address

__all__ = ["LOOPBACK", "Address", "Door"]

Address = tuple[str, int]
"""An address in digits, and a port."""
LOOPBACK: Address = ("127.0.0.1", 0)
"""Any free port, for this machine only."""

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel makes further clients retry after a second."""
MOST_FILLERS = 64
AT_ONCE = 64
"""Connections accepted before the event loop does other work."""
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
RETRY = 0.1
"""Seconds until the next accept when the limit of open files is reached: a waiting connection keeps the port readable,
and polling without a pause would take a whole core.
"""
PROOF = 0.05
"""Seconds without an answer that prove that the kernel drops SYNs; on loopback an answer is immediate."""


class Door:
    """An address, held until `close()`; port 0 is any free one. Calls `connected(client)` for each connection.

    Raises OSError if the address is in use, also by another door, or is not one of this machine's.
    """

    def __init__(self, connected: Callable[[socket.socket], None], listen: Address = LOOPBACK) -> None:
        self._connected = connected
        # Never listens: holds the port while the listener is closed.
        self._holder = _first(listen) if listen[1] else _bound(listen)
        self.address: Address = self._holder.getsockname()[:2]
        self._listener: socket.socket | None = None
        self._serves = False
        self._retry: asyncio.TimerHandle | None = None
        self._fillers: list[socket.socket] = []

    def open(self) -> None:
        """Accepts connections."""
        if self._fillers:
            self._accept(2 * BACKLOG)  # while our fillers can be told from waiting clients
            self._drop_fillers()
        if self._listener is None:
            self._listener = _bound(self.address)
        if not self._serves:
            self._listener.listen(BACKLOG)
            self._serves = True
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def shut(self) -> None:
        """Refuses connections."""
        self._drop_fillers()
        self.ignore()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def ignore(self) -> None:
        """Stops accepting; new connections wait in the kernel's queue."""
        if self._serves and self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._serves = False

    async def swallow(self) -> None:
        """Makes new connections hang: fills the accept queue, after which the kernel drops every SYN.

        A connect that completes means there was room; one that does not proves that the queue is full. Raises OSError
        if the kernel accepts without limit.
        """
        self.ignore()
        if self._listener is None:
            self._listener = _bound(self.address)
        self._listener.listen(0)
        while len(self._fillers) < MOST_FILLERS:
            filler = socket.socket(_family(self.address))
            filler.setblocking(False)
            self._fillers.append(filler)
            filler.connect_ex(self.address)
            if not await _connects(filler):
                return
        raise OSError("this kernel accepts connections beyond the backlog: no black hole here")

    def close(self) -> None:
        """Releases the port."""
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
                return  # or no connection waits
            # So that `_first` can take the port at once after this door, while the kernel still remembers a connection.
            with contextlib.suppress(OSError):  # some systems refuse once the peer is gone
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address in ours:
                client.close()
                continue
            client.setblocking(False)
            self._connected(client)

    @property
    def port(self) -> int:
        """The port of its address."""
        return self.address[1]

    @property
    def _shown(self) -> str:
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        if self._retry is None:
            sys.stderr.write(f"labkit: connections to {self._shown} wait: {error.strerror}; raise ulimit -n\n")
        self._retry = loop.call_later(RETRY, lambda: loop.add_reader(listener, self._accept))

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()


async def _connects(filler: socket.socket) -> bool:
    """Whether it connects in time; False if it was closed meanwhile."""
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


def _first(address: Address) -> socket.socket:
    """`_bound` to a port that nothing else holds: SO_REUSEPORT alone would let two of our doors share it."""
    with socket.socket(_family(address)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that were closed do not count
        _only_its_family(probe)
        probe.bind(address)
        probe.listen(0)  # two sockets with SO_REUSEADDR can both bind, but not both listen
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return _bound(address)


def _bound(address: Address) -> socket.socket:
    sock = socket.socket(_family(address))
    try:
        # SO_REUSEPORT is limited to our user. SO_REUSEADDR would let anybody bind a port that is held but not listened
        # on.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _only_its_family(sock)
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(address[0]).version == 6 else socket.AF_INET


def _only_its_family(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
