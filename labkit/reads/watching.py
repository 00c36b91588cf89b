"""Watching: each shard is read on its own, and its latest outcome is merged with those of the others.

So a shard that hangs delays no other shard's changes. Nothing is queued: a slow consumer gets the latest result.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from labkit._filters import Filters
from labkit._loops import PerLoop, asked_to_end, on
from labkit._types import Ranges, ShardKey
from labkit.errors import UsageError
from labkit.report import ShardReport
from labkit.result import ReadResult
from labkit.router import RangeRouter
from labkit.scatter import Question, Scatter, ShardOutcome, gather
from labkit.shards.base import Listens
from labkit.tables import are_same

__all__ = ["LISTENING", "REST", "RETRY", "Listeners", "Results", "Watch", "Watches"]

REST = 0.02
"""Least seconds between two reads of a shard, so that a burst of writes causes a few reads, not one each."""
RETRY = 0.2
"""Seconds until a failed shard is tried again."""
LISTENING = 0.1
"""Seconds that a shard gets to start listening before its first read, so that it is not read twice."""


class Watch:
    """The rows in a window as they change, for any number of consumers on the event loop it was made on."""

    def __init__(
        self,
        scatter: Scatter,
        plan: Mapping[Any, Ranges],
        shards: tuple[ShardKey, ...],
        window: tuple[int | None, int | None],
        columns: tuple[str, ...] | None,
        filters: Filters | None,
        timeout: float,
        interval: float,
        listeners: Listeners,
    ) -> None:
        self._scatter, self._plan, self._shards, self._window = scatter, plan, shards, window
        self._columns, self._filters = columns, filters
        self._timeout, self._interval = timeout, interval
        self._outcomes: dict[ShardKey, ShardOutcome] = {}
        self._news = asyncio.Event()
        self._changed = {shard: asyncio.Event() for shard in plan}
        self._listeners = listeners
        self.version = 0
        """Incremented with every result that differs from the one before."""
        self.stopped = False
        self.consumers = 0
        for shard, changed in self._changed.items():
            listeners.join(shard, changed, interval)
        self._refused: UsageError | None = None
        self._tasks = [asyncio.create_task(self._follow(shard)) for shard in plan]

    def stop(self) -> None:
        """Stops following the shards, and wakes the consumers, whose watch ends."""
        self.stopped = True
        for shard, changed in self._changed.items():
            self._listeners.leave(shard, changed)
        for task in self._tasks:
            self._scatter.let_go(task)
        self._news.set()

    async def after(self, version: int) -> tuple[int, ReadResult] | None:
        """The latest version and its result, once every shard has an outcome and the version is not `version`; None
        once the watch is stopped. Raises `UsageError` for a column that no shard has.
        """
        first = version < 0
        while not self.stopped and (self.version == version or len(self._outcomes) < len(self._plan)):
            if self._refused is not None:
                raise self._refused
            await self._news.wait()
        if self.stopped:
            return None
        elapsed = max((outcome.report.elapsed for outcome in self._outcomes.values()), default=0.0)
        version, outcomes = self.version, dict(self._outcomes)  # both may change during the merge
        # Each shard's rows are filtered already; one outside the window that hangs delays the first result only.
        together = replace(self._question(self._plan), filters=None, survey=first)
        outcomes = await self._scatter.agreed(outcomes, together)
        schema = self._scatter.columns.schema(self._columns)
        seconds = self._timeout
        return version, await gather(
            self._plan, outcomes, self._shards, elapsed=elapsed, seconds=seconds, schema=schema
        )

    async def _follow(self, shard: ShardKey) -> None:
        """Reads a shard when it notifies of a change, and at every interval: notifications cannot be relied on."""
        changed = self._changed[shard]
        if self._listeners.can_listen(shard):
            await _wait_for(changed, min(LISTENING, self._interval))
        while not self._is_over():
            changed.clear()
            try:
                outcome = await self._read(shard)
            except UsageError as error:
                self._refused = error
                self._news.set()
                return
            self._settle(shard, outcome)
            # A table that takes long to read is not read all the time, however often it changes.
            rest = min(max(REST, outcome.report.elapsed), self._interval)
            await asyncio.sleep(rest)
            await _wait_for(changed, self._interval - rest if outcome.rows is not None else min(RETRY, self._interval))

    async def _read(self, shard: ShardKey) -> ShardOutcome:
        question = replace(self._question({shard: self._plan[shard]}), survey=False)  # `after` sees all of them
        return (await self._scatter.ask(question))[shard]

    def _question(self, plan: Mapping[Any, Ranges]) -> Question:
        deadline = asyncio.get_running_loop().time() + self._timeout
        return Question(plan, *self._window, deadline, columns=self._columns, filters=self._filters)

    def _is_over(self) -> bool:
        return self.stopped or asked_to_end()

    def _settle(self, shard: ShardKey, outcome: ShardOutcome) -> None:
        """Stores the outcome; it makes a new version if rows, status or cause differ."""
        before = self._outcomes.get(shard)
        self._outcomes[shard] = outcome
        if before is None or _differ(before, outcome):
            self.version += 1
            news, self._news = self._news, asyncio.Event()
            news.set()


class Listeners:
    """The listeners of one event loop: one per watched shard, shared by all windows."""

    def __init__(self, scatter: Scatter) -> None:
        self._scatter = scatter
        self._by_shard: dict[ShardKey, _Listener] = {}

    def can_listen(self, shard: ShardKey) -> bool:
        """Whether the shard can notify of its changes."""
        return isinstance(self._scatter.shards[shard], Listens)

    def join(self, shard: ShardKey, changed: asyncio.Event, interval: float) -> None:
        """Has `changed` set whenever the shard notifies of a change; at once if its listener listens already."""
        source = self._scatter.shards[shard]
        if not isinstance(source, Listens):
            return
        listener = self._by_shard.get(shard)
        if listener is None:
            listener = self._by_shard[shard] = _Listener(source)
            listener.subscribers[changed] = interval
            listener.task = asyncio.create_task(listener.run())
        else:
            listener.subscribers[changed] = interval
            if listener.listens:
                changed.set()

    def leave(self, shard: ShardKey, changed: asyncio.Event) -> None:
        """Undoes `join`; the listener ends with its last subscriber."""
        listener = self._by_shard.get(shard)
        if listener is None or listener.subscribers.pop(changed, None) is None or listener.subscribers:
            return
        del self._by_shard[shard]
        if listener.task is not None:
            self._scatter.let_go(listener.task)


class _Listener:
    """Listens to one shard for as long as it is watched. Whether the shard is alive is for reads to find out."""

    def __init__(self, source: Listens) -> None:
        self._source = source
        self.subscribers: dict[asyncio.Event, float] = {}
        """Events to set, each with the interval at which its watch reads in any case."""
        self.task: asyncio.Task[None] | None = None
        self.listens = False
        """Whether the shard has notified since `listen` was last called; its first notice says that it listens."""

    async def run(self) -> None:
        """Listens until the last subscriber has left."""
        pause = 0.0
        while self.subscribers and not asked_to_end():
            await asyncio.sleep(pause)
            interval = min(self.subscribers.values(), default=RETRY)
            with contextlib.suppress(Exception):
                await self._source.listen(self._notify, interval)
            listened, self.listens = self.listens, False
            self._set()  # changes from here on go unnoticed
            pause = RETRY if listened else max(RETRY, interval)

    def _notify(self) -> None:
        self.listens = True
        self._set()

    def _set(self) -> None:
        for changed in self.subscribers:
            changed.set()


class Results(AsyncGenerator[ReadResult, None]):
    """What `ShardReader.watch` returns: one consumer of a watch. It joins the watch of the event loop where it is first
    awaited, and stays there: on another loop it raises `UsageError`.
    """

    def __init__(self, join: Callable[[], Watch], leave: Callable[[Watch], None]) -> None:
        self._join, self._leave = join, leave
        self._watch: Watch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = -1
        self._over = False

    async def asend(self, _value: None) -> ReadResult:
        """The next result; StopAsyncIteration once this generator or the reader is closed."""
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
        """Ends the watch, and raises what was thrown."""
        self._end()
        raise kind if value is None else value

    def __del__(self) -> None:
        self._end()  # the consumer left its loop early

    def _end(self) -> None:
        self._over = True
        watch, self._watch = self._watch, None
        if watch is not None and self._loop is not None:
            on(self._loop, partial(self._leave, watch))


class Watches:
    """The watches of one reader; each event loop has its own."""

    def __init__(self, scatter: Scatter, router: RangeRouter, timeout: float) -> None:
        self._scatter, self._router, self._timeout = scatter, router, timeout
        self._here: PerLoop[_Here] = PerLoop(lambda: _Here(scatter), _Here.aclose, lambda _: None)

    def results(
        self,
        low: int | None,
        high: int | None,
        interval: float,
        columns: tuple[str, ...] | None = None,
        filters: Filters | None = None,
    ) -> Results:
        """A new consumer; those with the same arguments on the same loop share a `Watch`."""
        key = (low, high, columns, filters, interval)
        return Results(partial(self._join, key), partial(self._leave, key))

    async def aclose(self) -> None:
        """Ends all watches, on all loops."""
        await self._here.aclose()

    def _join(self, key: tuple[int | None, int | None, tuple[str, ...] | None, Filters | None, float]) -> Watch:
        here = self._here.here()
        watches = here.watches
        if key not in watches:
            low, high, columns, filters, interval = key
            plan, shards = self._router.prune(low, high), self._router.shards
            watches[key] = Watch(
                self._scatter, plan, shards, (low, high), columns, filters, self._timeout, interval, here.listeners
            )
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
    """The watches of one event loop, and the listeners they share."""

    def __init__(self, scatter: Scatter) -> None:
        self.watches: dict[Any, Watch] = {}
        self.listeners = Listeners(scatter)

    async def aclose(self) -> None:
        """Ends all of them."""
        for watch in self.watches.values():
            watch.stop()


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    """Waits for the event, for at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        # Not asyncio.wait_for(), which may swallow a cancel.
        async with asyncio.timeout(seconds):
            await event.wait()


def _differ(before: ShardOutcome, after: ShardOutcome) -> bool:
    if _state(before.report) != _state(after.report):
        return True
    old, new = before.table, after.table
    return old is not None and new is not None and not are_same(old, new)


def _state(report: ShardReport) -> ShardReport:
    return replace(report, started=0.0, elapsed=0.0)
