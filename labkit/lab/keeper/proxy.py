"""A TCP proxy on 127.0.0.1 in front of one server: a stable address, and the place for network faults."""

from __future__ import annotations

import asyncio
import contextlib
import socket

__all__ = ["Proxy"]

CHUNK = 65536
"""Bytes read at a time, and the most that one direction of a connection holds."""
BACKLOG = 512
LINGER = 0.25
"""Seconds one direction may go on after the other has ended, as a server that says goodbye does."""


class Proxy:
    """Passes bytes on between clients of its port and `upstream`, a (host, port) or the path of a unix socket.

    `accept()` opens the door; `refuse()` closes it: connections end, new ones are refused, the port stays ours.
    `blackhole(True)` makes it silent: nothing passes, and connect() hangs. Undone, held bytes go on their way.
    """

    def __init__(self, upstream: str | tuple[str, int]) -> None:
        self.upstream = upstream
        self._holder = _bound(0)  # never listens: keeps the port while nobody does
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._door: asyncio.Task[None] | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._fillers: list[socket.socket] = []
        self._open = asyncio.Event()
        self._open.set()

    def accept(self) -> None:
        """Starts to listen; does nothing where it listens already."""
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(BACKLOG)
            self._door = asyncio.create_task(self._serve(self._listener))

    async def refuse(self) -> None:
        """Ends all connections and refuses new ones; returns when that is so."""
        await self._stop_serving()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await _cancelled(self._links)

    async def blackhole(self, on: bool) -> None:
        """Silence: established connections stall both ways and new ones hang in connect()."""
        if on:
            self._open.clear()
            await self._stop_serving()
            if self._listener is not None:
                await self._fill_backlog(self._listener)
            return
        self._drop_fillers()
        self._open.set()
        if self._listener is not None and self._door is None:
            self._listener.listen(BACKLOG)
            self._door = asyncio.create_task(self._serve(self._listener))

    async def aclose(self) -> None:
        """Ends everything and gives the port back."""
        await self.refuse()
        self._drop_fillers()
        self._holder.close()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self._adopt(client)

    def _adopt(self, client: socket.socket) -> None:
        link = asyncio.create_task(self._link(client))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _stop_serving(self) -> None:
        if self._door is not None:
            await _cancelled({self._door})
            self._door = None

    async def _fill_backlog(self, listener: socket.socket) -> None:
        """Fills the queue of connections that nobody accepts; once it is full, the kernel drops every SYN.

        A completed connect means there was room. The one that does not complete is the proof that there is none.
        """
        listener.listen(0)
        loop = asyncio.get_running_loop()
        while len(self._fillers) < 2 * BACKLOG:
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            try:
                await asyncio.wait_for(loop.sock_connect(filler, listener.getsockname()), 0.05)
            except TimeoutError:
                return
        raise OSError("this kernel takes connections beyond the backlog: no black hole here")

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    async def _link(self, client: socket.socket) -> None:
        with contextlib.closing(client):
            await self._open.wait()
            try:
                server = await self._dial()
            except OSError:
                return
            with contextlib.closing(server):
                _no_delay(client)
                _no_delay(server)
                pumps = [
                    asyncio.create_task(self._pump(client, server)),
                    asyncio.create_task(self._pump(server, client)),
                ]
                try:
                    done, rest = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                    if rest and not any(pump.exception() for pump in done):
                        await asyncio.wait(rest, timeout=LINGER)
                finally:
                    await _cancelled(set(pumps))

    async def _dial(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if isinstance(self.upstream, tuple):
            server = socket.socket()
            server.setblocking(False)
            with _closed_on_error(server):
                await loop.sock_connect(server, self.upstream)
            return server
        server = socket.socket(socket.AF_UNIX)
        server.setblocking(False)
        with _closed_on_error(server):
            while True:
                try:
                    server.connect(self.upstream)
                    return server
                except BlockingIOError:
                    # The queue of a server that does not accept is full, and a unix socket offers nothing to
                    # wait for: hang as TCP would, until there is room or the client leaves.
                    await asyncio.sleep(0.01)

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, CHUNK):
            if not self._open.is_set():
                await self._open.wait()
            await loop.sock_sendall(sink, data)
        if not self._open.is_set():
            await self._open.wait()
        sink.shutdown(socket.SHUT_WR)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", port))
    return sock


def _no_delay(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@contextlib.contextmanager
def _closed_on_error(sock: socket.socket):  # type: ignore[no-untyped-def]
    try:
        yield
    except BaseException:
        sock.close()
        raise
