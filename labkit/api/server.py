"""The access point as a server on the current event loop: starts at once, stops gracefully, leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import TracebackType

from labkit._resolve import resolve
from labkit.api.acceptor import Acceptor, listen
from labkit.api.app import create_app
from labkit.api.connection import Connection
from labkit.api.gate import host_name
from labkit.api.hosted import Hosted, HostedConfig
from labkit.api.limits import Limits, RateLimitedLogger
from labkit.errors import UsageError
from labkit.reader import ShardReader

__all__ = ["MARGIN", "Server", "serve"]

MARGIN = 1
"""Seconds past the reader's timeout for answers to finish when the server stops."""


class Server:
    """Serves what `reader` reads for the duration of a block: `async with Server(reader) as server: … server.url`.

    Port 0 picks a free port. At the end of the block no new connection is accepted, streams end, and pending answers
    are finished within the reader's timeout (+ 1 s); then nothing of the server is left. The reader stays open. Can be
    entered once; handles no signals. Serves requests whose Host is an address, localhost, `host`, or one of
    `allow_hosts`; `limits` bounds what clients may use. Raises `UsageError` for invalid host names, and on entry for an
    address that cannot be bound and for more connections than the process may open files.
    """

    def __init__(
        self,
        reader: ShardReader,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limits: Limits | None = None,
        allow_hosts: Collection[str] = (),
    ) -> None:
        self._limits = limits or Limits()
        hosts = [allow_hosts] if isinstance(allow_hosts, str) else allow_hosts
        self._app = create_app(
            reader, limits=self._limits, allow_hosts=[*hosts, *([host] if host_name(host.encode()) else [])]
        )
        self._host, self._port, self._timeout = host, port, reader.timeout
        self._server = _Server(
            self._limits,
            HostedConfig(
                self._app,
                http=Connection,
                timeout_graceful_shutdown=math.ceil(reader.timeout) + MARGIN,
            ),
        )

    @property
    def url(self) -> str:
        """Its address, as http://host:port."""
        return f"http://{_shown(self._host, self._port)}"

    def abort(self) -> None:
        """Stops at once: the end of the block does not wait for pending answers."""
        self._server.force_exit = True

    async def __aenter__(self) -> Server:
        connections = self._limits.clients()
        self._socket = await self._listen()
        self._port = self._socket.getsockname()[1]
        self._running = asyncio.create_task(self._server.serve_on(self._socket, connections))
        try:
            await self._server.startup_done.wait()
        except BaseException:
            await self._stop()
            raise
        if not self._server.started:
            await self._stop()  # raises the error of the startup
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _listen(self) -> socket.socket:
        """A listening socket; resolving its name may take as long as a read."""
        try:
            async with asyncio.timeout(self._timeout):
                return listen(self._port, (await resolve(self._host, self._port))[0])
        except (OSError, OverflowError) as error:
            reason = "the name was not resolved in time" if type(error) is TimeoutError else _reason(error)
            raise UsageError(
                f"cannot serve at {_shown(self._host, self._port)}: {reason}; "
                "use another host or port (port 0: any free one)"
            ) from None

    async def _stop(self) -> None:
        self._app.state.stopping.set()
        self._server.should_exit = True
        try:
            await self._running
        finally:
            await self._server.close()
            self._socket.close()


async def serve(
    reader: ShardReader,
    host: str,
    port: int,
    on_start: Callable[[str], None],
    *,
    limits: Limits | None = None,
    allow_hosts: Collection[str] = (),
) -> None:
    """Serves until SIGTERM or SIGINT, then stops gracefully; a second signal stops at once.

    Calls `on_start` with the URL once connections are accepted. The reader stays open. Raises `UsageError` as `Server`
    does.
    """
    server = Server(reader, host, port, limits=limits, allow_hosts=allow_hosts)
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            server.abort()
        stopping.set()

    with _stop_signals(stop):
        async with server:
            on_start(server.url)
            await stopping.wait()


class _Server(Hosted):
    """The server of an access point, with its limits."""

    def __init__(self, limits: Limits, config: HostedConfig) -> None:
        super().__init__(config)
        self._limits = limits
        self._log = RateLimitedLogger(logging.getLogger("uvicorn.error"))
        self._acceptor: Acceptor | None = None

    async def serve_on(self, listening: socket.socket, connections: int) -> None:
        """Serves this socket, at most that many connections at a time, until it is stopped."""
        self._acceptor = Acceptor(listening, connections, self._connection, self._log)
        await self.serve(sockets=[])

    async def begin(self) -> None:
        """Accepts connections."""
        if self._acceptor is not None:
            self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more connections, and ends the open ones."""
        self._stop_accepting()
        await super().shutdown(sockets)

    def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()

    def _connection(self, on_lost: Callable[[], None], full: int | None) -> Connection:
        state = {"config": self.config, "server_state": self.server_state, "app_state": {}}
        return Connection(self._limits, self._log, on_lost, full, **state)

    async def close(self) -> None:
        """See `Hosted.close`."""
        self._stop_accepting()
        await super().close()


@contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at each SIGTERM and SIGINT; restores the previous handlers afterwards."""
    loop = asyncio.get_running_loop()
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    for signum in previous:
        loop.add_signal_handler(signum, stop)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            loop.remove_signal_handler(signum)
            signal.signal(signum, handler)


def _reason(error: OSError | OverflowError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
