"""What is known of the shards' columns, so that one that has others than most is told, however few a read asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from time import monotonic
from typing import Any, TypeAlias

import pyarrow as pa

from labkit._checks import unknown
from labkit._types import ShardKey
from labkit.errors import UsageError
from labkit.merge import agreed
from labkit.shards.base import Describes, Shard
from labkit.tables import SCHEMA

__all__ = ["Agreement", "Columns", "are_alike", "narrowed"]

SILENCE = 5.0
"""Seconds for which a shard that did not describe itself is not asked to again, as long as its rows are not needed."""
Columns: TypeAlias = tuple[str, ...] | None
"""Those that a read asks for besides the key; None is all."""


class Agreement:
    """The columns of `shards` that describe themselves, as last heard of. `finish` awaits tasks until a moment on the
    loop's clock, and lets go of those that are not done.
    """

    def __init__(
        self, shards: Mapping[Any, Shard], finish: Callable[[Collection[asyncio.Task[Any]], float], Awaitable[None]]
    ) -> None:
        self._shards, self._finish = shards, finish
        self._known: dict[ShardKey, pa.Schema] = {}
        self._silent: dict[ShardKey, float] = {}
        """When a shard did not describe itself, on the clock of `time.monotonic`."""

    async def schemas(
        self,
        answers: Mapping[ShardKey, pa.Schema],
        failed: Collection[ShardKey],
        columns: Columns,
        deadline: float,
        survey: bool,
    ) -> list[pa.Schema]:
        """The columns that the shards have, in their order, as far as is known: those of their answers, else those last
        heard of.

        With `survey`, a shard that was not asked now is asked for its columns, not for rows, if they are not known yet;
        and once more if those known differ from the others', since they may be old. It gets a quarter of the time left.
        """
        if columns is None:
            others = {one: schema for one, schema in answers.items() if self._known.get(one) is not schema}
            self._known |= {one: schema for one, schema in others.items() if hasattr(self._shards[one], "describe")}
        if survey:
            new = [one for one in self._shards if one not in answers and one not in failed and one not in self._known]
            await self._describe([one for one in new if self._may_answer(one)], _soon(deadline))
        if not are_alike(self._said(answers), columns):
            await self._describe([one for one in self._known if one not in answers], _soon(deadline))
        return self._said(answers)

    async def refuse(self, name: str, schemas: Iterable[pa.Schema], deadline: float) -> None:
        """Raises `UsageError` for a column that no shard has, if any shard says which it has."""
        await self.describe(deadline)
        names = dict.fromkeys(one for schema in (*self._known.values(), *schemas) for one in schema.names)
        if names and name not in names:
            raise UsageError(unknown("column", name, names))

    def schema(self, columns: Columns) -> pa.Schema:
        """The columns of a read that no shard answers, as far as is known; else id and name."""
        common = self.common()
        return SCHEMA if common is None else narrowed(common, columns) or common

    def common(self) -> pa.Schema | None:
        """The columns that most shards had when they were last heard of; None if none was."""
        return agreed(self._said({}))

    async def describe(self, deadline: float) -> pa.Schema | None:
        """Asks all shards for their columns, at once; the same as `common` then."""
        await self._describe(self._shards, deadline)
        return self.common()

    def _said(self, answers: Mapping[ShardKey, pa.Schema]) -> list[pa.Schema]:
        heard = {**self._known, **answers}
        return [heard[shard] for shard in self._shards if shard in heard]

    def _may_answer(self, shard: ShardKey) -> bool:
        """Not if it did not describe itself a moment ago: a page must not wait for it after page."""
        return monotonic() > self._silent.get(shard, -SILENCE) + SILENCE

    async def _describe(self, shards: Collection[ShardKey], deadline: float) -> None:
        """Asks shards for their columns; nothing is known of one that does not answer in time."""
        loop = asyncio.get_running_loop()
        sources = {shard: self._shards[shard] for shard in shards}
        if loop.time() >= deadline:
            return
        tasks = {
            shard: loop.create_task(source.describe(deadline))
            for shard, source in sources.items()
            if isinstance(source, Describes)
        }
        if tasks:
            await self._finish(tasks.values(), deadline)
        for shard, task in tasks.items():
            if task.done() and not task.cancelled() and task.exception() is None:
                self._known[shard] = task.result()
            else:
                self._known.pop(shard, None)
                self._silent[shard] = monotonic()


def are_alike(schemas: Iterable[pa.Schema], columns: Columns) -> bool:
    """Whether all have the same of these columns, in the same order."""
    first, *others = [narrowed(schema, columns) for schema in schemas] or [None]
    return all(one is first or (one is not None and first is not None and one.equals(first)) for one in others)


def narrowed(schema: pa.Schema, columns: Columns) -> pa.Schema | None:
    """The key and `columns`; None if one of them is not there."""
    if columns is None:
        return schema
    wanted = [schema.names[0], *(name for name in columns if name != schema.names[0])]
    return pa.schema([schema.field(name) for name in wanted]) if set(wanted) <= set(schema.names) else None


def _soon(deadline: float) -> float:
    """A moment before the deadline: the rows are there, and must not wait for a shard that hangs until it is over."""
    now = asyncio.get_running_loop().time()
    return now + max(0.0, deadline - now) / 4
