"""Whether reads are complete again soon after the faults were undone."""

from __future__ import annotations

import asyncio

from labkit.matrix.dataset import ROWS
from labkit.matrix.reading import Read, Reads
from labkit.report import Status

__all__ = ["HEALING", "healed"]

HEALING = 1.0
"""Seconds after the faults were undone until reads must be complete."""
_POLL = 0.02


async def healed(reads: Reads) -> tuple[float, str]:
    """Reads until all are complete; returns how many seconds it took, and what is wrong where it took too long."""
    clock = asyncio.get_running_loop().time
    undone = clock()
    while True:
        ill = [read for read in await reads() if not _whole(read)]
        took = clock() - undone
        if took > HEALING:
            return took, f"{took:.2f} s after the faults were undone {_said(ill)}"
        if not ill:
            return took, ""
        await asyncio.sleep(_POLL)


def _whole(read: Read) -> bool:
    """All rows and no gap; whether they are in order was judged before."""
    rows = list(read.seen.rows or ())
    return not read.seen.missing and len(rows) == len(ROWS) and all(ROWS.get(i, ...) == name for i, name in rows)


def _said(ill: list[Read]) -> str:
    if not ill:
        return "reads were complete, and not sooner"
    seen, who = ill[0].seen, ill[0].who
    if seen.rows is None:
        why = seen.error or seen.malformed or seen.crashed
        return f"the read ({who}) failed: {why}" if why else f"the read ({who}) has not come back"
    failed = [f"shard {s} is {status}" for s, status in (seen.statuses or {}).items() if status is not Status.OK]
    said = ["says that some are missing"] if seen.missing and not failed else []
    return ", ".join([f"the read ({who}) has {len(seen.rows)} of {len(ROWS)} rows", *failed, *said])
