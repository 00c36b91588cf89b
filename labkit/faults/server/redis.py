"""Faults inside a Redis: it is busy, pauses its clients, takes no more of them, or has lost its master."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.waiting import check_seconds, until
from labkit.report import Status

__all__ = ["Busy", "ClientPause", "MasterDown", "MaxClients", "change"]


async def change(target: Target, undo: Undo, name: str, value: Any) -> None:
    """Gives one of the server's settings another value, until that is undone."""
    before = (await (await target.admin()).config_get(name))[name]

    async def put_back() -> None:
        await (await target.admin()).config_set(name, before)

    undo.push(put_back)
    await (await target.admin()).config_set(name, value)


PATIENCE = 5
"""Milliseconds that a script may run before the server says BUSY to others, instead of letting them wait."""


@dataclass(frozen=True)
class Busy(Fault):
    """A Lua script runs for ever, and the server has nothing but "BUSY" for everybody else.

    Redis waits 5 s before it says so; here that is 5 ms (lua-time-limit). The script takes a whole core. Undone: SCRIPT
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
        await change(target, undo, "lua-time-limit", PATIENCE)
        undo.push(lambda: until(partial(_idle, target), "the end of a script"))
        await connection.send_command("EVAL", "while true do end", 0)
        await until(partial(_busy, target), "a busy server")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]


async def _busy(target: Target) -> bool:
    return (await _answer(target, "PING")).startswith("BUSY")


async def _idle(target: Target) -> bool:
    return (await _answer(target, "SCRIPT KILL")).startswith("NOTBUSY")


async def _answer(target: Target, command: str) -> str:
    """What the server says to it, be it an error."""
    from redis.exceptions import ResponseError

    admin = await target.admin()
    try:
        return str(await admin.execute_command(command))
    except ResponseError as error:
        return str(error)


LONGEST = 60
"""Seconds; nobody can end it earlier."""


@dataclass(frozen=True)
class ClientPause(Fault):
    """CLIENT PAUSE: for `seconds` the server takes every command and answers none.

    It cannot be ended early, since CLIENT UNPAUSE is put off as well: undoing it waits for its end. Raises `UsageError`
    for `seconds` that are not positive, or more than 60.
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
    """The server has as many clients as it may have: "max number of clients reached" to who comes now.

    maxclients is 1, and the fault itself has a connection. Those that were there before go on. Undone: the setting is
    put back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        # Its undoing has a connection of its own, since nobody could make another one.
        client = await target.connect()
        undo.push(client.aclose)
        before = (await client.config_get("maxclients"))["maxclients"]
        undo.push(lambda: client.config_set("maxclients", before))
        await client.config_set("maxclients", 1)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # The server says no and hangs up before it was asked anything: a command on its way may meet the end first.
        return [Sample.of(cls(), {Status.REJECTED, Status.DISCONNECTED}, warm={Status.OK})]


NOBODY = ("127.0.0.1", "1")
"""Where no master is."""


@dataclass(frozen=True)
class MasterDown(Fault):
    """The server is a replica whose master is not there, and may not serve stale data: "MASTERDOWN" to every read.

    Its data stay, since there is no master that it could copy. Undone: REPLICAOF NO ONE, and
    replica-serve-stale-data is put back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis",)
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        await change(target, undo, "replica-serve-stale-data", "no")
        undo.push(partial(_replica_of, target, "NO", "ONE"))
        await _replica_of(target, *NOBODY)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]


async def _replica_of(target: Target, host: str, port: str) -> None:
    await (await target.admin()).execute_command("REPLICAOF", host, port)
