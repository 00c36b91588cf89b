"""Faults of an address: it refuses connections, or drops packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Sample, Target, Undo
from labkit.report import Status

__all__ = ["BlackHole", "Down"]


@dataclass(frozen=True)
class Down(Fault):
    """The address refuses: connections end, new ones are refused; the server runs on. Undone: it accepts again."""

    layer: ClassVar[str] = "network"

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(lambda: target.down(False))
        await target.down(True)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.UNREACHABLE})]


@dataclass(frozen=True)
class BlackHole(Fault):
    """Packets vanish: connect() hangs, established connections are silent both ways. Undone: held bytes are sent."""

    layer: ClassVar[str] = "network"

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(lambda: target.blackhole(False))
        await target.blackhole(True)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.TIMEOUT})]
