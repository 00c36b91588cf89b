"""Tables of any columns in Postgres: their types, and rows as the server's own text, which any of its types takes back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from labkit.errors import UsageError
from labkit.faults.base import Row
from labkit.faults.server.postgres_table import quoted
from labkit.tables import to_json

__all__ = ["create", "insert", "select", "texts", "upsert"]

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
    raise UsageError(f"Postgres has no type for {kind}: cast the column, for example to text")


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


def texts(rows: pa.Table) -> list[Row]:
    """Rows of an Arrow table as Postgres reads them: the key, and a tuple of texts."""
    columns = []
    for column in rows.columns[1:]:
        columns.append([_text(value) for value in _values(column)])
    others = zip(*columns, strict=True) if columns else iter([()] * rows.num_rows)
    return list(zip(rows.column(0).to_pylist(), others, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_large_binary(column.type):
        return [None if value is None else f"\\x{value.hex()}" for value in column.to_pylist()]
    return [row["c"] for row in to_json(pa.table({"c": column}))]


def _text(value: Any) -> str | None:
    """A JSON value as the text of Postgres; a list in its syntax for arrays."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "{" + ",".join("NULL" if one is None else _quoted_element(_text(one)) for one in value) + "}"
    return repr(value)


def _quoted_element(text: str | None) -> str:
    return '"' + (text or "").replace("\\", "\\\\").replace('"', '\\"') + '"'
