"""uvicorn on an event loop that belongs to the host program, as are its signals and its log."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from labkit._tasks import cancelled

__all__ = ["Hosted", "HostedConfig"]


class HostedConfig(uvicorn.Config):
    """The settings that all servers here share, besides those given."""

    def __init__(self, app: Any, **settings: Any) -> None:
        super().__init__(
            app, ws="none", lifespan="off", interface="asgi3", proxy_headers=False, server_header=False, **settings
        )

    def configure_logging(self) -> None:
        """Left to the host program; so the access log, at level INFO, is off by default."""


class Hosted(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: HostedConfig) -> None:
        super().__init__(config)
        self.startup_done = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Also sets `startup_done` whether or not it succeeds; uvicorn itself does not signal that."""
        try:
            await super().startup(sockets)
            await self.begin()
        finally:
            self.startup_done.set()

    async def begin(self) -> None:
        """Called once it has started."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Left to the host program."""
        yield

    async def close(self) -> None:
        """Ends what the shutdown did not wait for: requests, and connections to clients that do not read."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await cancelled(*self.server_state.tasks)
