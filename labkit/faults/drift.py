"""A migration that reached some shards and not others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar

from labkit._checks import shown, unknown
from labkit.errors import UsageError
from labkit.faults.base import HOWS, Drift, Fault, Sample, Target, Undo
from labkit.report import Status

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SchemaDrift"]

LONGEST = 63
"""Bytes of a column's name in Postgres."""


@dataclass(frozen=True)
class SchemaDrift(Fault):
    """A migration half done: on this shard a `column` is missing, renamed, of another type, or there is one more.

    A copy of the table, migrated, stands in its place until the fault is undone. `how` is "missing", "renamed" (to
    `<column>_2`), "type" or "extra" (a column of integers, `<column>_2`; or `column`, if the table has none by that
    name). `column=None` is one besides the key, drawn from the lab's seed. Another type: in Postgres text becomes
    integers and anything else text; in Redis values become such as do not fit the declared type.

    Raises `UsageError` for another `how`, and when it starts for a column that the table does not have, and for the
    key, without which there are no rows to speak of.
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


def _free(column: str, names: Sequence[str]) -> str:
    """A name that the table does not have: `column`, else `<column>_2`; one that is not too long for Postgres."""
    name = column if len(column.encode()) <= LONGEST - 2 else "drifted"
    while name in names:
        name = f"{name}_2"
    return name
