"""Scatter and gather: ask shards concurrently under one absolute deadline, and merge what they answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa

from labkit._filters import Filters, fitted, kept
from labkit._loops import PerLoop
from labkit._tasks import AbandonedTasks
from labkit._types import Ranges, ShardKey
from labkit.aggregates import Aggregate, Partial, refuse_misfits
from labkit.answer import SmallAnswer, as_small, as_table, checked
from labkit.errors import UsageError
from labkit.merge import agreed, concatenated, disagreement, join_parts, merge_parts
from labkit.reads.agreement import Agreement, are_alike, narrowed
from labkit.report import ShardReport, Status, skipped
from labkit.result import ReadResult
from labkit.router import MANY
from labkit.shards.base import Ask, Shard
from labkit.shards.failures import classify
from labkit.shards.secrets import sent_to
from labkit.tables import SCHEMA

__all__ = ["GRACE", "AskShards", "Question", "Scatter", "ShardOutcome", "gather", "in_turns"]

GRACE = 0.02
"""Seconds past the deadline that a shard gets to give up on its own before the reader returns without it."""

MERGING = 0.5e-6
"""Seconds that the merge takes per range; for very many ranges it is taken off the shards' time."""

Rows: TypeAlias = pa.Table | SmallAnswer | Partial
_Part = TypeVar("_Part")
_LATE = (Status.TIMEOUT, "no answer before the deadline")
_CLOSED = (Status.ERROR, "the reader was closed")


@dataclass(frozen=True, slots=True)
class Question:
    """What one scatter asks: of each shard its ranges in `plan`; the other fields are those of `Ask`."""

    plan: Mapping[Any, Ranges]
    low: int | None
    high: int | None
    deadline: float
    limit: int | None = None
    columns: tuple[str, ...] | None = None
    filters: Filters | None = None
    aggregates: tuple[Aggregate, ...] = ()
    survey: bool = True
    """Whether shards that are not asked, and whose columns are not known yet, are asked for them: else a shard that has
    other columns than most could not be told, when it is asked alone.
    """
    schema: pa.Schema | None = None
    """The columns that an answer must have, as those of the page so far; None if the shards decide."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardOutcome:
    """What came of asking one shard: its report, and its rows, or what it computed of them, if it answered."""

    report: ShardReport
    rows: Rows | None

    @property
    def table(self) -> pa.Table | None:
        """The rows as a table."""
        return None if self.rows is None or isinstance(self.rows, Partial) else as_table(self.rows)


AskShards: TypeAlias = Callable[[Question], Coroutine[Any, Any, dict[ShardKey, ShardOutcome]]]
"""`Scatter.ask`, or a function that wraps it."""


class Scatter:
    """Asks `shards`, on any number of event loops, and keeps track of what outlives a deadline until `aclose()`."""

    def __init__(self, shards: Mapping[Any, Shard]) -> None:
        self.shards = shards
        self.closed = False
        """True from the start of `aclose()` on: every shard asked after that fails at once."""
        self._here = PerLoop(_Here, _Here.aclose, lambda _: None)
        self.columns = Agreement(shards, self._finish)

    async def ask(self, question: Question) -> dict[ShardKey, ShardOutcome]:
        """Asks all shards of the plan; returns with an outcome for each, by the deadline + `GRACE` at the latest.

        A task that outlives the deadline is cancelled and not awaited: drivers may take seconds to cancel a query on a
        server that does not answer. `aclose()` ends the waiting at once.
        """
        plan, deadline = question.plan, question.deadline
        if not plan:
            return {}
        loop = asyncio.get_running_loop()
        started = loop.time()
        if self.closed:
            return {shard: _lost(shard, ranges, _CLOSED, 0.0) for shard, ranges in plan.items()}
        if (count := sum(map(len, plan.values()))) > MANY:
            deadline -= min(MERGING * count, max(0.0, deadline - started) / 4)
        asks = {shard: self._ask_for(shard, ranges, question, deadline) for shard, ranges in plan.items()}
        tasks = {shard: loop.create_task(self._ask(shard, ask, started)) for shard, ask in asks.items()}
        await self._finish(tasks.values(), max(started, deadline) + GRACE)
        late, why = loop.time() - started, _CLOSED if self.closed else _LATE
        outcomes = {
            shard: task.result() if task.done() and not task.cancelled() else _lost(shard, plan[shard], why, late)
            for shard, task in tasks.items()
        }
        return await self.agreed(outcomes, question)

    async def _finish(self, tasks: Collection[asyncio.Task[Any]], until: float) -> None:
        """Returns when all tasks are done, or at that moment, without those that are not."""
        here = self._here.here()
        try:
            await here.answered(tasks, until)
        finally:
            for task in tasks:
                if not task.done():
                    here.abandoned.let_go(task)

    def _ask_for(self, shard: ShardKey, ranges: Ranges, question: Question, deadline: float) -> Ask:
        """What one shard is asked: without filters, unless it knows about them, and then for all that they need."""
        low, high, source = question.low, question.high, self.shards[shard]
        if question.filters is not None and not _selects(source):
            return Ask(ranges, low, high, deadline)
        aggregates = question.aggregates if question.aggregates and _aggregates(source) else ()
        return Ask(ranges, low, high, deadline, question.limit, question.columns, question.filters, aggregates)

    async def agreed(self, outcomes: dict[ShardKey, ShardOutcome], question: Question) -> dict[ShardKey, ShardOutcome]:
        """The outcomes with the same columns in the same order: those that most shards have, whether asked now or not
        (`labkit.merge.agreed`). A shard that has others is invalid.

        Raises `UsageError` for a column that no shard has, and for filters and aggregates that do not fit the columns.
        """
        tables = {shard: outcome.rows for shard, outcome in outcomes.items() if outcome.rows is not None}
        answers, columns, deadline = _schemas(tables), question.columns, question.deadline
        schemas = await self.columns.schemas(answers, outcomes, columns, deadline, question.survey)
        if columns is None and question.filters is None and question.schema is None and are_alike(schemas, None):
            return outcomes
        if (question.filters or question.aggregates) and not tables:
            await self._refuse_misfits(question)
        if odd := [name for name in columns or () if not any(name in one.names for one in schemas)]:
            await self.columns.refuse(odd[0], schemas, deadline)
        common = question.schema or agreed(filter(None, (narrowed(one, columns) for one in schemas)))
        settled = {
            shard: outcome if shard not in tables else self._settled(outcome, tables[shard], common, question)
            for shard, outcome in outcomes.items()
        }
        if question.filters and tables and not any(outcome.rows is not None for outcome in settled.values()):
            await self._refuse_misfits(question, schemas)
        return settled

    def _settled(self, outcome: ShardOutcome, rows: Rows, common: pa.Schema | None, question: Question) -> ShardOutcome:
        """The outcome with the rows that are wanted and the common columns in their order; invalid if its own are
        others.
        """
        columns, filters = question.columns, question.filters
        schema = narrowed(rows.schema, columns)
        if schema is None:
            lacking = ", ".join(name for name in columns or () if name not in rows.schema.names)
            return _invalid(outcome, f"it has no column {lacking}")
        if why := disagreement(schema, common or schema):
            return _invalid(outcome, why)
        if filters is not None and not isinstance(rows, Partial) and not _selects(self.shards[outcome.report.shard]):
            try:
                rows = kept(as_table(rows), fitted(filters, rows.schema)).slice(0, question.limit)
            except UsageError as error:
                return _invalid(outcome, str(error))
            outcome = ShardOutcome(replace(outcome.report, rows=rows.num_rows), rows)
        names = (common or schema).names
        if isinstance(rows, Partial) or rows.schema.names == names:
            return outcome
        return ShardOutcome(outcome.report, as_table(rows).select(names))

    async def _refuse_misfits(self, question: Question, schemas: Collection[pa.Schema] = ()) -> None:
        """Raises `UsageError` for filters and aggregates that do not fit the columns which shards describe, or have."""
        if common := await self.columns.describe(question.deadline) or agreed(schemas):
            fitted(question.filters or (), common)
            refuse_misfits(question.aggregates, common)

    async def _ask(self, shard: ShardKey, ask: Ask, origin: float) -> ShardOutcome:
        """One shard's outcome; this is the only place that turns an exception into a status."""
        clock = asyncio.get_running_loop().time
        started = clock()
        rows: Rows | None = None
        try:
            answer = await self.shards[shard].read(ask)
            if isinstance(answer, Partial):
                rows = answer
            else:
                rows = as_small(answer, ask.ranges) or await checked(answer, ask.ranges)
            status, cause = Status.OK, None
        except Exception as error:
            status, cause = classify(error, sent_to(self.shards[shard]))
        ended = clock()
        if status is Status.OK and ended > ask.deadline:
            rows, (status, cause) = None, _LATE
        count = 0 if rows is None else rows.num_rows
        report = ShardReport(shard, status, count, started - origin, ended - started, cause, ask.ranges)
        return ShardOutcome(report, rows)

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Cancels a task of this loop without waiting for its end; `aclose` sees to it."""
        if not task.done():
            self._here.here().abandoned.let_go(task)

    async def aclose(self, patience: float) -> None:
        """Ends the waiting for answers, cancels abandoned tasks on all loops, and closes all shards; a shard that does
        not close within `patience` seconds is given up.

        If closing a shard fails, its exception is raised once all are done.
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
    """What one event loop has under way: reads that wait for answers, and abandoned tasks."""

    def __init__(self) -> None:
        self.abandoned = AbandonedTasks()
        self._waiting: set[asyncio.Future[None]] = set()

    async def answered(self, tasks: Collection[asyncio.Task[ShardOutcome]], deadline: float) -> None:
        """Returns when all tasks are done, at the deadline, or when the reader is closed."""
        # Like asyncio.wait(), but closing the reader ends it too.
        loop = asyncio.get_running_loop()
        waiter, left = loop.create_future(), len(tasks)

        def one_is_done(_task: asyncio.Task[ShardOutcome]) -> None:
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
        """Ends all waiting at once; abandoned tasks get another moment to end."""
        for waiter in self._waiting:
            _end(waiter)
        await asyncio.sleep(0)
        await self.abandoned.aclose(GRACE)


def _schemas(tables: Mapping[Any, Rows]) -> dict[ShardKey, pa.Schema]:
    return {shard: rows.schema for shard, rows in tables.items()}


def _invalid(outcome: ShardOutcome, cause: str) -> ShardOutcome:
    return ShardOutcome(replace(outcome.report, status=Status.INVALID, rows=0, error=cause), None)


def _selects(source: Shard) -> bool:
    """Whether a shard is one that `Selects`; isinstance would take a tenth of the time of a small read."""
    return bool(getattr(source, "selects", False))


def _aggregates(source: Shard) -> bool:
    """Whether a shard is one that `Aggregates`."""
    return bool(getattr(source, "aggregates", False))


async def gather(
    plan: Mapping[Any, Ranges],
    outcomes: Mapping[Any, ShardOutcome],
    shards: tuple[ShardKey, ...],
    *,
    elapsed: float,
    seconds: float,
    schema: pa.Schema = SCHEMA,
) -> ReadResult:
    """The merged rows of all outcomes, which have the same columns, the missing ranges of the plan, and a report for
    each of `shards`. Without any answer the columns are those of `schema`.

    The read took `elapsed` of the `seconds` it was allowed.
    """
    answers = {
        shard: outcome.rows
        for shard, outcome in outcomes.items()
        if outcome.rows is not None and not isinstance(outcome.rows, Partial)
    }
    columns = next((rows.schema for rows in answers.values()), schema)
    parts = await in_turns(merge_parts(plan, answers, columns))
    gaps = await in_turns(join_parts(plan, [shard for shard in plan if shard not in answers]))
    return ReadResult(
        table=parts[0] if len(parts) == 1 else pa.concat_tables(parts),
        reports={shard: outcomes[shard].report if shard in outcomes else skipped(shard) for shard in shards},
        missing=concatenated(gaps),
        elapsed=elapsed,
        timeout=seconds,
    )


async def in_turns(parts: Iterable[_Part]) -> list[_Part]:
    """All parts; other tasks of the event loop get a turn after the second part and each later one."""
    found: list[_Part] = []
    for part in parts:
        if found:
            await asyncio.sleep(0)
        found.append(part)
    return found


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _lost(shard: ShardKey, ranges: Ranges, why: tuple[Status, str], elapsed: float) -> ShardOutcome:
    status, cause = why
    return ShardOutcome(ShardReport(shard, status, 0, 0.0, elapsed, cause, ranges), None)
