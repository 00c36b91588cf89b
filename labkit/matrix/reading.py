"""Reading a lab so that it can be judged: by its own reader, and by one that has no connection yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from labkit.lab.lab import Lab
from labkit.matrix.answers import observed
from labkit.matrix.cells import COLD, WARM
from labkit.matrix.evidence import Observation, waited
from labkit.matrix.footprint import Footprint
from labkit.reader import ShardReader
from labkit.result import ReadResult

__all__ = ["OurReads", "Read", "Reads", "cold_read"]


@dataclass(frozen=True)
class Read:
    """One read: who read, and what came of it."""

    who: str
    seen: Observation
    result: ReadResult | None = None
    """Of a reader that returns one; it draws the timeline."""


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
