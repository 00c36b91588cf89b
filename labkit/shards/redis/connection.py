"""Connections of redis-py, dialled and hung up our way.

redis-py bounds each step by `wait_for`, which on Python 3.11 can swallow a cancel; says goodbye to servers that do not
listen; dials again by itself; and writes to transports that are gone, which asyncio and uvloop each answer with an
exception of another kind. Here a caller's deadline bounds everything, and whatever is raised once the connection has
gone away is its end.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from labkit._loops import cut
from labkit._resolve import AddressInfo, resolve
from labkit.shards.redis.arrays import Parser

__all__ = ["OURS", "RedisConnection"]

READ_SIZE = 1 << 20
"""Bytes: all that has come, of a chunk; the parser looks at it as a whole."""
_CLOSED = "Connection closed by server."


class RedisConnection:
    """What we do in another way than redis-py: the first base of each of its kinds of connections."""

    host: str
    port: int
    socket_keepalive: bool
    socket_keepalive_options: dict[int, Any]
    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None
    _parser: Parser

    def __init__(self, **options: Any) -> None:
        ours: dict[str, Any] = {
            "protocol": 2,
            "parser_class": Parser,
            "socket_read_size": READ_SIZE,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "driver_info": None,
        }
        super().__init__(**{**options, **ours})
        self._unanswered = 0
        self.lost: Exception | None = None
        """Why it could not be used any more, where it was not we who hung up."""

    async def open(self) -> None:
        """Dials, and introduces itself; raises what the system raises, and redis-py. The caller hangs up then."""
        self._reader, self._writer = await self._dialled()
        self.lost, self._unanswered = None, 0
        await self.on_connect_check_health(check_health=False)  # type: ignore[attr-defined]

    async def _dialled(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
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
        """From now on answers may have so many bytes, all together; see `ArrayReader.allow`."""
        self._parser.allow(limit)

    @property
    def is_quiet(self) -> bool:
        """Whether every question was answered, and it is still connected."""
        return not self._unanswered and self._gone() is None

    async def is_usable(self) -> bool:
        """The same, and nothing came meanwhile that nobody asked for."""
        return self.is_quiet and not await self.can_read()  # type: ignore[attr-defined]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As redis-py's, but it never connects by itself."""
        gone, writer = self._gone(), self._writer
        if gone is not None or writer is None:
            self.hang_up()
            raise gone or RedisConnectionError(_CLOSED)
        if check_health:
            await self.check_health()  # type: ignore[attr-defined]
        self._unanswered += 1
        try:
            writer.write(b"".join(command))
            await writer.drain()
        except ConnectionResetError as error:
            gone = self._gone()  # asyncio says "Connection lost", and its reader knows why
            self.hang_up()
            raise gone or error from None
        except BaseException:
            self.hang_up()
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        finally:
            self._unanswered -= 1

    async def disconnect(self, *_args: Any, **_options: Any) -> None:
        """What redis-py calls where something went wrong."""
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the socket at once. Nothing more is sent, no goodbye of TLS either: it would be waited for."""
        self.lost = self.lost or self._gone()
        self._parser.on_disconnect()
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.transport.abort()

    def abandon(self) -> None:
        """Closes this process's end without the event loop, which is another process's, or closed."""
        if self._writer is not None:
            cut(self._writer.transport)

    def _gone(self) -> Exception | None:
        """Why it is of no use any more; None as long as it may be."""
        if self._reader is None or self._writer is None:
            return RedisConnectionError(_CLOSED)
        if (error := self._reader.exception()) is not None:
            return error if isinstance(error, Exception) else RedisConnectionError(_CLOSED)
        if self._reader.at_eof() or self._writer.transport.is_closing():
            return RedisConnectionError(_CLOSED)
        return None


async def _streams(sock: socket.socket, tls: Any, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=host if tls else None)
    except BaseException:
        # asyncio leaves a transport open that it has made but not begun with. Not closed here: the number may be
        # somebody else's by the time it begins.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        raise


class _Tcp(RedisConnection, Connection):  # type: ignore[misc]
    pass


class _Tls(RedisConnection, SSLConnection):  # type: ignore[misc]
    pass


class _Unix(RedisConnection, UnixDomainSocketConnection):  # type: ignore[misc]
    path: str

    async def _dialled(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)


OURS: dict[type, type[RedisConnection]] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}
"""For each kind of connection that a URL may ask redis-py for."""
