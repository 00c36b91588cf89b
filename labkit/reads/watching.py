"""Watching: each shard is read by itself, and its latest outcome is merged with those of the others.

A shard that hangs so delays nobody else's changes. Nothing is queued: a consumer that comes late finds the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from labkit._loops import PerLoop, asked_to_end, on
from labkit._types import Ranges, ShardKey
from labkit.errors import UsageError
from labkit.report import ShardReport
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.scatter import Outcome, Scatter, gather
from labkit.shards.base import Listens

__all__ = ["LISTENING", "REST", "RETRY", "Ears", "Results", "Watch", "Watches"]

REST = 0.02
"""Seconds between two reads of a shard at the least, so that a burst of writes is a few reads and not one each."""
RETRY = 0.2
"""Seconds until a shard that failed is tried again."""
LISTENING = 0.1
"""Seconds that a shard gets to listen before it is read for the first time, so that it is not read twice."""


class Watch:
    """The rows in a window as they change, for any number of consumers on the event loop that it was made on."""

    def __init__(
        self,
        scatter: Scatter,
        plan: Mapping[Any, Ranges],
        shards: tuple[ShardKey, ...],
        window: tuple[int | None, int | None],
        timeout: float,
        interval: float,
        ears: Ears,
    ) -> None:
        self._scatter, self._plan, self._shards, self._window = scatter, plan, shards, window
        self._timeout, self._interval = timeout, interval
        self._outcomes: dict[ShardKey, Outcome] = {}
        self._news = asyncio.Event()
        self._changed = {shard: asyncio.Event() for shard in plan}
        self._ears = ears
        self.version = 0
        """Goes up with every result that is another one."""
        self.stopped = False
        self.consumers = 0
        for shard, changed in self._changed.items():
            ears.join(shard, changed, interval)
        self._tasks = [asyncio.create_task(self._follow(shard)) for shard in plan]

    def stop(self) -> None:
        """Lets go of all shards; consumers are told that this is the end."""
        self.stopped = True
        for shard, changed in self._changed.items():
            self._ears.leave(shard, changed)
        for task in self._tasks:
            self._scatter.let_go(task)
        self._news.set()

    async def after(self, version: int) -> tuple[int, ReadResult] | None:
        """The latest version and its result, once every shard has an outcome and it is not that one; None when it is
        over.
        """
        while not self.stopped and (self.version == version or len(self._outcomes) < len(self._plan)):
            await self._news.wait()
        if self.stopped:
            return None
        elapsed = max((outcome.report.elapsed for outcome in self._outcomes.values()), default=0.0)
        version, outcomes = self.version, dict(self._outcomes)  # there may be a later one by the time it is merged
        return version, await gather(self._plan, outcomes, self._shards, elapsed=elapsed, seconds=self._timeout)

    async def _follow(self, shard: ShardKey) -> None:
        """Reads a shard when it tells of a change, and whatever it tells every interval: tellers cannot be believed."""
        changed = self._changed[shard]
        if self._ears.hears(shard):
            await _either(changed, min(LISTENING, self._interval))
        while not self._is_over():
            changed.clear()
            outcome = await self._read(shard)
            self._settle(shard, outcome)
            # A table that takes long to read is not read all the time, however often it changes.
            rest = min(max(REST, outcome.report.elapsed), self._interval)
            await asyncio.sleep(rest)
            await _either(changed, self._interval - rest if outcome.rows is not None else min(RETRY, self._interval))

    async def _read(self, shard: ShardKey) -> Outcome:
        deadline = asyncio.get_running_loop().time() + self._timeout
        return (await self._scatter.ask({shard: self._plan[shard]}, *self._window, deadline))[shard]

    def _is_over(self) -> bool:
        return self.stopped or asked_to_end()

    def _settle(self, shard: ShardKey, outcome: Outcome) -> None:
        """Takes the outcome over; it is news where rows, status or cause are not what they were."""
        before = self._outcomes.get(shard)
        self._outcomes[shard] = outcome
        if before is None or _differ(before, outcome):
            self.version += 1
            news, self._news = self._news, asyncio.Event()
            news.set()


class Ears:
    """Listens to the shards that are watched on one event loop: once to each, for all windows of it together."""

    def __init__(self, scatter: Scatter) -> None:
        self._scatter = scatter
        self._hearing: dict[ShardKey, _Hearing] = {}

    def hears(self, shard: ShardKey) -> bool:
        """Whether the shard tells of its changes by itself."""
        return isinstance(self._scatter.shards[shard], Listens)

    def join(self, shard: ShardKey, changed: asyncio.Event, interval: float) -> None:
        """Has `changed` set whenever the shard tells of a change; at once, where it is listened to already."""
        source = self._scatter.shards[shard]
        if not isinstance(source, Listens):
            return
        hearing = self._hearing.get(shard)
        if hearing is None:
            hearing = self._hearing[shard] = _Hearing(source)
            hearing.told[changed] = interval
            hearing.task = asyncio.create_task(hearing.hear())
        else:
            hearing.told[changed] = interval
            if hearing.listens:
                changed.set()

    def leave(self, shard: ShardKey, changed: asyncio.Event) -> None:
        """The end of that; whoever is the last lets the shard go."""
        hearing = self._hearing.get(shard)
        if hearing is not None and hearing.told.pop(changed, None) is not None and not hearing.told:
            del self._hearing[shard]
            if hearing.task is not None:
                self._scatter.let_go(hearing.task)


class _Hearing:
    """Listening to one shard for as long as it is watched. Whether the shard lives is what reads find out."""

    def __init__(self, source: Listens) -> None:
        self._source = source
        self.told: dict[asyncio.Event, float] = {}
        """Who is told, and the interval at which each reads in any case."""
        self.task: asyncio.Task[None] | None = None
        self.listens = False
        """Whether the shard has told anything since it was last asked to: it tells first that it begins."""

    async def hear(self) -> None:
        """Listens until nobody wants to know any more."""
        pause = 0.0
        while self.told and not asked_to_end():
            await asyncio.sleep(pause)
            interval = min(self.told.values(), default=RETRY)
            with contextlib.suppress(Exception):
                await self._source.listen(self._tell, interval)
            once, self.listens = self.listens, False
            self._set()  # what happened since is unknown
            pause = RETRY if once else max(RETRY, interval)

    def _tell(self) -> None:
        self.listens = True
        self._set()

    def _set(self) -> None:
        for changed in self.told:
            changed.set()


class Results(AsyncGenerator[ReadResult, None]):
    """What `ShardReader.watch` returns: one consumer of a watch, which `join` gives it on the event loop where it first
    waits. That is where it stays: `UsageError` on any other.
    """

    def __init__(self, join: Callable[[], Watch], leave: Callable[[Watch], None]) -> None:
        self._join, self._leave = join, leave
        self._watch: Watch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = -1
        self._over = False

    async def asend(self, _value: None) -> ReadResult:
        """The next result; StopAsyncIteration when this was closed, or the reader."""
        loop = asyncio.get_running_loop()
        if self._loop is None and not self._over:
            self._loop, self._watch = loop, self._join()
        if self._loop not in (None, loop):
            raise UsageError("a watch stays on the event loop where it began: call watch() again on this one")
        try:
            news = await self._watch.after(self._seen) if self._watch is not None else None
        except BaseException:
            self._end()  # the caller left
            raise
        if news is None or self._watch is None:
            self._end()
            raise StopAsyncIteration
        self._seen, result = news
        return result

    async def athrow(self, kind: Any, value: Any = None, trace: Any = None) -> ReadResult:
        """Ends it, and raises what was thrown."""
        self._end()
        raise kind if value is None else value

    def __del__(self) -> None:
        self._end()  # a loop over it was left

    def _end(self) -> None:
        self._over = True
        watch, self._watch = self._watch, None
        if watch is not None and self._loop is not None:
            on(self._loop, partial(self._leave, watch))


class Watches:
    """Those of one reader, by what they watch; each event loop has its own."""

    def __init__(self, scatter: Scatter, router: RangeRouter, timeout: float) -> None:
        self._scatter, self._router, self._timeout = scatter, router, timeout
        self._here: PerLoop[_Here] = PerLoop(lambda: _Here(scatter), _Here.aclose, lambda _: None)

    def results(self, low: int | None, high: int | None, interval: float) -> Results:
        """One more consumer; those of the same window and interval on the same loop share a `Watch`."""
        key = (low, high, interval)
        return Results(partial(self._join, key), partial(self._leave, key))

    async def aclose(self) -> None:
        """Ends all, on all loops."""
        await self._here.aclose()

    def _join(self, key: tuple[int | None, int | None, float]) -> Watch:
        here = self._here.here()
        watches = here.watches
        if key not in watches:
            *window, interval = key
            plan = self._router.prune(*window)
            watches[key] = Watch(self._scatter, plan, self._router.shards, key[:2], self._timeout, interval, here.ears)
        watches[key].consumers += 1
        return watches[key]

    def _leave(self, key: Any, watch: Watch) -> None:
        watch.consumers -= 1
        if not watch.consumers:
            here = self._here.existing()
            if here is not None and here.watches.get(key) is watch:
                del here.watches[key]
            watch.stop()


class _Here:
    """The watches of one event loop, and what they share."""

    def __init__(self, scatter: Scatter) -> None:
        self.watches: dict[Any, Watch] = {}
        self.ears = Ears(scatter)

    async def aclose(self) -> None:
        """Ends all of it."""
        for watch in self.watches.values():
            watch.stop()


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Waits for the event, that long at the most."""
    with contextlib.suppress(TimeoutError):
        # Not wait_for(), which may swallow a cancel.
        async with asyncio.timeout(seconds):
            await event.wait()


def _differ(before: Outcome, after: Outcome) -> bool:
    if _state(before.report) != _state(after.report):
        return True
    old, new = before.table, after.table
    return old is not None and new is not None and not old.equals(new)


def _state(report: ShardReport) -> ShardReport:
    return replace(report, started=0.0, elapsed=0.0)
