"""One cell: break the shards, read, put them right, read again, look what is left; and judge all of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from labkit._types import ShardKey
from labkit.faults import Fault
from labkit.faults.base import Row
from labkit.faults.data import DataFault
from labkit.lab.lab import Lab
from labkit.matrix.answers import observed
from labkit.matrix.cells import COLD, ROWS, WARM, YOURS, Cell, by_shard
from labkit.matrix.contract import Contract, Kind
from labkit.matrix.evidence import Observation, Read, Truth, normal, waited
from labkit.matrix.footprint import Footprint, excess
from labkit.matrix.judging import judge
from labkit.matrix.outcome import Outcome
from labkit.reader import ShardReader
from labkit.report import Status

__all__ = ["HEALING", "Firings", "OurReads", "Reads", "firings", "healed", "silent", "tried"]

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


HEALING = 1.0
"""Seconds after the faults were undone until reads must be complete."""
_PAUSE = 0.02


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
        await asyncio.sleep(_PAUSE)


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


async def tried(lab: Lab, cell: Cell, reads: Reads, contract: Contract) -> Outcome:
    """Tries a cell on a lab that is well. Where the outcome is `spoilt`, the lab may not be well any more."""
    clock = asyncio.get_running_loop().time
    started = clock()
    outcome = Outcome(cell)
    # Makes the connections that readers keep: they are no leftovers, and a warm read needs them. The lab's own reader
    # sees to it that a shard is well again, also where another one is judged.
    await lab.read()
    await reads()
    before = await reads.footprint()
    await _read_broken(lab, outcome, reads)
    for read in outcome.reads:
        truth = _truth(lab, cell, read.who, contract)
        outcome.complaints += [complaint.by(read.who) for complaint in judge(truth, read.seen)]
    outcome.healed, ill = await healed(reads)
    if ill:
        outcome.complain(Kind.NOT_HEALED, ill)
    if more := await excess(before, reads.footprint):
        outcome.complain(Kind.LEFT_BEHIND, f"{more} more than before")
    outcome.elapsed = clock() - started
    return outcome


async def _read_broken(lab: Lab, outcome: Outcome, reads: Reads) -> None:
    """Reads while the faults last. A lab that cannot make or undo them is a complaint, not an end of the matrix."""
    cell, before, kind = outcome.cell, await firings(lab), Kind.NOT_STARTED
    try:
        async with lab.fault(cell.faults) if cell.samples else nullcontext():
            kind = Kind.NOT_HEALED
            outcome.reads = await reads()
            await _see_fired(lab, outcome, before)
    except Exception as error:
        outcome.complain(kind, f"{type(error).__name__}: {error}")


async def _see_fired(lab: Lab, outcome: Outcome, before: Firings) -> None:
    if any(read.who == YOURS for read in outcome.reads) and await silent(lab, outcome.cell, before, patience=0):
        # Somebody else's reader may not have given it occasion to; one of ours does.
        await cold_read(lab)
    for shard, fault in await silent(lab, outcome.cell, before):
        outcome.complain(Kind.NEVER_FIRED, f"{fault!r} on shard {shard}")


def _truth(lab: Lab, cell: Cell, who: str, contract: Contract) -> Truth:
    allowed = cell.allowed(who)
    rows: dict[ShardKey, list[Row]] = dict(by_shard().items())
    lost: set[int] = set()
    for shard, acting in cell.faults.items():
        for fault in acting:
            if isinstance(fault, DataFault) and Status.OK in allowed[shard]:
                rows[shard] = lab.altered(shard, fault)
                lost |= {i for i, _ in by_shard()[shard]} - {i for i, _ in rows[shard]}
    hidden = normal((i, i) for i in lost) if who == YOURS else ()
    return Truth(lab.router.prune(), rows, allowed, lab.timeout, contract, hidden)


class Reads(Protocol):
    """Reads the shards in each of the ways that are judged, at the same time."""

    async def __call__(self) -> list[Read]:
        """A read in each way."""

    async def footprint(self) -> Footprint | None:
        """What the process that reads holds now; None where it does not say."""


@dataclass(frozen=True)
class OurReads:
    """By the lab's reader, and at the same time by one without connections, which is closed after that."""

    lab: Lab

    async def __call__(self) -> list[Read]:
        return list(await asyncio.gather(_read(WARM, self.lab.reader), cold_read(self.lab)))

    async def footprint(self) -> Footprint:
        return Footprint.now()


async def cold_read(lab: Lab) -> Read:
    """By a reader made for it."""
    async with ShardReader(lab.router, lab.sources(), timeout=lab.timeout) as reader:
        return await _read(COLD, reader)


async def _read(who: str, reader: ShardReader) -> Read:
    clock = asyncio.get_running_loop().time
    started, before = clock(), waited()
    result = None
    try:
        result = await reader.read()
    except Exception as error:
        seen = Observation(None, clock() - started, error=f"{type(error).__name__}: {error}")
    else:
        seen = observed(result, clock() - started)
    return Read(who, replace(seen, starved=waited() - before), result)
