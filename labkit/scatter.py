"""Asking shards at once, under one absolute deadline; and gathering what they answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from labkit._loops import PerLoop
from labkit._tasks import AbandonedTasks
from labkit._types import Ranges, ShardKey
from labkit.answer import SmallAnswer, as_small, as_table, checked
from labkit.merge import joined, merged, together
from labkit.report import ShardReport, Status
from labkit.result import ReadResult
from labkit.router import MANY
from labkit.shards.base import Ask, Shard
from labkit.shards.failures import classify
from labkit.shards.secrets import sent_to

__all__ = ["GRACE", "Asks", "Outcome", "Scatter", "gather", "skipped"]

GRACE = 0.02
"""Seconds past the deadline that a shard gets to give up by itself before the reader returns without it."""

MERGING = 0.5e-6
"""Seconds that the merge takes for each range; where they are very many it is taken off the time of the shards."""

_Part = TypeVar("_Part")
_LATE = (Status.TIMEOUT, "no answer before the deadline")
_CLOSED = (Status.ERROR, "the reader was closed")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of asking one shard: its report, and its rows where it answered."""

    report: ShardReport
    rows: pa.Table | SmallAnswer | None

    @property
    def table(self) -> pa.Table | None:
        """The rows as a table."""
        return None if self.rows is None else as_table(self.rows)


class Asks(Protocol):
    """What asks shards at once: `Scatter`, or what stands before it."""

    async def ask(
        self,
        plan: Mapping[Any, Ranges],
        low: int | None,
        high: int | None,
        deadline: float,
        *,
        limit: int | None = None,
    ) -> dict[ShardKey, Outcome]:
        """See `Scatter.ask`."""


class Scatter:
    """Asks `shards`, on any number of event loops, and keeps hold of what outlives a deadline until `aclose()`."""

    def __init__(self, shards: Mapping[Any, Shard]) -> None:
        self.shards = shards
        self.closed = False
        """True from the beginning of `aclose()` on: all shards of a question have failed then, at once."""
        self._here = PerLoop(_Here, _Here.aclose, lambda _: None)

    async def ask(
        self,
        plan: Mapping[Any, Ranges],
        low: int | None,
        high: int | None,
        deadline: float,
        *,
        limit: int | None = None,
    ) -> dict[ShardKey, Outcome]:
        """Asks all shards of the plan; each has an outcome when this returns, at `deadline` (+ GRACE) the latest.

        A task that outlives the deadline is cancelled and let go, not awaited: drivers may take
        seconds to take back a query from a server that does not answer. `aclose()` ends the waiting at once.
        """
        if not plan:
            return {}
        loop = asyncio.get_running_loop()
        started = loop.time()
        if self.closed:
            return {shard: _lost(shard, ranges, _CLOSED, 0.0) for shard, ranges in plan.items()}
        here = self._here.here()
        if (ranges := sum(map(len, plan.values()))) > MANY:
            deadline -= min(MERGING * ranges, max(0.0, deadline - started) / 4)
        tasks = {
            shard: loop.create_task(self._ask(shard, Ask(ranges, low, high, deadline, limit), started))
            for shard, ranges in plan.items()
        }
        try:
            await here.answered(tasks.values(), max(started, deadline) + GRACE)
        finally:
            for task in tasks.values():
                if not task.done():
                    here.strays.let_go(task)
        late, why = loop.time() - started, _CLOSED if self.closed else _LATE
        return {
            shard: task.result() if task.done() and not task.cancelled() else _lost(shard, plan[shard], why, late)
            for shard, task in tasks.items()
        }

    async def _ask(self, shard: ShardKey, ask: Ask, origin: float) -> Outcome:
        """One shard's outcome; every exception becomes a status here, and nowhere else."""
        clock = asyncio.get_running_loop().time
        started = clock()
        rows: pa.Table | SmallAnswer | None = None
        try:
            answer = await self.shards[shard].read(ask)
            rows = as_small(answer, ask.ranges) or await checked(answer, ask.ranges)
            status, cause = Status.OK, None
        except Exception as error:
            status, cause = classify(error, sent_to(self.shards[shard]))
        ended = clock()
        if status is Status.OK and ended > ask.deadline:
            rows, (status, cause) = None, _LATE
        count = 0 if rows is None else rows.num_rows
        return Outcome(ShardReport(shard, status, count, started - origin, ended - started, cause, ask.ranges), rows)

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Cancels a task of this loop and does not wait for its end; `aclose` sees to it."""
        if not task.done():
            self._here.here().strays.let_go(task)

    async def aclose(self, patience: float) -> None:
        """Ends the waiting for answers and what was let go, on all loops, and closes all shards; what does not close
        in `patience` seconds is given up.

        The failure of a shard is raised when all are done.
        """
        self.closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._here.aclose()
        closing = [asyncio.ensure_future(source.aclose()) for source in self.shards.values()]
        done, hanging = await asyncio.wait(closing, timeout=patience)
        for task in hanging:
            self.let_go(task)
        for task in closing:
            if task in done:
                task.result()


class _Here:
    """What one event loop has under way: who waits for answers, and tasks that were let go."""

    def __init__(self) -> None:
        self.strays = AbandonedTasks()
        self._waiting: set[asyncio.Future[None]] = set()

    async def answered(self, tasks: Collection[asyncio.Task[Outcome]], deadline: float) -> None:
        """Returns when all tasks are done, at the deadline, or when the reader is closed."""
        # As asyncio.wait() does it, which only time and the tasks can end.
        loop = asyncio.get_running_loop()
        waiter, left = loop.create_future(), len(tasks)

        def one_is_done(_task: asyncio.Task[Outcome]) -> None:
            nonlocal left
            left -= 1
            if not left:
                _end(waiter)

        for task in tasks:
            task.add_done_callback(one_is_done)
        timer = loop.call_at(deadline, _end, waiter)
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.discard(waiter)

    async def aclose(self) -> None:
        """Ends all waiting at once; what was let go gets another moment to end."""
        for waiter in self._waiting:
            _end(waiter)
        await asyncio.sleep(0)
        await self.strays.aclose(GRACE)


async def gather(
    plan: Mapping[Any, Ranges],
    outcomes: Mapping[Any, Outcome],
    shards: tuple[ShardKey, ...],
    *,
    elapsed: float,
    seconds: float,
) -> ReadResult:
    """The rows of all outcomes, merged, with what is missing of the plan; a report for each of `shards`.

    `elapsed` of the `seconds` that it might take.
    """
    answers = {shard: outcome.rows for shard, outcome in outcomes.items() if outcome.rows is not None}
    parts = await _in_turns(merged(plan, answers))
    gaps = await _in_turns(joined(plan, [shard for shard in plan if shard not in answers]))
    return ReadResult(
        table=parts[0] if len(parts) == 1 else pa.concat_tables(parts),
        reports={shard: outcomes[shard].report if shard in outcomes else skipped(shard) for shard in shards},
        missing=together(gaps),
        elapsed=elapsed,
        timeout=seconds,
    )


async def _in_turns(parts: Iterable[_Part]) -> list[_Part]:
    """All parts; others of the event loop have their turn after the second and each later one."""
    found: list[_Part] = []
    for part in parts:
        if found:
            await asyncio.sleep(0)
        found.append(part)
    return found


def skipped(shard: ShardKey) -> ShardReport:
    """The report of a shard that was not asked."""
    return ShardReport(shard, Status.SKIPPED, 0, 0.0, 0.0, None, ())


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _lost(shard: ShardKey, ranges: Ranges, why: tuple[Status, str], elapsed: float) -> Outcome:
    status, cause = why
    return Outcome(ShardReport(shard, status, 0, 0.0, elapsed, cause, ranges), None)
