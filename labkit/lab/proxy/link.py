"""One connection through the proxy: a client's socket, a server's, and the two streams between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from labkit.faults.network.pipe import End
from labkit.lab.proxy.postgres_wire import Prepared
from labkit.lab.proxy.stream import ProxyStream
from labkit.lab.proxy.trace import Span, Trace

__all__ = ["Link"]

LINGER = 0.25
"""Seconds of silence after which a connection is closed once one direction has ended: a peer that is gone looks just
like one that has only finished sending.
"""
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends a reset."""

INTERNET = (socket.AF_INET, socket.AF_INET6)


class Link:
    """Calls `gone(link)` once, when it has closed. Its streams are "upstream" and "downstream"."""

    def __init__(
        self, client: socket.socket, server: socket.socket, trace: Trace, gone: Callable[[Link], None]
    ) -> None:
        self._client, self._server, self.trace, self._gone = client, server, trace, gone
        self._closing: asyncio.TimerHandle | None = None
        self.closed = False
        for sock in (client, server):
            if sock.family in INTERNET:
                with contextlib.suppress(OSError):  # some systems refuse once the peer is gone
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.prepared = Prepared()
        self.streams = {
            "upstream": ProxyStream(client, server, self._ended, trace.asked, Span(), self.prepared),
            "downstream": ProxyStream(server, client, self._ended, trace.heard, trace.answered),
        }

    def freeze(self, on: bool) -> None:
        """Stops all bytes; or lets them pass."""
        for stream in self.streams.values():
            stream.freeze(on)

    def close(self, *, reset: bool = False, by: str = "proxy") -> None:
        """Closes both sides, if not closed yet; `by` whom is noted, if neither side has ended it."""
        if self.closed:
            return
        self.closed = True
        self.trace.close(asyncio.get_running_loop().time(), by)
        if self._closing is not None:
            self._closing.cancel()
        for stream in self.streams.values():
            stream.close()
        for sock in (self._client, self._server):
            if reset and sock.family in INTERNET:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            sock.close()
        self._gone(self)

    def _ended(self, end: End) -> None:
        if end is not End.FIN or all(stream.over for stream in self.streams.values()):
            self.close(reset=end is End.RESET)
        elif self._closing is None:
            self._linger(-1)

    def _linger(self, before: int) -> None:
        """Closes unless bytes have passed since; else checks again later."""
        passed = sum(stream.passed for stream in self.streams.values())
        if passed == before:
            self.close()
        else:
            self._closing = asyncio.get_running_loop().call_later(LINGER, self._linger, passed)
