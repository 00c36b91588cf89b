"""How late a read with a frozen shard returns while bulk reads decode on the same event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench.bulk import reader_of, warm
from tests.bench.task import Contestant, Ready, Task

__all__ = ["CONTESTANTS", "DEADLINE", "FROZEN"]

DEADLINE = 2.0
FROZEN = 2
"""The shard that is frozen once all connections are open."""
TICK = 0.001


async def _blocked(stop: asyncio.Event) -> float:
    """The longest delay of a tick by the loop, in seconds."""
    longest, last = 0.0, time.perf_counter()
    while not stop.is_set():
        await asyncio.sleep(TICK)
        now = time.perf_counter()
        longest, last = max(longest, now - last - TICK), now
    return longest


async def _read_until(reader: Any, stop: asyncio.Event) -> int:
    """Reads in bulk until `stop`, so that decoding never pauses; makes no DataFrame. Returns the number of reads."""
    reads = 0
    while not stop.is_set():
        (await reader.read()).raise_for_missing()
        reads += 1
    return reads


async def _late(small: Any, bulk: Any | None) -> dict[str, float]:
    stop = asyncio.Event()
    ticking = asyncio.create_task(_blocked(stop))
    reading = asyncio.create_task(_read_until(bulk, stop)) if bulk else None
    await asyncio.sleep(TICK)
    began = time.perf_counter()
    result = await small.read()
    late = time.perf_counter() - began - DEADLINE
    stop.set()
    blocked, reads = await ticking, await reading if reading else 0
    if result.missing != small.router.prune()[FROZEN]:
        raise ValueError(f"missing are {result.missing}")
    return {"late": late, "blocked": blocked, "reads": reads}


def _small(task: Task) -> Any:
    from labkit import CLASSIC, ShardReader
    from labkit.shards import PostgresShard

    shards = {number: PostgresShard(url, f"data_{number}") for number, url in enumerate(task.extra["urls"], start=1)}
    return ShardReader(CLASSIC, shards, timeout=DEADLINE)


@contextmanager
def _measured(task: Task, bulk: bool) -> Iterator[Ready]:
    with asyncio.Runner() as runner:
        small, large = _small(task), reader_of(task) if bulk else None
        for reader in filter(None, (small, large)):
            runner.run(warm(reader))
        yield Ready(lambda: runner.run(_late(small, large)), lambda _: None, dict)
        for reader in filter(None, (small, large)):
            runner.run(reader.aclose())


@contextmanager
def alone(task: Task) -> Iterator[Ready]:
    """Nothing else on the loop: how late the machine itself makes a deadline."""
    with _measured(task, bulk=False) as ready:
        yield ready


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """With bulk reads of labkit on the same loop."""
    with _measured(task, bulk=True) as ready:
        yield ready


CONTESTANTS: dict[str, Contestant] = {"floor": alone, "labkit": labkit}
