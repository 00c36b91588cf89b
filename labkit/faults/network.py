"""Faults of the network between a client and a shard; the proxy in front of the shard makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Target

__all__ = ["BlackHole"]


@dataclass(frozen=True)
class BlackHole:
    """Packets vanish: connect() hangs, established connections are silent both ways. Undone: what was held flows on."""

    layer: ClassVar[str] = "network"

    async def start(self, target: Target) -> None:
        await target.blackhole(True)

    async def stop(self, target: Target) -> None:
        await target.blackhole(False)
