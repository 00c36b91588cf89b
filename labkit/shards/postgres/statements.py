"""The SELECTs of a Postgres shard, and their form for COPY; SQLAlchemy compiles each once."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg

from labkit.errors import UsageError
from labkit.shards.base import Ask

__all__ = ["Statements", "name_of", "rows_of"]


def rows_of(table: str | sa.Table, columns: tuple[str, str]) -> sa.Select[Any]:
    """Selects all rows of a table, its two columns as id and name, by id.

    Raises `UsageError` if `columns` are not two of its columns.
    """
    if isinstance(columns, str) or len(columns) != 2 or not all(isinstance(c, str) and c for c in columns):
        raise UsageError(f"columns must be the table's two names for id and name, not {columns!r}")
    if isinstance(table, sa.Table):
        for column in columns:
            if column not in table.c:
                raise UsageError(f"table {table.name!r} has no column {column!r}: it has {', '.join(table.c.keys())}")
        return sa.select(table.c[columns[0]], table.c[columns[1]]).order_by(table.c[columns[0]])
    schema, _, name = table.rpartition(".")
    row_id, text = sa.Column(columns[0], sa.BigInteger), sa.Column(columns[1], sa.Text)
    return sa.select(*sa.Table(name, sa.MetaData(), row_id, text, schema=schema or None).c).order_by(row_id)


def name_of(table: str | sa.Table) -> str:
    """A table's name: `schema.table` or `table`, unquoted."""
    return table.fullname if isinstance(table, sa.Table) else table


class Statements:
    """The SELECT for each kind of window, as text: with `$1` for asyncpg, and with literal numbers for COPY.

    SQLAlchemy compiles it once per kind, with a mark for each number. Its own parameter syntax could also occur in the
    names of tables and columns.
    """

    def __init__(self, rows: sa.Select[Any]) -> None:
        self._rows = rows
        self._dialect: Any = asyncpg.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
        self._compiled: dict[tuple[str, ...], tuple[str, str]] = {}

    @property
    def table(self) -> str:
        """The table's name with its schema, quoted where necessary."""
        return str(self._dialect.identifier_preparer.format_table(self._rows.get_final_froms()[0]))

    def query(self, ask: Ask) -> tuple[str, list[int]]:
        """The SELECT for a query, and its parameters in order."""
        bounds = _bounds(ask)
        return self._of(tuple(bounds))[0], list(bounds.values())

    def literal(self, ask: Ask) -> str:
        """The same with literal numbers, since COPY takes no parameters. They are integers, and quoted."""
        bounds = _bounds(ask)
        marked = self._of(tuple(bounds))[1]
        for name, value in bounds.items():
            marked = marked.replace(_mark(name), f"'{value:d}'")
        return marked

    def _of(self, kind: tuple[str, ...]) -> tuple[str, str]:
        """The SELECT for these parameters: with `$1` and so on, and with marks."""
        if kind not in self._compiled:
            numbered = marked = _select(self._rows, kind).compile(dialect=self._dialect).string
            for number, name in enumerate(kind, start=1):
                numbered = numbered.replace(_mark(name), f"${number}")
            self._compiled[kind] = numbered, marked
        return self._compiled[kind]


def _bounds(ask: Ask) -> dict[str, int]:
    """The bounds that are given, as Python integers: numpy's are formatted and sent differently."""
    bounds = {"low": ask.low, "high": ask.high, "limit": ask.limit}
    return {name: int(value) for name, value in bounds.items() if value is not None}


def _mark(name: str) -> str:
    """A mark that no Postgres name can contain."""
    return f"\0{name}\0"


def _select(rows: sa.Select[Any], kind: tuple[str, ...]) -> sa.Select[Any]:
    row_id = next(iter(rows.selected_columns))
    # BIGINT whatever the column's type: a bound may be out of its range.
    places = {name: sa.literal_column(f"{_mark(name)}::BIGINT", sa.BigInteger) for name in kind}
    if "low" in places:
        rows = rows.where(row_id >= places["low"])
    if "high" in places:
        rows = rows.where(row_id <= places["high"])
    return rows.limit(places["limit"]) if "limit" in places else rows
