"""Faults of the data: a shard that lies. Each is a pure function of the rows that the shard holds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from labkit.errors import UsageError
from labkit.faults.base import Fault, Row, Sample, Target, Undo
from labkit.report import Status

__all__ = ["BadTypes", "DataFault", "DuplicateIds", "Empty", "ForeignIds", "MissingRows", "NullIds"]

_SEEN = frozenset({Status.INVALID})
_UNSEEN = frozenset({Status.OK})


class DataFault(Fault):
    """The table is put aside untouched, and one of altered rows stands in its place until the fault is undone."""

    layer: ClassVar[str] = "data"
    may: ClassVar[frozenset[Status]] = _SEEN

    @abstractmethod
    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        """The rows (ascending by id) as the shard has them while the fault lasts; `foreign` are IDs of others."""

    async def start(self, target: Target, undo: Undo) -> None:
        rows = self.alter(await target.rows(), target.random(self), target.foreign)
        undo.push(target.bring_back)
        await target.stand_in(rows)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), cls.may)]


@dataclass(frozen=True)
class _Some(DataFault):
    """`count` rows are drawn, all of them where there are fewer."""

    count: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise UsageError(f"{type(self).__name__}: count must be a positive number of rows, not {self.count!r}")

    def drawn(self, rows: Sequence[Row], random: Random) -> set[int]:
        return set(random.sample(range(len(rows)), min(self.count, len(rows))))


@dataclass(frozen=True)
class DuplicateIds(_Some):
    """`count` IDs are there twice, with another name the second time."""

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        twice = self.drawn(rows, random)
        again = [(row_id, f"{name} again") for i, (row_id, name) in enumerate(rows) if i in twice]
        return sorted([*rows, *again], key=lambda row: row[0])


@dataclass(frozen=True)
class ForeignIds(_Some):
    """`count` rows more, whose IDs belong to another shard."""

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        strangers = random.sample(list(foreign), min(self.count, len(foreign)))
        return sorted([*rows, *((row_id, "not mine") for row_id in strangers)], key=lambda row: row[0])


@dataclass(frozen=True)
class NullIds(_Some):
    """`count` rows have NULL for an ID.

    Postgres finds such rows in no window: a read with bounds misses them, and cannot know.
    """

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        lost = self.drawn(rows, random)
        return [(None if i in lost else row_id, name) for i, (row_id, name) in enumerate(rows)]


@dataclass(frozen=True)
class BadTypes(DataFault):
    """All IDs are text: "12" for 12.

    Postgres compares no text with a number: a read with bounds is rejected.
    """

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        return [(str(row_id), name) for row_id, name in rows]


@dataclass(frozen=True)
class MissingRows(_Some):
    """`count` rows are gone. The one lie that no reader can see: an answer that is short looks like any other."""

    may: ClassVar[frozenset[Status]] = _UNSEEN

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        gone = self.drawn(rows, random)
        return [row for i, row in enumerate(rows) if i not in gone]


@dataclass(frozen=True)
class Empty(DataFault):
    """All rows are gone: the table is there, and has nothing in it. No reader can see that either."""

    may: ClassVar[frozenset[Status]] = _UNSEEN

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        return []
