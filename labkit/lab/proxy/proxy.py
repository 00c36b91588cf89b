"""A TCP proxy on 127.0.0.1 in front of one server: a stable address, and the place for network faults."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable

from labkit.faults.network.toxic import Toxic
from labkit.lab.proxy.dial import Upstream, dial
from labkit.lab.proxy.door import Door
from labkit.lab.proxy.link import Link
from labkit.lab.proxy.toxics import Toxics

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on between clients of its port and `upstream`, a (host, port) or the path of a unix socket.

    It accepts while its server lives (`accept()` until `refuse()`) and no fault stands against it. `fired(number, at)`
    is called when a toxic fires. Faults that are asked for take effect with the next `arm()`, all at once.
    """

    def __init__(self, upstream: Upstream, fired: Callable[[int, float], None] = lambda number, time: None) -> None:
        self.upstream = upstream
        self._door = Door(self._knock)
        self.port = self._door.port
        self._alive = self._down = self._silent = False
        self._wanted: set[str] = set()
        self._settling = asyncio.Lock()
        self._dialling: set[asyncio.Task[None]] = set()
        self._links: dict[Link, None] = {}
        """In the order in which they were made."""
        self._toxics = Toxics(fired)

    async def accept(self) -> None:
        """The server lives: new connections are taken."""
        self._alive = True
        await self._settle()

    async def refuse(self) -> None:
        """The server is gone: all connections end, new ones are refused; returns when that is so."""
        self._alive = False
        self._end_all()
        await self._settle()

    async def down(self, on: bool) -> None:
        """As if nobody listened, once armed; or no longer."""
        await self._want("down", on)

    async def blackhole(self, on: bool) -> None:
        """Silence, once armed: connections stall both ways, new ones hang in connect(). Off, held bytes go on."""
        await self._want("silent", on)

    def add(self, number: int, toxic: Toxic, seed: str) -> None:
        """Makes a toxic ready, to be armed."""
        self._toxics.add(number, toxic, seed)

    def remove(self, number: int) -> None:
        """Takes a toxic away."""
        self._toxics.remove(number, self._links)

    def arm(self) -> None:
        """What was asked for takes effect on all that is there; `settle` sees to the door after it."""
        self._toxics.arm(self._links)
        if "down" in self._wanted:
            self._down = True
            self._end_all()
        if "silent" in self._wanted:
            self._silent = True
            self._freeze(True)
        self._wanted.clear()

    async def settle(self) -> None:
        """Returns when the door is as it must be after `arm`."""
        await self._settle()

    async def aclose(self) -> None:
        """Ends everything and gives the port back."""
        self._end_all()
        await asyncio.gather(*self._dialling, return_exceptions=True)
        self._door.close()

    async def _want(self, what: str, on: bool) -> None:
        if on:
            self._wanted.add(what)
            return
        self._wanted.discard(what)
        if what == "down":
            self._down = False
        else:
            self._silent = False
            self._freeze(False)
        await self._settle()

    async def _settle(self) -> None:
        """Turns the door to what server and faults make of it; one at a time, since a black hole takes a moment."""
        async with self._settling:
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

    def _end_all(self) -> None:
        self._door.shut()
        for task in self._dialling:
            task.cancel()
        for link in list(self._links):
            link.close()

    def _knock(self, client: socket.socket) -> None:
        task = asyncio.create_task(self._connect(client))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        task.add_done_callback(lambda done: client.close() if done.cancelled() else None)  # maybe before it began

    async def _connect(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(client.close)
            try:
                server = await dial(self.upstream, lambda: _has_left(client))
            except OSError:
                return
            undo.pop_all()
        link = Link(client, server, lambda gone: self._links.pop(gone, None))
        self._links[link] = None
        self._toxics.greet(link)
        if not link.closed:
            link.freeze(self._silent)


def _has_left(client: socket.socket) -> bool:
    """Whether it has hung up, though what it said before may not have been read yet."""
    look = select.poll()
    look.register(client, getattr(select, "POLLRDHUP", 0))
    return bool(look.poll(0))
