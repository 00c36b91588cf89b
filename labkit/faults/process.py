"""Faults of the server process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Target

__all__ = ["Kill", "Pause"]


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the server and all its children: connections break, new ones are refused. Undone: it starts again.

    In a container, `docker kill`.
    """

    layer: ClassVar[str] = "process"

    async def start(self, target: Target) -> None:
        await target.kill()

    async def stop(self, target: Target) -> None:
        await target.restart()


@dataclass(frozen=True)
class Pause:
    """SIGSTOP to the server and all its children: connections stay, nothing answers. Undone with SIGCONT.

    In a container, `docker pause` (the kernel's freezer) and `docker unpause`.
    """

    layer: ClassVar[str] = "process"

    async def start(self, target: Target) -> None:
        await target.pause()

    async def stop(self, target: Target) -> None:
        await target.resume()
