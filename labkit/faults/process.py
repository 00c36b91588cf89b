"""Faults of the server process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Sample, Target, Undo
from labkit.report import Status

__all__ = ["Kill", "Pause"]


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
    """SIGSTOP to the server and all its children: connections stay, nothing answers. Undone with SIGCONT.

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
