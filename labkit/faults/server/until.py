"""Waiting for what a server does in its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from labkit.errors import LabError

__all__ = ["until"]

PATIENCE = 10.0
POLL = 0.01


async def until(holds: Callable[[], Awaitable[bool]], what: str, patience: float = PATIENCE) -> None:
    """Returns when `holds` does; `LabError` that names `what` where that takes more than `patience` seconds."""
    clock = asyncio.get_running_loop().time
    ends = clock() + patience
    while not await holds():
        if clock() >= ends:
            raise LabError(f"{what} has not come about in {patience:.0f} s")
        await asyncio.sleep(POLL)
