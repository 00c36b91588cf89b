"""Watching: each shard is listened to and read by itself, and its latest outcome is merged with those of the others.

A shard that hangs so delays nobody else's changes. Nothing is queued: a consumer that comes late finds the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from labkit.result import ReadResult, ShardReport
from labkit.router import Ranges, ShardKey
from labkit.scatter import Outcome, Scatter, gather
from labkit.shards.base import Listens
from labkit.shards.failures import classify
from labkit.status import Status

__all__ = ["REST", "RETRY", "Watch"]

REST = 0.02
"""Seconds between two reads of a shard, so that a burst of writes is a few reads and not one each."""
RETRY = 0.2
"""Seconds until a shard that failed is tried again."""


class Watch:
    """The rows in [low, high] as they change, for any number of consumers."""

    def __init__(
        self,
        scatter: Scatter,
        plan: Mapping[Any, Ranges],
        shards: tuple[ShardKey, ...],
        low: int | None,
        high: int | None,
        timeout: float,
    ) -> None:
        self._scatter, self._plan, self._shards, self._timeout = scatter, plan, shards, timeout
        self._low, self._high = low, high
        self._outcomes: dict[ShardKey, Outcome] = {}
        self._version = 0
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self.consumers = 0

    def start(self, interval: float) -> None:
        """Begins to listen; `interval` is in seconds, see `ShardReader.watch`."""
        for shard in self._plan:
            self._tasks.append(asyncio.create_task(self._follow(shard, interval)))

    def stop(self) -> None:
        """Lets go of all shards; consumers are told that this is the end."""
        self._stopped = True
        for task in self._tasks:
            self._scatter.let_go(task)
        self._news.set()

    async def results(self) -> AsyncIterator[ReadResult]:
        """The latest result as soon as every shard has an outcome, and again whenever there is a later one."""
        seen = -1
        while True:
            while not self._stopped and (self._version == seen or len(self._outcomes) < len(self._plan)):
                await self._news.wait()
            if self._stopped:
                return
            seen = self._version
            yield self._compose()

    def _compose(self) -> ReadResult:
        elapsed = max((outcome.report.elapsed for outcome in self._outcomes.values()), default=0.0)
        return gather(self._plan, self._outcomes, self._shards, elapsed=elapsed, timeout=self._timeout)

    async def _follow(self, shard: ShardKey, interval: float) -> None:
        """Listens to a shard for ever; while there is a connection it is read whenever it may have changed."""
        while True:
            lost = await self._listen(shard, interval)
            if lost.status is Status.REJECTED:
                # It lives, and has no place for a listener or does not want one: ask it for its rows all the same.
                await self._read(shard)
                await asyncio.sleep(interval)
            else:
                # Not heard of is not known: its rows may have changed since.
                self._settle(shard, Outcome(lost, None))
                await asyncio.sleep(RETRY)

    async def _listen(self, shard: ShardKey, interval: float) -> ShardReport:
        """Listens, and reads whenever there is news, until the connection is lost; returns how."""
        heard, changed = asyncio.Event(), asyncio.Event()

        def notify() -> None:
            heard.set()
            changed.set()

        clock = asyncio.get_running_loop().time
        started = clock()
        source = self._scatter.shards[shard]
        reading = asyncio.create_task(self._read_on(shard, changed))
        try:
            await (source.listen(notify, interval) if isinstance(source, Listens) else _tick(notify, interval))
            status, cause = Status.DISCONNECTED, "it stopped listening"
        except Exception as error:
            status, cause = classify(error)
        finally:
            self._scatter.let_go(reading)
        if not heard.is_set():
            elapsed = min(clock() - started, self._timeout)
        else:  # lost at once, or asked for a sign of life in vain
            elapsed = self._timeout if status is Status.TIMEOUT else 0.0
        return ShardReport(shard, status, 0, 0.0, elapsed, cause, self._plan[shard])

    async def _read_on(self, shard: ShardKey, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            if await self._read(shard):
                await asyncio.sleep(REST)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), RETRY)
                changed.set()

    async def _read(self, shard: ShardKey) -> bool:
        """Reads the shard's part of the window; True when it answered."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        plan = {shard: self._plan[shard]}
        outcome = (await self._scatter.ask(plan, self._low, self._high, deadline))[shard]
        self._settle(shard, outcome)
        return outcome.rows is not None

    def _settle(self, shard: ShardKey, outcome: Outcome) -> None:
        """Takes the outcome over; it is news where rows, status or cause are not what they were."""
        before = self._outcomes.get(shard)
        self._outcomes[shard] = outcome
        if before is None or _differ(before, outcome):
            self._version += 1
            news, self._news = self._news, asyncio.Event()
            news.set()


async def _tick(notify: Callable[[], None], interval: float) -> None:
    while True:
        notify()
        await asyncio.sleep(interval)


def _differ(before: Outcome, after: Outcome) -> bool:
    if _state(before.report) != _state(after.report):
        return True
    old, new = before.table, after.table
    return old is not None and new is not None and not old.equals(new)


def _state(report: ShardReport) -> ShardReport:
    return replace(report, started=0.0, elapsed=0.0)
