"""A server that is busy with itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.setting import change
from labkit.faults.server.until import until
from labkit.report import Status

__all__ = ["Busy"]

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
