"""The access point as a server on this event loop: starts at once, stops gracefully, leaves nothing."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType

import uvicorn

from labkit._resolve import AddressInfo, resolve
from labkit._tasks import cancelled
from labkit.api.app import create_app
from labkit.api.connection import Connection, SeldomLogger, refusal
from labkit.api.gate import host_name
from labkit.api.headers import RETRY
from labkit.api.limits import Limits
from labkit.errors import UsageError
from labkit.reader import ShardReader

__all__ = ["MARGIN", "Server", "serve"]

MARGIN = 1
"""Seconds past the reader's timeout that answers under way get when the server stops."""
LAST_PORT = 65535
_BACKLOG = 512
_REFUSED = 64
"""Clients at a time that get time to read that there is no room; more of them are told and closed at once."""
_PAUSE = 0.5
"""Seconds without new clients where the system has no file left for one."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SENDING = 131_072
"""Bytes that the system keeps for a client (Linux: twice as many). Of megabytes, its default, nobody would hear for
long that a client reads slowly."""


class Server:
    """Serves, once, what `reader` reads while the block lasts: `async with Server(reader) as server: … server.url`.

    Port 0 is any free one. At the end of the block no new connection is taken, streams end, and answers under way are
    finished, within the reader's timeout (+ 1 s); then nothing is left of it. The reader stays open. Handles no
    signals. Requests are served whose Host is an address, localhost, `host`, or one of `allow_hosts`; `limits` is what
    clients may take of it. Raises `UsageError` for hosts that are none, and on entry for an address that cannot be
    had, and for more connections than the process may open files.
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
        self._host, self._port, self._patience = host, port, reader.timeout
        self._server = _Server(
            self._limits,
            _Config(
                self._app,
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(reader.timeout) + MARGIN,
            ),
        )

    @property
    def url(self) -> str:
        """Where it is served, as http://host:port."""
        return f"http://{_shown(self._host, self._port)}"

    def abort(self) -> None:
        """Stops at once: the end of the block waits for no answer under way."""
        self._server.force_exit = True

    async def __aenter__(self) -> Server:
        most = self._limits.clients()
        self._socket = await self._bound()
        self._port = self._socket.getsockname()[1]
        self._running = asyncio.create_task(self._server.serve_on(self._socket, most))
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

    `on_start` is called with the URL as soon as connections are taken. The reader stays open.
    Raises `UsageError` as `Server` does.
    """
    server = Server(reader, host, port, limits=limits, allow_hosts=allow_hosts)
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

    def __init__(self, limits: Limits, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._limits = limits
        self._log = SeldomLogger(logging.getLogger("uvicorn.error"))
        self._door: _Door | None = None
        self.begun = asyncio.Event()

    async def serve_on(self, listening: socket.socket, most: int) -> None:
        """Takes connections on this socket, `most` at a time, until it is to stop."""
        self._door = _Door(listening, most, self._connection, self._log)
        await self.serve(sockets=[])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says when it is over, well or not, which uvicorn itself does not."""
        try:
            await super().startup(sockets)
            if self._door is not None:
                self._door.open()
        finally:
            self.begun.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, and ends those that there are."""
        self._shut()
        await super().shutdown(sockets)

    def _shut(self) -> None:
        if self._door is not None:
            self._door.close()

    def _connection(self, left: Callable[[], None], most: int | None) -> Connection:
        state = {"config": self.config, "server_state": self.server_state, "app_state": {}}
        return Connection(self._limits, self._log, left, most, **state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the host's affair."""
        yield

    async def let_go(self) -> None:
        """Ends whatever its shutdown did not wait for: requests, and connections with clients that do not read."""
        self._shut()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await cancelled(*self.server_state.tasks)


class _Door:
    """Takes connections as they come, `most` at a time; the next ones are told that there is no room.

    Not asyncio's own, which has no limit, and writes thousands of tracebacks a second where no file is left.
    """

    def __init__(self, listening: socket.socket, most: int, make: Callable[..., Connection], log: SeldomLogger) -> None:
        self._listening, self._most, self._make, self._log = listening, most, make, log
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._made: set[asyncio.Task[None]] = set()
        self._there: dict[bool, int] = {False: 0, True: 0}
        """Connections that are served (False), and that are being refused (True)."""

    def open(self) -> None:
        """Takes connections from now on."""
        self._again = None
        self._loop.add_reader(self._listening, self._take)

    def close(self) -> None:
        """Takes none any more."""
        if self._again is not None:
            self._again.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)

    def _take(self) -> None:
        for _ in range(_REFUSED):  # then others have their turn
            try:
                client, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.error("no connection can be taken: %s", error.strerror)
                if error.errno in _NO_ROOM:
                    self._loop.remove_reader(self._listening)
                    self._again = self._loop.call_later(_PAUSE, self.open)
                return
            client.setblocking(False)
            self._let_in(client)

    def _let_in(self, client: socket.socket) -> None:
        full = self._there[False] >= self._most
        if full:
            self._log.warning("all %d connections are in use: more are refused", self._most)
        if full and self._there[True] >= _REFUSED:
            with suppress(OSError), client:
                client.send(refusal(503, f"all {self._most} connections that there may be are in use", RETRY))
            return
        self._there[full] += 1
        task = self._loop.create_task(self._connected(client, full))
        self._made.add(task)
        task.add_done_callback(self._made.discard)

    async def _connected(self, client: socket.socket, full: bool) -> None:
        left = partial(self._left, full)
        connection = self._make(left, self._most if full else None)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, client)
        except BaseException:
            if not connection.made:
                client.close()
                left()
            raise

    def _left(self, full: bool) -> None:
        self._there[full] -= 1


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
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENDING)  # which its connections take over
        bound.setblocking(False)
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
