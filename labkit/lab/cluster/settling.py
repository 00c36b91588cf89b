"""Waiting for what a cluster comes to in its own time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from labkit.faults.waiting import until

__all__ = ["settled"]

PATIENCE = 30.0
"""Seconds that a cluster gets to settle: a failover takes some five, one of the same master again may take twenty."""


async def settled(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns when it holds; `LabError` that names `what` where that takes too long."""
    await until(holds, f"a cluster in which {what}", PATIENCE)
