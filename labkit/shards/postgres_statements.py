"""The SELECTs of a Postgres shard, and the same for COPY; SQLAlchemy writes them, once."""

from __future__ import annotations

from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg, psycopg

from labkit.errors import UsageError
from labkit.shards.base import Ask

__all__ = ["Statements", "named", "rows_of"]

Kind: TypeAlias = tuple[bool, bool, bool]
"""Whether there is a low, a high, a limit."""


def rows_of(table: str | sa.Table, columns: tuple[str, str]) -> sa.Select[Any]:
    """All rows of a table (by its name, or as SQLAlchemy has it), its two columns as `id` and `name`, by id.

    `UsageError` for other columns.
    """
    if isinstance(columns, str) or len(columns) != 2 or not all(isinstance(c, str) and c for c in columns):
        raise UsageError(f"columns are what the table calls id and name, not {columns!r}")
    if isinstance(table, sa.Table):
        for column in columns:
            if column not in table.c:
                raise UsageError(f"table {table.name!r} has no column {column!r}: it has {', '.join(table.c.keys())}")
        return sa.select(table.c[columns[0]], table.c[columns[1]]).order_by(table.c[columns[0]])
    schema, _, name = table.rpartition(".")
    row_id, text = sa.Column(columns[0], sa.BigInteger), sa.Column(columns[1], sa.Text)
    return sa.select(*sa.Table(name, sa.MetaData(), row_id, text, schema=schema or None).c).order_by(row_id)


def named(table: str | sa.Table) -> str:
    """What a table is called: `schema.table`, or `table`."""
    return table.fullname if isinstance(table, sa.Table) else table


class Statements:
    """The SELECT for each kind of window, as text: with `$1` for asyncpg, and with the numbers written in for COPY."""

    def __init__(self, rows: sa.Select[Any]) -> None:
        self._rows = rows
        self._compiled: dict[tuple[Any, Kind], Any] = {}

    def query(self, ask: Ask) -> tuple[str, list[int | None]]:
        """The SELECT for what is asked, and its parameters in order."""
        statement = self._of(asyncpg.dialect, ask)
        return statement.string, [getattr(ask, name) for name in statement.positiontup or ()]

    def written(self, ask: Ask) -> str:
        """The same with the numbers in it: COPY takes no parameters. They are integers, and quoted."""
        bounds = {"low": ask.low, "high": ask.high, "limit": ask.limit}
        written: str = self._of(psycopg.dialect, ask).string % {
            name: f"'{value:d}'" for name, value in bounds.items() if value is not None
        }
        return written

    def _of(self, dialect: Any, ask: Ask) -> Any:
        """Compiled once for each kind of window."""
        key = dialect, (ask.low is not None, ask.high is not None, ask.limit is not None)
        if key not in self._compiled:
            self._compiled[key] = _select(self._rows, *key[1]).compile(dialect=dialect())
        return self._compiled[key]


def _select(rows: sa.Select[Any], low: bool, high: bool, limit: bool) -> sa.Select[Any]:
    row_id = next(iter(rows.selected_columns))
    # BIGINT whatever the column is: a bound may be beyond what the column holds.
    if low:
        rows = rows.where(row_id >= sa.bindparam("low", type_=sa.BigInteger))
    if high:
        rows = rows.where(row_id <= sa.bindparam("high", type_=sa.BigInteger))
    return rows.limit(sa.bindparam("limit", type_=sa.BigInteger)) if limit else rows
