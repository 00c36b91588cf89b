"""Talks to the nodes of a cluster: a separate connection for each exchange, all under one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from labkit._checks import positive_seconds
from labkit._resolve import connected as connected_to
from labkit.cli.call.failures import failure, said
from labkit.shards.redis.cluster.slots import Address
from labkit.shards.redis.url import cluster_addresses, cluster_options, secrets_of
from labkit.shards.secrets import Secrets

__all__ = ["Wire", "Words"]

Words: TypeAlias = "tuple[bytes, ...]"
"""A command and its arguments."""

_BEFORE_PASSWORD = frozenset({b"AUTH", b"AUTH2", b"REQUIREPASS", b"MASTERAUTH", b"AUTH-PASS"})


@dataclass(frozen=True)
class Wire:
    """Start-up nodes, connection options and the deadline; made inside the running event loop."""

    starts: tuple[Address, ...]
    seconds: float
    """For all exchanges together, from when this was made."""
    kind: type[Connection]
    options: Mapping[str, Any] = field(repr=False)
    deadline: float
    """On the clock of the running event loop."""
    secrets: Secrets
    """Masked wherever a node's words are shown."""

    @classmethod
    def of(cls, url: str, seconds: float, words: Words = ()) -> Wire:
        """From a URL with one or more start-up nodes. Passwords in the command `words` are secrets too.

        Raises `UsageError`, which does not repeat the URL, if it is not such a URL.
        """
        seconds = positive_seconds(seconds)
        starts = cluster_addresses(url)
        given = cluster_options(url)
        kind = given.pop("connection_class", Connection)
        fixed = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "driver_info": None}
        limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        deadline = asyncio.get_running_loop().time() + seconds
        secrets = secrets_of(given).plus(_passwords(words))
        return cls(starts, seconds, kind, {**given, **fixed, **limits}, deadline, secrets)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.kind is not Connection

    async def exchange(self, address: Address, *commands: Words) -> list[Any]:
        """Sends the commands in one go. Returns one reply per command (RESP2), or the server's `ResponseError`.

        Raises `CallFailure` if there is no connection or no complete answer by the deadline.
        """
        connection: Any = self._connection(address)  # half of its methods are untyped
        connected = False
        try:
            async with asyncio.timeout_at(self.deadline):
                await _dial(connection)
                connected = True
                if connection._writer.transport.is_closing():
                    raise RedisConnectionError("Connection closed by server.")  # a write to it would fail in many ways
                await connection.send_packed_command(connection.pack_commands(commands))
                return [await _reply(connection) for _ in commands]
        except Exception as error:
            failed = failure(error, self.secrets, connected=connected, seconds=self.seconds)
            self.secrets.scrub(error)
            raise failed from None
        finally:
            await connection.disconnect(nowait=True)

    def said(self, error: Exception) -> str:
        """A node's error, without secrets."""
        return said(error, self.secrets)

    def masked(self, reply: Any) -> Any:
        """The reply, with secrets masked in the errors that its lists may hold. The data is what was requested, and
        stays as it is.
        """
        if isinstance(reply, list):
            return [self.masked(item) for item in reply]
        if isinstance(reply, RedisError):
            self.secrets.scrub(reply)
        return reply

    def _connection(self, address: Address) -> Connection:
        host, port = address
        return self.kind(**{**self.options, "host": host, "port": port})


def _passwords(words: Words) -> list[bytes]:
    """The passwords in a command: after AUTH (and a user name) and settings like it, and in ACL SETUSER."""
    upper = [word.upper() for word in words]
    named = upper[:1] == [b"HELLO"] or (upper[:1] == [b"AUTH"] and len(words) > 2)
    found: list[bytes] = []
    for place, word in enumerate(upper):
        if word in _BEFORE_PASSWORD:
            place += 2 if word == b"AUTH2" or (word == b"AUTH" and named) else 1
            found += words[place : place + 1]
    if upper[:2] == [b"ACL", b"SETUSER"]:
        found += [word[1:] for word in words[3:] if word[:1] in (b">", b"<")]
    return found


async def _dial(connection: Any) -> None:
    """Connects as redis-py does, but resolves the host itself: asyncio would wait for redis-py's threads at exit."""
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
