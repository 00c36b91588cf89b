"""Faults of the data: a shard that lies, by rows or by columns. One that changes no row counts as never fired."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from labkit._checks import shown, unknown
from labkit.errors import UsageError
from labkit.faults.base import Fault, Row, Sample, Target, Undo
from labkit.faults.drift import HOWS, Drift
from labkit.report import Status

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BadTypes", "DataFault", "DuplicateIds", "Empty", "ForeignIds", "MissingRows", "NullIds", "SchemaDrift"]

LONGEST = 63
"""Bytes of a column's name in Postgres."""
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


@dataclass(frozen=True)
class SchemaDrift(Fault):
    """A migration half done: on this shard a `column` is missing, renamed, of another type, or there is one more.

    A copy of the table, migrated, stands in its place until the fault is undone. `how` is "missing", "renamed" (to
    `<column>_2`), "type" or "extra" (a column of integers, `<column>_2`; or `column`, if the table has none by that
    name). `column=None` is one besides the key, drawn from the lab's seed. Another type: in Postgres text becomes
    integers and anything else text; in Redis values become such as do not fit the declared type.

    Raises `UsageError` for another `how`; when it starts, also for a column that the table does not have, and for the
    key: without it nothing says which row is which.
    """

    layer: ClassVar[str] = "data"

    column: str | None = None
    how: str = "missing"

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise UsageError(f"SchemaDrift: how must be {', '.join(HOWS[:-1])} or {HOWS[-1]}, not {shown(self.how)}")
        if self.column is not None and (not isinstance(self.column, str) or not self.column):
            raise UsageError(f"SchemaDrift: column must be the name of a column, or None, not {shown(self.column)}")

    def drift(self, schema: pa.Schema, random: Random) -> Drift:
        """What becomes of a table of these columns, the key first; raises `UsageError`."""
        key, *others = schema.names
        column = self.column or (random.choice(others) if others else key)
        if self.how == "extra":
            return Drift(column, self.how, _free(column, schema.names), schema.types[0])
        if column == key:
            fix = "name another column, or use BadTypes() or NullIds()" if others else "the table has no other column"
            raise UsageError(f"SchemaDrift: {column} is the key, which stays as it is: {fix}")
        if column not in others:
            raise UsageError(f"SchemaDrift: {unknown('column', column, others)}")
        return Drift(column, self.how, _free(column, schema.names), schema.field(column).type)

    async def start(self, target: Target, undo: Undo) -> None:
        drift = self.drift(target.schema, target.random(self))
        undo.push(target.bring_back)
        await target.drift(drift)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(how=how), {Status.INVALID}) for how in HOWS]


def _other(name: Any, other: str) -> Any:
    """Another name; the values of other columns stay, since a server takes none that is not of their type."""
    return name if isinstance(name, tuple) else other


def _free(column: str, names: Sequence[str]) -> str:
    """A name that the table does not have: `column`, else `<column>_2`; one that is not too long for Postgres."""
    name = column if len(column.encode()) <= LONGEST - 2 else "drifted"
    while name in names:
        name = f"{name}_2"
    return name
