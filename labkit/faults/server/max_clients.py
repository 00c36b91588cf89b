"""A server that takes no more clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.report import Status

__all__ = ["MaxClients"]


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
