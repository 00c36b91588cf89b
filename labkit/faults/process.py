"""Faults of a server's process, its container, and its place in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Sample, Target, Undo
from labkit.report import Status

__all__ = ["Disconnect", "Failover", "Kill", "LostIdentity", "Pause"]


@dataclass(frozen=True)
class Kill(Fault):
    """SIGKILL to the server and all its children: connections break, new ones are refused. Undone: it starts again.

    In a container, `docker kill`.
    """

    layer: ClassVar[str] = "process"
    restarts: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(target.restart)
        await target.kill()

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.UNREACHABLE})]


@dataclass(frozen=True)
class Pause(Fault):
    """SIGSTOP to the server and all its children: connections stay, nothing answers. Undone by SIGCONT.

    In a container, `docker pause` (the kernel's freezer) and `docker unpause`.
    """

    layer: ClassVar[str] = "process"
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(target.resume)
        await target.pause()

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.TIMEOUT})]


@dataclass(frozen=True)
class Disconnect(Fault):
    """The container is taken off its network: connections break, new ones are refused; the server runs on.

    Undone: it is put back on, under the same address. Launcher "docker" only.
    """

    layer: ClassVar[str] = "container"

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(target.reconnect)
        await target.disconnect()

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.UNREACHABLE})]


@dataclass(frozen=True)
class LostIdentity(Fault):
    """The node comes back under a new ID: the cluster then lists the owner of its slots at port 0.

    It is killed, and started at its address without its nodes.conf and its data. Undone: it has its old ID and its rows
    again.
    """

    layer: ClassVar[str] = "process"
    backends: ClassVar[tuple[str, ...]] = ("redis-cluster",)
    restarts: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(target.regain_identity)
        await target.lose_identity()

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.UNREACHABLE})]


@dataclass(frozen=True)
class Failover(Fault):
    """SIGKILL to a master; its replica has taken over. Undone: it starts again, and becomes the master again.

    Takes as long as a failover, some five seconds; for the same master again some eight, since votes count for a while.
    """

    layer: ClassVar[str] = "process"
    backends: ClassVar[tuple[str, ...]] = ("redis-cluster",)
    needs_replica: ClassVar[bool] = True
    restarts: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(target.restart)
        await target.kill()
        await target.overtaken()

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.OK})]
