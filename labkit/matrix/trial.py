"""One cell: break the shards, read, undo the faults, read again, check what is left, and judge all of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from labkit._types import ShardKey
from labkit.faults import Fault
from labkit.faults.data import DataFault
from labkit.lab.lab import Lab
from labkit.matrix.answers import observed
from labkit.matrix.cells import COLD, WARM, YOURS, Cell
from labkit.matrix.contract import Contract, Kind
from labkit.matrix.dataset import Dataset, Flat, flat
from labkit.matrix.evidence import Observation, Read, Truth, waited
from labkit.matrix.footprint import Footprint, Peer
from labkit.matrix.judging import judge
from labkit.matrix.outcome import Outcome
from labkit.matrix.wire import since
from labkit.merge import union
from labkit.reader import ShardReader
from labkit.report import Status

__all__ = ["OurReads", "Reads", "try_cell"]

FIRING, HEALING, RELEASE = 1.0, 1.0, 2.0
"""Seconds within which a fault must fire once the reads are over, reads must be complete once the faults are undone,
and what a read used must be released: a driver may need a moment to take a connection back."""
_POLL = 0.02

Firings: TypeAlias = "Counter[tuple[ShardKey, Fault]]"
"""How often each fault has fired."""
T = TypeVar("T")


class Reads(Protocol):
    """Reads the shards in each of the ways that are judged, concurrently."""

    async def __call__(self) -> list[Read]:
        """One read in each way."""

    async def footprint(self) -> Footprint | None:
        """What the reading process holds now; None if it does not reply."""


@dataclass(frozen=True)
class OurReads:
    """By the lab's reader and, concurrently, by a new reader without connections, which is closed afterwards."""

    lab: Lab
    dataset: Dataset

    async def __call__(self) -> list[Read]:
        schema = self.dataset.schema
        return list(await asyncio.gather(_timed_read(WARM, self.lab.reader, schema), _cold_read(self.lab, schema)))

    async def footprint(self) -> Footprint:
        return Footprint.now()


async def _cold_read(lab: Lab, schema: pa.Schema) -> Read:
    async with ShardReader(lab.router, lab.sources(), timeout=lab.timeout) as reader:
        return await _timed_read(COLD, reader, schema)


async def _timed_read(who: str, reader: ShardReader, schema: pa.Schema) -> Read:
    clock = asyncio.get_running_loop().time
    started, before = clock(), waited()
    result = None
    try:
        result = await reader.read()
    except Exception as error:
        seen = Observation(None, clock() - started, error=f"{type(error).__name__}: {error}")
    else:
        seen = observed(result, clock() - started, schema)
    return Read(who, replace(seen, starved=waited() - before), result)


async def try_cell(lab: Lab, cell: Cell, reads: Reads, contract: Contract, dataset: Dataset) -> Outcome:
    """Tries a cell on a healthy lab with the rows of `dataset`. If the outcome is `spoilt`, the lab may not be healthy
    any more.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    outcome = Outcome(cell)
    # Opens the connections that readers keep: they are not leftovers, and a warm read needs them. The lab's own reader
    # makes sure that every shard is healthy, even when another reader is judged.
    await lab.read()
    await reads()
    before = await reads.footprint()
    began = await _read_broken(lab, outcome, reads, dataset)
    for read in outcome.reads:
        truth = _truth(lab, cell, read.who, contract, dataset)
        outcome.complaints += [complaint.by(read.who) for complaint in judge(truth, read.seen)]
    outcome.healed, failure = await _healed(reads, dataset)
    if failure:
        outcome.complain(Kind.NOT_HEALED, failure)
    more, ports = await _left_behind(lab, reads, before)
    if more:
        outcome.complain(Kind.LEFT_BEHIND, f"{more} more than before")
        seen = since(began, await lab.connections())
        outcome.left = [one for one in seen if one.port in ports and one.closed is None]
    outcome.elapsed = clock() - started
    return outcome


async def _read_broken(lab: Lab, outcome: Outcome, reads: Reads, dataset: Dataset) -> float:
    """Reads while the faults last; returns when that began. If the lab cannot start or undo them, that is a complaint;
    the matrix goes on.
    """
    cell, before, kind = outcome.cell, await _firings(lab), Kind.NOT_STARTED
    began = monotonic()
    try:
        async with lab.fault(cell.faults) if cell.samples else nullcontext():
            kind = Kind.NOT_HEALED
            await lab.connections()  # those of earlier reads; from here on, bytes are counted anew
            began = monotonic()
            outcome.reads = await reads()
            outcome.wire = since(began, await lab.connections())
            await _check_fired(lab, outcome, before, dataset)
    except Exception as error:
        outcome.complain(kind, f"{type(error).__name__}: {error}")
    return began


async def _check_fired(lab: Lab, outcome: Outcome, before: Firings, dataset: Dataset) -> None:
    if any(read.who == YOURS for read in outcome.reads) and await _not_fired(lab, outcome.cell, before, within=0):
        # The judged reader may not have triggered it; one of ours does.
        await _cold_read(lab, dataset.schema)
    for shard, fault in await _not_fired(lab, outcome.cell, before, within=FIRING):
        outcome.complain(Kind.NEVER_FIRED, f"{fault!r} on shard {shard}")


async def _not_fired(lab: Lab, cell: Cell, before: Firings, within: float) -> list[tuple[ShardKey, Fault]]:
    """The faults of the cell that have not fired since `before`, nor do so `within` these seconds."""
    faults = [(shard, fault) for shard, acting in cell.faults.items() for fault in acting]

    async def silent() -> list[tuple[ShardKey, Fault]]:
        now = await _firings(lab)
        return [pair for pair in faults if now[pair] <= before[pair]]

    return await _last(silent, within)


async def _firings(lab: Lab) -> Firings:
    return Counter((event.shard, event.fault) for event in await lab.record() if event.kind == "fired")


async def _left_behind(lab: Lab, reads: Reads, before: Footprint | None) -> tuple[str, frozenset[int]]:
    """What the reading process holds beyond `before`, "" for nothing, also if either is unknown; and the ports of its
    further sockets.
    """
    ports: frozenset[int] = frozenset()
    places = {shard: urlsplit(url) for shard, url in lab.urls.items()}
    names: dict[Peer, ShardKey] = {(place.hostname or "", place.port or 0): shard for shard, place in places.items()}

    async def excess() -> str:
        nonlocal ports
        now = await reads.footprint()
        if before is None or now is None:
            return ""
        ports = now.ports - before.ports
        return now.beyond(before, names)

    return await _last(excess, RELEASE), ports


async def _last(check: Callable[[], Awaitable[T]], within: float) -> T:
    """Repeats a check until its result is empty, for `within` seconds at most; returns the last result."""
    clock = asyncio.get_running_loop().time
    ends = clock() + within
    while (found := await check()) and clock() < ends:
        await asyncio.sleep(_POLL)
    return found


async def _healed(reads: Reads, dataset: Dataset) -> tuple[float, str]:
    """Reads until all reads are complete; returns the seconds that took, without those in which the last one had no
    processor, and what is wrong if it took too long.
    """
    clock = asyncio.get_running_loop().time
    undone = clock()
    while True:
        made = await reads()
        incomplete = [read for read in made if not _is_complete(read, dataset)]
        took = clock() - undone - max(read.seen.starved for read in made)
        if took > HEALING:
            return took, f"{took:.2f} s after the faults were undone {_described(incomplete, dataset)}"
        if not incomplete:
            return took, ""
        await asyncio.sleep(_POLL)


def _is_complete(read: Read, dataset: Dataset) -> bool:
    """Whether it has all rows and no gap; their order has been judged already."""
    rows, held = list(read.seen.rows or ()), dataset.rows
    return not read.seen.missing and len(rows) == len(held) and all(held.get(row[0]) == row for row in rows)


def _described(incomplete: list[Read], dataset: Dataset) -> str:
    if not incomplete:
        return "reads were complete, but not before"
    seen, who = incomplete[0].seen, incomplete[0].who
    if seen.rows is None:
        why = seen.error or seen.malformed or seen.crashed
        return f"the read ({who}) failed: {why}" if why else f"the read ({who}) has not returned"
    failed = [f"shard {s} is {status}" for s, status in (seen.statuses or {}).items() if status is not Status.OK]
    gaps = ["reports that some are missing"] if seen.missing and not failed else []
    return ", ".join([f"the read ({who}) has {len(seen.rows)} of {len(dataset.rows)} rows", *failed, *gaps])


def _truth(lab: Lab, cell: Cell, who: str, contract: Contract, dataset: Dataset) -> Truth:
    allowed = cell.allowed(who)
    rows: dict[ShardKey, list[Flat]] = dict(dataset.by_shard)
    lost: set[int] = set()
    for shard, acting in cell.faults.items():
        for fault in acting:
            if isinstance(fault, DataFault) and Status.OK in allowed[shard]:
                rows[shard] = [flat(row) for row in lab.altered(shard, fault)]
                lost |= {row[0] for row in dataset.by_shard[shard]} - {row[0] for row in rows[shard]}
    hidden = union((i, i) for i in lost) if who == YOURS else ()
    return Truth(lab.router.prune(), rows, allowed, lab.timeout, contract, hidden, dataset.schema.names)
