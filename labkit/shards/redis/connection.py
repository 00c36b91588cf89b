"""Connections of redis-py that are opened and closed differently.

redis-py bounds each step by `wait_for`, which on Python 3.11 can swallow a cancel; closes gracefully, even if the
server does not respond; reconnects automatically; and writes to lost transports, for which asyncio and uvloop raise
different exceptions. Here the caller's deadline bounds everything, and whatever is raised after the connection was lost
counts as its loss.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from labkit._loops import cut
from labkit._resolve import AddressInfo, resolve
from labkit.shards.redis.arrays import LOOK, Parser
from labkit.shards.redis.stream import CLOSED, Arrivals

__all__ = ["OURS", "RedisConnection"]


class RedisConnection:
    """The overrides: the first base of each kind of connection."""

    host: str
    port: int
    socket_keepalive: bool
    socket_keepalive_options: dict[int, Any]
    _reader: Arrivals | None
    _writer: asyncio.StreamWriter | None
    _parser: Parser

    def __init__(self, **options: Any) -> None:
        ours: dict[str, Any] = {
            "protocol": 2,
            "parser_class": Parser,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "driver_info": None,
        }
        super().__init__(**{**options, **ours})
        self._unanswered = 0
        self.lost: Exception | None = None
        """Why the connection became unusable, if not by our own hang-up."""

    async def open(self) -> None:
        """Connects and authenticates; on any exception, of the system or redis-py, the caller must hang up."""
        self._reader, self._writer = await self._dialled()
        self.lost, self._unanswered = None, 0
        await self.on_connect_check_health(check_health=False)  # type: ignore[attr-defined]

    async def _dialled(self) -> tuple[Arrivals, asyncio.StreamWriter]:
        tls = self._connection_arguments().get("ssl")  # type: ignore[attr-defined]
        failure: OSError | None = None
        for found in await resolve(self.host, self.port):
            try:
                sock = await self._socket(found)
            except OSError as error:
                failure = failure or error
            else:
                return await _streams(sock, tls, self.host)
        raise failure or OSError("no address of the host is known")

    async def _socket(self, found: AddressInfo) -> socket.socket:
        sock = socket.socket(*found[:3])
        try:
            sock.setblocking(False)
            if self.socket_keepalive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in self.socket_keepalive_options.items():
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
            await asyncio.get_running_loop().sock_connect(sock, found[4])
        except BaseException:
            sock.close()
            raise
        return sock

    def allow(self, limit: int) -> None:
        """Limits the bytes of all further answers together; see `ArrayReader.allow`."""
        self._parser.allow(limit)

    @property
    def is_quiet(self) -> bool:
        """Whether it is connected, with no answer outstanding."""
        return not self._unanswered and self._gone() is None

    async def is_usable(self) -> bool:
        """Whether it is quiet, and no unsolicited bytes have arrived."""
        return self.is_quiet and not self._parser.has_data

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Like redis-py's, but it never reconnects."""
        gone, writer = self._gone(), self._writer
        if gone is not None or writer is None:
            self.hang_up()
            raise gone or RedisConnectionError(CLOSED)
        if check_health:
            await self.check_health()  # type: ignore[attr-defined]
        self._unanswered += 1
        try:
            writer.write(b"".join(command))
            await writer.drain()
        except ConnectionResetError as error:
            gone = self._gone()  # asyncio says only "Connection lost"; its reader knows why
            self.hang_up()
            raise gone or error from None
        except BaseException:
            self.hang_up()
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; counts the answer."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        finally:
            self._unanswered -= 1

    async def pipelined(self, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends several commands at once and returns their answers in order; a server's error is one of them."""
        self._unanswered += len(questions) - 1
        await self.send_packed_command(list(map(pack_command, questions)))
        answers = await self._parser.read_many(len(questions))
        self._unanswered -= len(questions)
        return answers

    async def disconnect(self, *_args: Any, **_options: Any) -> None:
        """Called by redis-py when something went wrong."""
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the socket immediately. Nothing more is sent, not even TLS's close_notify, which would block."""
        self.lost = self.lost or self._gone()
        self._parser.on_disconnect()
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.transport.abort()

    def abandon(self) -> None:
        """Closes this process's end without the event loop, which is closed or belongs to another process."""
        if self._writer is not None:
            cut(self._writer.transport)

    def _gone(self) -> Exception | None:
        """Why the connection is unusable; None while it may be usable."""
        if self._reader is None or self._writer is None:
            return RedisConnectionError(CLOSED)
        if (error := self._reader.exception()) is not None:
            return error if isinstance(error, Exception) else RedisConnectionError(CLOSED)
        if self._reader.at_eof() or self._writer.transport.is_closing():
            return RedisConnectionError(CLOSED)
        return None


async def _streams(sock: socket.socket, tls: Any, host: str) -> tuple[Arrivals, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    try:
        return await _opened(
            lambda make: loop.create_connection(make, sock=sock, ssl=tls, server_hostname=host if tls else None)
        )
    except BaseException:
        # asyncio leaves a transport open that it created but did not start. It is shut down, not closed: its descriptor
        # could belong to another file by the time it starts.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        raise


async def _opened(
    create: Callable[[Callable[[], asyncio.Protocol]], Awaitable[tuple[Any, Any]]],
) -> tuple[Arrivals, asyncio.StreamWriter]:
    """As `asyncio.open_connection` does it, with streams of ours."""
    reader = Arrivals(LOOK)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await create(lambda: protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


class _Tcp(RedisConnection, Connection):  # type: ignore[misc]
    pass


class _Tls(RedisConnection, SSLConnection):  # type: ignore[misc]
    pass


class _Unix(RedisConnection, UnixDomainSocketConnection):  # type: ignore[misc]
    path: str

    async def _dialled(self) -> tuple[Arrivals, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        return await _opened(lambda make: loop.create_unix_connection(make, self.path))


OURS: dict[type, type[RedisConnection]] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}
"""Our class for each connection class that redis-py derives from a URL."""
