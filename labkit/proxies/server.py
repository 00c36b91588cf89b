"""Serves Toxiproxy's HTTP API on the running event loop."""

from __future__ import annotations

import asyncio
import socket

from labkit._loops import forget_in_children
from labkit._resolve import resolve
from labkit.api.acceptor import listen
from labkit.api.hosted import Hosted, HostedConfig
from labkit.errors import UsageError
from labkit.proxies.app import create_app
from labkit.proxies.fronts import Fronts
from labkit.proxies.routes import text_of

__all__ = ["ApiServer"]

GRACE = 1
"""Seconds that requests get to finish when it stops."""


class ApiServer:
    """The API of these proxies at an address; port 0 is a free one."""

    def __init__(self, fronts: Fronts, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._server = Hosted(HostedConfig(create_app(fronts), timeout_graceful_shutdown=GRACE))
        self._running: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Its address, as http://host:port."""
        return f"http://{text_of((self._host, self._port))}"

    async def start(self) -> None:
        """Returns when it accepts connections; `UsageError` for an address that it cannot have."""
        try:
            self._socket = listen(self._port, (await resolve(self._host, self._port))[0])
        except (OSError, OverflowError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UsageError(
                f"cannot serve the API at {text_of((self._host, self._port))}: {reason.lower()}; "
                "use another host or port (port 0: any free one)"
            ) from None
        forget_in_children(self)
        self._port = self._socket.getsockname()[1]
        self._running = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        try:
            await self._server.startup_done.wait()
        except BaseException:
            await self.aclose()
            raise
        if not self._server.started:
            await self.aclose()  # raises the error of the startup

    async def aclose(self) -> None:
        """Finishes requests, closes all connections, and returns when nothing is left."""
        self._server.should_exit = True
        try:
            if self._running is not None:
                await self._running
        finally:
            await self._server.close()
            self.forget()

    def forget(self) -> None:
        """In a forked child: the address is the parent's."""
        if self._socket is not None:
            self._socket.close()
