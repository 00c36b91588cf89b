"""The SELECTs of a Postgres shard, and their form for COPY; SQLAlchemy compiles each once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg

from labkit.shards.base import Ask
from labkit.shards.postgres.columns import Column

__all__ = ["Statements", "quoted_table", "table_of"]

_DIALECT: Any = asyncpg.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def table_of(table: str | sa.Table) -> Any:
    """A table, by its name or `schema.name`, without its columns."""
    if isinstance(table, sa.Table):
        return sa.table(table.name, schema=table.schema)
    schema, _, name = table.rpartition(".")
    return sa.table(name, schema=schema or None)


def quoted_table(table: Any) -> str:
    """Its name with its schema, quoted where necessary."""
    return str(_DIALECT.identifier_preparer.format_table(table))


class Statements:
    """The SELECT of some columns for each kind of window, as text: with `$1` for asyncpg, and with literal numbers for
    COPY.

    SQLAlchemy compiles it once per kind, with a mark for each number. Its own parameter syntax could also occur in the
    names of tables and columns.
    """

    def __init__(self, table: Any, columns: Sequence[Column], guarded: bool) -> None:
        names = [sa.column(column.name) for column in columns]
        self._table: Any = sa.table(table.name, *names, schema=table.schema)
        self._values = [_value(self._table.c[column.name], column) for column in columns]
        self._key = self._values[0]
        self._guard = [sa.literal_column(_guard(quoted_table(table)))] if guarded else []
        self._compiled: dict[tuple[Any, ...], str] = {}

    def rows(self, ask: Ask) -> tuple[str, list[Any]]:
        """The SELECT of the columns, followed by the table's number of columns if guarded, and its parameters."""
        return self._numbered(ask, "rows")

    def records(self, ask: Ask) -> tuple[str, list[Any]]:
        """The SELECT of each row as one value in binary form, followed by the table's number of columns if guarded."""
        return self._numbered(ask, "records")

    def literal(self, ask: Ask) -> str:
        """The SELECT of the columns with literal numbers, since COPY takes no parameters. They are integers, and
        quoted.
        """
        bounds = _bounds(ask)
        marked = self._marked("copy", tuple(bounds))
        for name, value in bounds.items():
            marked = marked.replace(_mark(name), f"'{value:d}'")
        return marked

    def _numbered(self, ask: Ask, form: str) -> tuple[str, list[int]]:
        bounds = _bounds(ask)
        kind = form, tuple(bounds), "$"
        if kind not in self._compiled:
            text = self._marked(form, tuple(bounds))
            for number, name in enumerate(bounds, start=1):
                text = text.replace(_mark(name), f"${number}")
            self._compiled[kind] = text
        return self._compiled[kind], list(bounds.values())

    def _marked(self, form: str, kind: tuple[str, ...]) -> str:
        """The SELECT in this form for these parameters, with marks."""
        if (form, kind) not in self._compiled:
            wanted = [sa.func.record_send(sa.func.row(*self._values))] if form == "records" else self._values
            guard = self._guard if form != "copy" else []
            select = sa.select(*wanted, *guard).select_from(self._table).order_by(self._key)
            self._compiled[form, kind] = _bounded(select, self._key, kind).compile(dialect=_DIALECT).string
        return self._compiled[form, kind]


def _value(value: Any, column: Column) -> Any:
    return sa.cast(value, sa.Text).label(column.name) if column.cast else value


def _guard(table: str) -> str:
    """Changes with the number of columns, also of those that were dropped."""
    name = table.replace("'", "''")
    return f"(SELECT relnatts FROM pg_catalog.pg_class WHERE oid = '{name}'::pg_catalog.regclass)"


def _bounds(ask: Ask) -> dict[str, int]:
    """The bounds that are given, as Python integers: numpy's are formatted and sent differently."""
    bounds = {"low": ask.low, "high": ask.high, "limit": ask.limit}
    return {name: int(value) for name, value in bounds.items() if value is not None}


def _mark(name: str) -> str:
    """A mark that no Postgres name can contain."""
    return f"\0{name}\0"


def _bounded(rows: sa.Select[Any], key: Any, kind: tuple[str, ...]) -> sa.Select[Any]:
    # BIGINT whatever the column's type: a bound may be out of its range.
    places = {name: sa.literal_column(f"{_mark(name)}::BIGINT", sa.BigInteger) for name in kind}
    if "low" in places:
        rows = rows.where(key >= places["low"])
    if "high" in places:
        rows = rows.where(key <= places["high"])
    return rows.limit(places["limit"]) if "limit" in places else rows
