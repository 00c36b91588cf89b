"""Faults inside Redis: it is busy, pauses its clients, accepts no more of them, or has lost its master."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo, check_seconds, wait_until
from labkit.report import Status

__all__ = ["Busy", "ClientPause", "MasterDown", "MaxClients", "change"]


async def change(target: Target, undo: Undo, name: str, value: Any) -> None:
    """Changes one of the server's settings, until that is undone."""
    before = (await (await target.admin()).config_get(name))[name]

    async def put_back() -> None:
        await (await target.admin()).config_set(name, before)

    undo.push(put_back)
    await (await target.admin()).config_set(name, value)


BUSY_AFTER = 5
"""Milliseconds that a script may run until the server answers BUSY to others, instead of letting them wait."""


@dataclass(frozen=True)
class Busy(Fault):
    """A Lua script runs for ever, and the server answers "BUSY" to everybody else.

    By default Redis does so after 5 s; here after 5 ms (lua-time-limit). The script takes a whole core. Undone: SCRIPT
    KILL, and the setting is put back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        client = await target.connect()
        undo.push(client.aclose)
        connection = await client.connection_pool.get_connection()
        undo.push(connection.disconnect)
        await change(target, undo, "lua-time-limit", BUSY_AFTER)
        undo.push(lambda: wait_until(partial(_idle, target), "the end of a script"))
        await connection.send_command("EVAL", "while true do end", 0)
        await wait_until(partial(_busy, target), "a busy server")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]


async def _busy(target: Target) -> bool:
    return (await _answer(target, "PING")).startswith("BUSY")


async def _idle(target: Target) -> bool:
    return (await _answer(target, "SCRIPT KILL")).startswith("NOTBUSY")


async def _answer(target: Target, command: str) -> str:
    """The server's reply, or the text of its error."""
    from redis.exceptions import ResponseError

    admin = await target.admin()
    try:
        return str(await admin.execute_command(command))
    except ResponseError as error:
        return str(error)


LONGEST = 60
"""Seconds of a `ClientPause`, which cannot be ended early."""


@dataclass(frozen=True)
class ClientPause(Fault):
    """CLIENT PAUSE: for `seconds` the server accepts every command and answers none.

    It cannot be ended early, since CLIENT UNPAUSE is delayed too: undoing waits for its end. Raises `UsageError` for
    `seconds` that are not positive, or more than 60.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    seconds: float = 3.0

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds, LONGEST)

    async def start(self, target: Target, undo: Undo) -> None:
        clock = asyncio.get_running_loop().time
        admin = await target.admin()
        ends = clock() + self.seconds

        async def over() -> None:
            await asyncio.sleep(ends - clock())
            await (await target.admin()).ping()

        undo.push(over)
        await admin.client_pause(max(1, round(self.seconds * 1000)))

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(round(timeout + 0.5, 3)), {Status.TIMEOUT})]


@dataclass(frozen=True)
class MaxClients(Fault):
    """The server has as many clients as it may have: new ones get "max number of clients reached".

    maxclients is 1, and the fault itself has a connection. Existing connections go on. Undone: the setting is put back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        # Undo through a separate connection, since no new one could be made.
        client = await target.connect()
        undo.push(client.aclose)
        before = (await client.config_get("maxclients"))["maxclients"]
        undo.push(lambda: client.config_set("maxclients", before))
        await client.config_set("maxclients", 1)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # The server refuses and hangs up before any command: one already sent may meet the closed connection first.
        return [Sample.of(cls(), {Status.REJECTED, Status.DISCONNECTED}, warm={Status.OK})]


NO_MASTER = ("127.0.0.1", "1")
"""An address where no master listens."""


@dataclass(frozen=True)
class MasterDown(Fault):
    """The server is a replica without its master that may not serve stale data: every read gets "MASTERDOWN".

    Its data stay, since there is no master to copy from. Undone: REPLICAOF NO ONE, and replica-serve-stale-data is put
    back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis",)
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        await change(target, undo, "replica-serve-stale-data", "no")
        undo.push(partial(_replica_of, target, "NO", "ONE"))
        await _replica_of(target, *NO_MASTER)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]


async def _replica_of(target: Target, host: str, port: str) -> None:
    await (await target.admin()).execute_command("REPLICAOF", host, port)
