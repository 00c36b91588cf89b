"""The access point as a server on this event loop: starts at once, stops gracefully, leaves nothing."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import uvicorn

from labkit.api.app import create_app
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.shards.resolve import AddressInfo, resolve
from labkit.strays import ended

__all__ = ["MARGIN", "Server", "serve"]

MARGIN = 1
"""Seconds past the reader's timeout that answers under way get when the server stops."""
LAST_PORT = 65535
_BACKLOG = 2048


class Server:
    """Serves, once, what `reader` reads while the block lasts: `async with Server(reader) as server: … server.url`.

    Port 0 is any free one. At the end of the block no new connection is taken, streams end, and answers under way are
    finished, within the reader's timeout (+ 1 s); then nothing is left of it. The reader stays open. Handles no
    signals. Raises `UsageError` on entry for an address that cannot be had.
    """

    def __init__(self, reader: ShardReader, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = create_app(reader)
        self._host, self._port, self._patience = host, port, reader.timeout
        self._server = _Server(
            _Config(
                self._app,
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                backlog=_BACKLOG,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(reader.timeout) + MARGIN,
            )
        )

    @property
    def url(self) -> str:
        """Where it is served, as http://host:port."""
        return f"http://{_shown(self._host, self._port)}"

    def abort(self) -> None:
        """Stops at once: the end of the block waits for no answer under way."""
        self._server.force_exit = True

    async def __aenter__(self) -> Server:
        self._socket = await self._bound()
        self._port = self._socket.getsockname()[1]
        self._running = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        try:
            await self._server.begun.wait()
        except BaseException:
            await self._stop()
            raise
        if not self._server.started:
            await self._stop()  # raises what came between
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _bound(self) -> socket.socket:
        """A socket that listens there; a name is looked up no longer than a read may take."""
        try:
            async with asyncio.timeout(self._patience):
                return _listening(self._port, (await resolve(self._host, self._port))[0])
        except (OSError, OverflowError) as error:
            reason = "no such name was found in time" if type(error) is TimeoutError else _reason(error)
            raise UsageError(
                f"cannot serve at {_shown(self._host, self._port)}: {reason}; "
                "name another host or port (port 0: any free one)"
            ) from None

    async def _stop(self) -> None:
        self._app.state.stopping.set()
        self._server.should_exit = True
        try:
            await self._running
        finally:
            await self._server.let_go()
            self._socket.close()


async def serve(reader: ShardReader, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, then stops gracefully; a second signal stops at once.

    `on_start` is called with the URL as soon as connections are taken. The reader stays open.
    Raises `UsageError` for an address that cannot be had.
    """
    server = Server(reader, host, port)
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():
            server.abort()
        stopped.set()

    with _on_signals(stop):
        async with server:
            on_start(server.url)
            await stopped.wait()


class _Config(uvicorn.Config):
    def configure_logging(self) -> None:
        """Logging is the host's affair. So the access log, at level INFO, is off unless somebody asks for it."""


class _Server(uvicorn.Server):
    """uvicorn as a guest on somebody else's event loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says when it is over, well or not, which uvicorn itself does not."""
        try:
            await super().startup(sockets)
        finally:
            self.begun.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the host's affair."""
        yield

    async def let_go(self) -> None:
        """Ends whatever its shutdown did not wait for: requests, and connections with clients that do not read."""
        for server in getattr(self, "servers", ()):
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await ended(*self.server_state.tasks)


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at each SIGTERM and SIGINT; afterwards they do what they did before."""
    loop = asyncio.get_running_loop()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    for signum in before:
        loop.add_signal_handler(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            loop.remove_signal_handler(signum)
            signal.signal(signum, handler)


def _listening(port: int, found: AddressInfo) -> socket.socket:
    if not 0 <= port <= LAST_PORT:
        raise OverflowError(f"a port is a number from 0 to {LAST_PORT}")  # some systems take it modulo 65536
    family, kind, protocol, _, address = found
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # restarts need not wait out old connections
        bound.bind(address)
        bound.listen(_BACKLOG)  # now, since two that only bind would both be told that the port is theirs
    except BaseException:
        bound.close()
        raise
    return bound


def _reason(error: OSError | OverflowError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
