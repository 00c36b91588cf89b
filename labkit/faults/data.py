"""Faults of the data: a shard that lies. Each is a pure function of the shard's rows; one that changes none of them
counts as never fired.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from labkit.errors import UsageError
from labkit.faults.base import Fault, Row, Sample, Target, Undo
from labkit.report import Status

__all__ = ["BadTypes", "DataFault", "DuplicateIds", "Empty", "ForeignIds", "MissingRows", "NullIds"]

_SEEN = frozenset({Status.INVALID})
_UNSEEN = frozenset({Status.OK})


class DataFault(Fault):
    """The table is moved aside untouched; one with altered rows stands in its place until the fault is undone."""

    layer: ClassVar[str] = "data"
    may: ClassVar[frozenset[Status]] = _SEEN

    @abstractmethod
    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        """The rows that the shard has while the fault lasts; `rows` ascend by id, `foreign` are IDs of other shards."""

    async def start(self, target: Target, undo: Undo) -> bool:
        held = await target.rows()
        rows = self.alter(held, target.random(self), target.foreign)
        undo.push(target.bring_back)
        await target.stand_in(rows)
        return list(rows) != list(held)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), cls.may)]


@dataclass(frozen=True)
class _Some(DataFault):
    """`count` rows are drawn; all of them if there are fewer."""

    count: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise UsageError(f"{type(self).__name__}: count must be a positive number of rows, not {self.count!r}")

    def drawn(self, rows: Sequence[Row], random: Random) -> set[int]:
        return set(random.sample(range(len(rows)), min(self.count, len(rows))))


@dataclass(frozen=True)
class DuplicateIds(_Some):
    """`count` IDs occur twice, the second time with another name if rows are (id, name)."""

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        twice = self.drawn(rows, random)
        again = [(row_id, _other(name, f"{name} again")) for i, (row_id, name) in enumerate(rows) if i in twice]
        return sorted([*rows, *again], key=lambda row: row[0])


@dataclass(frozen=True)
class ForeignIds(_Some):
    """`count` additional rows, whose IDs belong to another shard."""

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        strangers = random.sample(list(foreign), min(self.count, len(foreign)))
        name = _other(rows[0][1] if rows else None, "not mine")
        return sorted([*rows, *((row_id, name) for row_id in strangers)], key=lambda row: row[0])


@dataclass(frozen=True)
class NullIds(_Some):
    """`count` rows have a NULL ID.

    In Postgres no range matches such rows: a read with bounds misses them and cannot know.
    """

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        lost = self.drawn(rows, random)
        return [(None if i in lost else row_id, name) for i, (row_id, name) in enumerate(rows)]


@dataclass(frozen=True)
class BadTypes(DataFault):
    """All IDs are text: "12" for 12.

    Postgres does not compare text with numbers: it rejects a query with bounds by a reader that has not looked at the
    column's type, as labkit's does.
    """

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        return [(str(row_id), name) for row_id, name in rows]


@dataclass(frozen=True)
class MissingRows(_Some):
    """`count` rows are gone. The one lie that no reader can see: a short answer looks like any other."""

    may: ClassVar[frozenset[Status]] = _UNSEEN

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        gone = self.drawn(rows, random)
        return [row for i, row in enumerate(rows) if i not in gone]


@dataclass(frozen=True)
class Empty(DataFault):
    """All rows are gone: the table exists and is empty. No reader can see that either."""

    may: ClassVar[frozenset[Status]] = _UNSEEN

    def alter(self, rows: Sequence[Row], random: Random, foreign: Sequence[int]) -> list[Row]:
        return []


def _other(name: Any, other: str) -> Any:
    """Another name; the values of other columns stay, since a server takes none that is not of their type."""
    return name if isinstance(name, tuple) else other
