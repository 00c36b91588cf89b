"""Whether the faults of a cell really fired: one that never met the read proves nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeAlias

from labkit._types import ShardKey
from labkit.faults import Fault
from labkit.lab.lab import Lab
from labkit.matrix.cells import Cell

__all__ = ["Firings", "firings", "silent"]

PATIENCE = 1.0
"""Seconds that a fault gets to fire once the reads are over."""
_POLL = 0.02

Firings: TypeAlias = "Counter[tuple[ShardKey, Fault]]"
"""How often each fault has fired."""


async def firings(lab: Lab) -> Firings:
    """Those of the lab until now."""
    return Counter((event.shard, event.fault) for event in await lab.record() if event.kind == "fired")


async def silent(lab: Lab, cell: Cell, before: Firings, patience: float = PATIENCE) -> list[tuple[ShardKey, Fault]]:
    """The faults of the cell that have not fired since `before`; they get `patience` seconds to do so."""
    wanted = [(shard, fault) for shard, acting in cell.faults.items() for fault in acting]
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience
    while True:
        now = await firings(lab)
        left = [pair for pair in wanted if now[pair] <= before[pair]]
        if not left or loop.time() >= ends:
            return left
        await asyncio.sleep(_POLL)
