"""Waiting for what a fault brings about, and the seconds that a fault may last."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from labkit.errors import LabError, UsageError

__all__ = ["check_seconds", "until"]

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


def check_seconds(fault: object, seconds: Any, most: float = math.inf) -> None:
    """`UsageError` for what is not a positive, finite number of seconds, `most` at the most."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < math.inf or seconds > most:
        limit = "" if most == math.inf else f" up to {most:g}"
        raise UsageError(f"{type(fault).__name__}: seconds must be a positive number{limit}, not {seconds!r}")
