"""Connections from the proxy to its server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

from labkit._resolve import connected

__all__ = ["Upstream", "dial"]

Upstream = str | tuple[str, int]
"""(host, port), the host an address or a name; or the path of a unix socket."""


async def dial(upstream: Upstream, given_up: Callable[[], bool] = lambda: False) -> socket.socket:
    """A connected, non-blocking socket to `upstream`. A name is looked up anew each time, without blocking the loop.

    OSError if it cannot connect, or the client has `given_up` meanwhile.
    """
    if isinstance(upstream, tuple):
        return await connected(*upstream)
    server = socket.socket(socket.AF_UNIX)
    server.setblocking(False)
    with _closed_on_error(server):
        while True:
            try:
                server.connect(upstream)
                return server
            except BlockingIOError:
                # The server does not accept and its queue is full. A unix socket has no event to wait for then:
                # hang as TCP would, until there is room or the client leaves.
                await asyncio.sleep(0.01)
                if given_up():
                    raise


@contextlib.contextmanager
def _closed_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
