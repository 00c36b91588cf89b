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
from redis.exceptions import RedisError, ResponseError

from labkit._checks import positive_seconds
from labkit._resolve import connected as connected_to
from labkit.cli.call.failures import failure, said
from labkit.shards.redis.url import cluster_addresses, cluster_options, secrets_of
from labkit.shards.secrets import Secrets

__all__ = ["Address", "Wire", "Words"]

Address: TypeAlias = "tuple[str, int]"
"""(host, port)."""
Words: TypeAlias = "tuple[bytes, ...]"
"""A command and its arguments."""

_BEFORE_PASSWORD = frozenset({b"AUTH", b"AUTH2", b"REQUIREPASS", b"MASTERAUTH", b"AUTH-PASS"})


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
    secrets: Secrets
    """What is in none of the words of nodes that are told."""

    @classmethod
    def of(cls, url: str, seconds: float, words: Words = ()) -> Wire:
        """From a URL of one or several start-up nodes. `words` are what they will be asked, where that has secrets.

        Raises `UsageError`, which does not repeat the URL, for anything that is not one.
        """
        seconds = positive_seconds(seconds)
        starts = cluster_addresses(url)
        theirs = cluster_options(url)
        kind = theirs.pop("connection_class", Connection)
        ours = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "driver_info": None}
        limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        deadline = asyncio.get_running_loop().time() + seconds
        secrets = secrets_of(theirs).plus(_passwords(words))
        return cls(starts, seconds, kind, {**theirs, **ours, **limits}, deadline, secrets)

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
            failed = failure(error, self.secrets, connected=connected, seconds=self.seconds)
            self.secrets.scrub(error)
            raise failed from None
        finally:
            await connection.disconnect(nowait=True)

    def said(self, error: Exception) -> str:
        """What a node answered as an error, without secrets."""
        return said(error, self.secrets)

    def told(self, reply: Any) -> Any:
        """A reply whose errors, where there are any in its lists, are without secrets. Else it is as the node has it,
        who was asked for just that.
        """
        if isinstance(reply, list):
            return [self.told(item) for item in reply]
        if isinstance(reply, RedisError):
            self.secrets.scrub(reply)
        return reply

    def _connection(self, address: Address) -> Connection:
        host, port = address
        return self.kind(**{**self.options, "host": host, "port": port})


def _passwords(words: Words) -> list[bytes]:
    """Those in a command: behind AUTH (and a user's name) and settings of that kind, and those of ACL SETUSER."""
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
