"""Faults of the container that a server runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Target

__all__ = ["Disconnect"]


@dataclass(frozen=True)
class Disconnect:
    """The container is taken off its network: connections break, new ones are refused; the server runs on.

    Undone: it is put back on, under the same address. Launcher "docker" only.
    """

    layer: ClassVar[str] = "container"

    async def start(self, target: Target) -> None:
        await target.disconnect()

    async def stop(self, target: Target) -> None:
        await target.reconnect()
