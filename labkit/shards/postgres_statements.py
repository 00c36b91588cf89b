"""The SELECTs of a Postgres shard, as SQLAlchemy has them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from labkit.errors import UsageError
from labkit.shards.base import Ask

__all__ = ["Statements", "rows_of"]


def rows_of(name: str, columns: tuple[str, str]) -> sa.Table:
    """The table of that name (or schema.table), its two columns as `id` and `name`; `UsageError` for other columns."""
    if isinstance(columns, str) or len(columns) != 2 or not all(isinstance(c, str) and c for c in columns):
        raise UsageError(f"columns are what the table calls id and name, not {columns!r}")
    schema, _, table = name.rpartition(".")
    row_id: sa.Column[Any] = sa.Column(columns[0], sa.BigInteger, key="id")
    return sa.Table(table, sa.MetaData(), row_id, sa.Column(columns[1], sa.Text, key="name"), schema=schema or None)


class Statements:
    """The SELECT for each kind of window, built once: SQLAlchemy caches what it compiles by statement."""

    def __init__(self, rows: sa.Table) -> None:
        every = sa.select(rows.c.id, rows.c.name).order_by(rows.c.id)
        above, below = rows.c.id >= sa.bindparam("low"), rows.c.id <= sa.bindparam("high")
        by_bounds = {
            (False, False): every,
            (True, False): every.where(above),
            (False, True): every.where(below),
            (True, True): every.where(above, below),
        }
        first = sa.bindparam("limit", type_=sa.BigInteger)
        self._by_kind = {(*bounds, False): select for bounds, select in by_bounds.items()}
        self._by_kind |= {(*bounds, True): select.limit(first) for bounds, select in by_bounds.items()}

    def of(self, ask: Ask) -> tuple[sa.Select[Any], dict[str, int]]:
        """The SELECT for what is asked, and its parameters."""
        given = {"low": ask.low, "high": ask.high, "limit": ask.limit}
        kind = (ask.low is not None, ask.high is not None, ask.limit is not None)
        return self._by_kind[kind], {name: value for name, value in given.items() if value is not None}
