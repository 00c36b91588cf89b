"""A TCP proxy in front of one server: a stable address, and the place for network faults."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import Counter, deque
from collections.abc import Callable

from labkit.faults.network.toxic import STREAMS, Toxic
from labkit.lab.proxy.dial import Upstream, dial
from labkit.lab.proxy.door import LOOPBACK, Address, Door
from labkit.lab.proxy.link import Link
from labkit.lab.proxy.toxics import Toxics
from labkit.lab.proxy.trace import Trace

__all__ = ["Proxy"]

MOST_TRACES = 1000
"""Connections that are remembered until somebody asks for them; then the oldest closed ones are forgotten."""


class Proxy:
    """Forwards bytes between clients of `listen` (port 0: any free one) and `upstream`, a (host, port) or the path of a
    unix socket.

    It accepts while its server lives (`accept()` until `refuse()`) and no fault forbids it. Calls `fired(number, at)`
    when a toxic fires. Pending faults take effect with the next `arm()`, all at once.
    """

    def __init__(
        self,
        upstream: Upstream,
        fired: Callable[[int, float], None] = lambda number, time: None,
        listen: Address = LOOPBACK,
    ) -> None:
        self.upstream = upstream
        self._door = Door(self._accepted, listen)
        self._alive = self._down = self._silent = False
        self._pending: set[str] = set()
        self._settling = asyncio.Lock()
        self._dialling: set[asyncio.Task[None]] = set()
        self._links: dict[Link, None] = {}
        """The oldest first."""
        self._traces: deque[Trace] = deque(maxlen=MOST_TRACES)
        """Of connections that are closed."""
        self._ended: Counter[tuple[str, str]] = Counter()
        """The bytes of connections that have ended."""
        self._toxics = Toxics(fired)

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._door.address

    @property
    def port(self) -> int:
        """The port of its address."""
        return self._door.port

    async def accept(self) -> None:
        """The server lives: accepts connections."""
        self._alive = True
        await self.settle()

    async def refuse(self) -> None:
        """The server is gone: ends all connections, refuses new ones; returns when that is done."""
        self._alive = False
        self._end_all(by="server")
        await self.settle()

    async def down(self, on: bool) -> None:
        """On: once armed, ends connections and refuses new ones. Off: stops that at once."""
        await self._switch("down", on)

    async def blackhole(self, on: bool) -> None:
        """On: once armed, connections stall both ways and new ones hang in connect(). Off: held bytes are sent."""
        await self._switch("silent", on)

    def add(self, number: int, toxic: Toxic, seed: str) -> None:
        """Adds a toxic, which takes effect with `arm`."""
        self._toxics.add(number, toxic, seed)

    def remove(self, number: int) -> None:
        """Removes a toxic."""
        self._toxics.remove(number, self._links)

    def change(self, number: int, toxic: Toxic) -> None:
        """Updates a toxic that acts: see `Toxics.change`."""
        self._toxics.change(number, toxic, self._links)

    def arm(self) -> None:
        """All pending faults take effect on existing connections; call `settle` next, for new ones."""
        self._toxics.arm(self._links)
        if "down" in self._pending:
            self._down = True
            self._end_all()
        if "silent" in self._pending:
            self._silent = True
            self._freeze(True)
        self._pending.clear()

    def traces(self) -> list[Trace]:
        """The connections that were open since the last call, the oldest first, with the bytes since then."""
        closed = list(self._traces)
        self._traces.clear()
        return sorted((trace.taken() for trace in (*closed, *(link.trace for link in self._links))), key=_opened)

    async def move(self, listen: Address) -> None:
        """Listens at another address from now on; ends all connections. Raises OSError if it cannot: then it listens
        where it did.
        """
        async with self._settling:
            before = self._door.address
            self._end_all()
            self._door.close()
            try:
                self._door = Door(self._accepted, listen)
            except OSError:
                self._door = Door(self._accepted, before)
                raise
            finally:
                await self._settle()

    async def redirect(self, upstream: Upstream) -> None:
        """Forwards to another server from now on; ends all connections."""
        self._end_all()
        self.upstream = upstream
        await self.settle()

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Bytes (received, sent) by stream, of all connections so far."""
        total = Counter(self._ended)
        for link in self._links:
            total.update(_bytes(link))
        return {stream: (total[stream, "received"], total[stream, "sent"]) for stream in STREAMS}

    async def aclose(self) -> None:
        """Ends everything and releases the port."""
        self._end_all()
        await asyncio.gather(*self._dialling, return_exceptions=True)
        self._door.close()

    async def _switch(self, what: str, on: bool) -> None:
        if on:
            self._pending.add(what)
            return
        self._pending.discard(what)
        if what == "down":
            self._down = False
        else:
            self._silent = False
            self._freeze(False)
        await self.settle()

    async def settle(self) -> None:
        """Makes the port accept, refuse or drop, as server and faults require; one call at a time, since a black hole
        takes a moment.
        """
        async with self._settling:
            await self._settle()

    async def _settle(self) -> None:
        if not self._alive or self._down:
            self._door.shut()
        elif self._silent:
            await self._door.swallow()
        else:
            self._door.open()

    def _freeze(self, on: bool) -> None:
        if on:
            self._door.ignore()
        for link in list(self._links):
            link.freeze(on)

    def _end_all(self, by: str = "proxy") -> None:
        self._door.shut()
        for task in self._dialling:
            task.cancel()
        for link in list(self._links):
            link.close(by=by)

    def _accepted(self, client: socket.socket) -> None:
        task = asyncio.create_task(self._connect(client))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        task.add_done_callback(lambda done: client.close() if done.cancelled() else None)  # perhaps before it began

    async def _connect(self, client: socket.socket) -> None:
        clock = asyncio.get_running_loop().time
        trace = Trace(_port(client), clock())
        with contextlib.ExitStack() as undo:
            undo.callback(client.close)
            undo.callback(lambda: self._traces.append(trace))
            undo.callback(lambda: trace.close(clock(), "server"))
            try:
                server = await dial(self.upstream, lambda: _has_left(client))
            except OSError:
                return
            undo.pop_all()
        link = Link(client, server, trace, self._gone)
        self._links[link] = None
        self._toxics.greet(link)
        if not link.closed:
            link.freeze(self._silent)

    def _gone(self, link: Link) -> None:
        if self._links.pop(link, link) is None:
            self._ended.update(_bytes(link))
        self._traces.append(link.trace)


def _opened(trace: Trace) -> float:
    return trace.opened


def _port(client: socket.socket) -> int:
    """The port that it comes from; 0 if it is gone already."""
    with contextlib.suppress(OSError, IndexError):
        return int(client.getpeername()[1])
    return 0


def _bytes(link: Link) -> dict[tuple[str, str], int]:
    """Bytes received and sent by its streams."""
    return {
        (name, what): getattr(stream, what) for name, stream in link.streams.items() for what in ("received", "sent")
    }


def _has_left(client: socket.socket) -> bool:
    """Whether it has hung up, even with bytes of its still unread."""
    poll = select.poll()
    poll.register(client, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
