"""Tables of any columns in Postgres: their types, and rows as texts in its syntax, which it takes back for any type."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from labkit._checks import shown
from labkit.errors import UsageError
from labkit.faults.base import Row
from labkit.faults.drift import Drift
from labkit.faults.server.postgres_table import quoted
from labkit.tables import shown_type, to_json

__all__ = ["check", "check_name", "create", "insert", "migration", "select", "sql_type", "texts", "upsert"]

LONGEST = 63
"""Bytes of a name; Postgres cuts off the rest."""
MOST = 1600
"""Columns of a table. Source: PostgreSQL documentation, appendix "PostgreSQL Limits"."""
SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""Names that every table has for columns of its own."""

_TYPES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_int16, "smallint"),
    (pa.types.is_int32, "integer"),
    (pa.types.is_int64, "bigint"),
    (pa.types.is_float32, "real"),
    (pa.types.is_float64, "double precision"),
    (pa.types.is_large_string, "text"),
    (pa.types.is_large_binary, "bytea"),
    (pa.types.is_date32, "date"),
    (pa.types.is_time64, "time"),
    (pa.types.is_interval, "interval"),
)


def check(schema: pa.Schema) -> None:
    """`UsageError` for columns that a table in Postgres cannot have."""
    if len(schema) > MOST:
        raise UsageError(f"a table in Postgres has {MOST:,} columns at most, not {len(schema):,}")
    for field in schema:
        check_name(field.name, "column")
        if field.name in SYSTEM:
            raise UsageError(
                f"column {field.name} cannot be loaded: Postgres has one of its own by that name; rename it"
            )
        sql_type(field.type)


def check_name(name: str, what: str) -> None:
    """`UsageError` for a name that Postgres would refuse or shorten."""
    if "\0" in name or len(name.encode(errors="surrogatepass")) > LONGEST:
        raise UsageError(f"the name of a {what} has up to {LONGEST} bytes in Postgres, and no NUL: not {shown(name)}")


def create(table: str, schema: pa.Schema) -> str:
    """The CREATE TABLE of these columns, the first of which is the primary key."""
    columns = [f"{quoted(field.name)} {sql_type(field.type)}" for field in schema]
    return f"CREATE TABLE {quoted(table)} ({columns[0]} PRIMARY KEY{''.join(f', {one}' for one in columns[1:])})"


def sql_type(kind: pa.DataType) -> str:
    """The type of Postgres for an Arrow type; `UsageError` for one that it does not have."""
    if pa.types.is_decimal128(kind):
        return f"numeric({kind.precision}, {kind.scale})"
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    for test, name in _TYPES:
        if test(kind):
            return name
    raise UsageError(f"Postgres has no type for {shown_type(kind)}: cast the column, for example to text")


def select(table: str, schema: pa.Schema) -> str:
    """Selects all rows: the key, and the other values as text."""
    key, *others = map(quoted, schema.names)
    values = "".join(f", {name}::text" for name in others)
    return f"SELECT {key}{values} FROM {quoted(table)} ORDER BY {key}"  # noqa: S608 - quoted


def insert(table: str, schema: pa.Schema, key: str) -> str:
    """Inserts rows given as one array of texts per column. `key` is the type of the key: text in a stand-in."""
    kinds = [key, *(sql_type(field.type) for field in list(schema)[1:])]
    arrays = ", ".join(f"${number}::text[]" for number in range(1, len(kinds) + 1))
    names = [f"c{number}" for number in range(len(kinds))]
    values = ", ".join(f"{name}::{kind}" for name, kind in zip(names, kinds, strict=True))
    columns = ", ".join(map(quoted, schema.names))
    rows = f"unnest({arrays}) AS given({', '.join(names)})"
    return f"INSERT INTO {quoted(table)} ({columns}) SELECT {values} FROM {rows}"  # noqa: S608 - quoted


def upsert(table: str, schema: pa.Schema, key: str) -> str:
    """Likewise, replacing rows with the same key."""
    name, *others = map(quoted, schema.names)
    replaced = ", ".join(f"{other} = excluded.{other}" for other in others)
    return f"{insert(table, schema, key)} ON CONFLICT ({name}) DO {f'UPDATE SET {replaced}' if others else 'NOTHING'}"


def migration(drift: Drift) -> str:
    """What ALTER TABLE does to the columns."""
    column, name = quoted(drift.column), quoted(drift.name)
    to_number = f"ALTER COLUMN {column} TYPE integer USING length({column}::text)"
    return {
        "missing": f"DROP COLUMN {column}",
        "renamed": f"RENAME COLUMN {column} TO {name}",
        "type": to_number if drift.is_text else f"ALTER COLUMN {column} TYPE text USING {column}::text",
        "extra": f"ADD COLUMN {name} integer NOT NULL DEFAULT 1",
    }[drift.how]


def texts(rows: pa.Table) -> list[Row]:
    """Rows of an Arrow table as Postgres reads them: the key, and a tuple of texts."""
    columns = [_texts(column.combine_chunks()) for column in rows.columns[1:]]
    others = zip(*columns, strict=True) if columns else iter([()] * rows.num_rows)
    return list(zip(rows.column(0).to_pylist(), others, strict=True))


def _texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    if isinstance(column, pa.ChunkedArray):  # of no chunks
        return []
    if pa.types.is_list(column.type):
        elements, start = _texts(column.flatten()), 0
        lists: list[str | None] = []
        for length in column.value_lengths().to_pylist():
            stop = start + (length or 0)
            lists.append(None if length is None else _array(elements[start:stop]))
            start = stop
        return lists
    if pa.types.is_large_binary(column.type):
        return [None if value is None else f"\\x{value.hex()}" for value in column.to_pylist()]
    values = [row["c"] for row in to_json(pa.table({"c": column}))]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return [value if value is None else _era(value) for value in values]
    return [value if value is None or isinstance(value, str) else _literal(value) for value in values]


def _literal(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _array(elements: list[str | None]) -> str:
    return "{" + ",".join("NULL" if one is None else f'"{_escaped(one)}"' for one in elements) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _era(text: str) -> str:
    """A time of ISO 8601, which has a year 0, as Postgres reads it: the year before 1 is 1 BC."""
    year, dash, rest = text.removeprefix("-").partition("-")
    number = -int(year) if text.startswith("-") else int(year)
    return text if number > 0 else f"{1 - number:04d}{dash}{rest} BC"
