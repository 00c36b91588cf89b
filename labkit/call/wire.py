"""How the nodes of a cluster are talked to: a connection of its own for each exchange, all under one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from labkit._checks import positive_seconds
from labkit.call.failures import CallFailure, failure
from labkit.shards.redis_url import cluster_addresses, cluster_options
from labkit.shards.resolve import connected as connected_to

__all__ = ["Address", "Wire", "Words"]

Address: TypeAlias = "tuple[str, int]"
"""(host, port)."""
Words: TypeAlias = "tuple[bytes, ...]"
"""A command and its arguments."""


@dataclass(frozen=True)
class Wire:
    """Where to begin, how to dial, and until when; made inside the event loop that calls."""

    starts: tuple[Address, ...]
    seconds: float
    """What is left for all exchanges together, from when this was made."""
    kind: type[Connection]
    options: Mapping[str, Any] = field(repr=False)
    deadline: float
    """On the clock of the running event loop."""

    @classmethod
    def of(cls, url: str, seconds: float) -> Wire:
        """From a URL of one or several start-up nodes. Raises `UsageError`, without the URL, for what is none."""
        seconds = positive_seconds(seconds)
        starts = cluster_addresses(url)
        theirs = cluster_options(url)
        kind = theirs.pop("connection_class", Connection)
        ours = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "driver_info": None}
        limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        return cls(starts, seconds, kind, {**theirs, **ours, **limits}, asyncio.get_running_loop().time() + seconds)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.kind is not Connection

    async def exchange(self, address: Address, *commands: Words) -> list[Any]:
        """Sends the commands at once. One reply each: what RESP2 has, or the `ResponseError` that the server answers.

        Raises `CallFailure` where there is no connection or no whole answer. Nothing is waited for after the deadline.
        """
        connection: Any = self._connection(address)  # half of its methods have no types
        connected = False
        try:
            async with asyncio.timeout_at(self.deadline):
                await _dial(connection)
                connected = True
                if connection._writer.transport.is_closing():
                    raise RedisConnectionError("Connection closed by server.")  # to write to it fails in many ways
                await connection.send_packed_command(connection.pack_commands(commands))
                return [await _reply(connection) for _ in commands]
        except Exception as error:
            raise self._masked(failure(error, connected=connected, seconds=self.seconds)) from None
        finally:
            await connection.disconnect(nowait=True)

    def _masked(self, failure: CallFailure) -> CallFailure:
        """A server that does not know AUTH repeats what it was told."""
        password = self.options.get("password")
        return CallFailure(failure.status, failure.cause.replace(password, "***")) if password else failure

    def _connection(self, address: Address) -> Connection:
        host, port = address
        return self.kind(**{**self.options, "host": host, "port": port})


async def _dial(connection: Any) -> None:
    """Connects as redis-py does, which would look the host up in threads that asyncio waits for in the end."""
    sock = await connected_to(connection.host, connection.port)
    tls = connection._connection_arguments().get("ssl")
    dialled = {"sock": sock, "ssl": tls, "server_hostname": connection.host if tls else None}
    connection._connection_arguments = lambda: dialled
    try:
        await connection.connect()
    except BaseException:
        sock.close()
        raise


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
