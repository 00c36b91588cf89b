"""Faults of the container that a server runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Sample, Target, Undo
from labkit.report import Status

__all__ = ["Disconnect"]


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
