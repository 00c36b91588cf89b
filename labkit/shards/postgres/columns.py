"""The columns of a table in Postgres: which there are, and the Arrow type of each.

Source of the catalogues' columns and of the OIDs: PostgreSQL documentation, "System Catalogs" (pg_attribute, pg_type);
of a numeric's precision in its type modifier: PostgreSQL, `numeric.c`, `numeric_typmod_precision`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from labkit.tables import NUMBER

__all__ = [
    "BIGINT",
    "CATALOGUE",
    "DOUBLE",
    "KEYS",
    "NOTHING",
    "TEXT",
    "TEXTS",
    "Column",
    "columns_of",
    "schema_of",
    "width_of",
]

CATALOGUE = """
WITH RECURSIVE step (attnum, attname, level, oid, typmod, depth) AS (
    SELECT attnum, attname, 0, atttypid, atttypmod, 0
    FROM pg_catalog.pg_attribute
    WHERE attrelid = $1::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped
  UNION ALL
    SELECT step.attnum, step.attname, step.level + 1,
        CASE typtype WHEN 'd' THEN typbasetype ELSE typelem END,
        CASE typtype WHEN 'd' THEN typtypmod ELSE step.typmod END,
        step.depth + (typtype <> 'd')::int
    FROM step JOIN pg_catalog.pg_type ON pg_type.oid = step.oid
    WHERE typtype = 'd' OR typcategory = 'A' AND typelem <> 0 AND typlen = -1
)
SELECT DISTINCT ON (attnum) attname, step.oid, typmod, depth, typtype = 'e' AS enum,
    pg_catalog.format_type(step.oid, NULL) AS name,
    (SELECT atttypid FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = $1::pg_catalog.regclass AND a.attnum = step.attnum),
    (SELECT oid::bigint * 2048 + relnatts FROM pg_catalog.pg_class WHERE pg_class.oid = $1::pg_catalog.regclass)
FROM step JOIN pg_catalog.pg_type ON pg_type.oid = step.oid
ORDER BY attnum, level DESC
"""
"""A row per column of the table, in its order: domains as their base type, arrays as the type of their elements. The
last value differs between tables, and with their number of columns, also of those that were dropped.
"""

NOTHING = "NULL::name, NULL::oid, NULL::int, NULL::int, NULL::bool, NULL::text, NULL::oid, NULL::bigint"
"""A row without values, of the types that `CATALOGUE` has."""
KEYS = {21: 2, 23: 4, 20: 8}
"""Bytes of smallint, integer and bigint, by type OID: the types of a key."""
TEXTS = frozenset((25, 1043, 1042, 19, 114, 18))
"""OIDs of text, character varying, character, name, json and "char": all are sent as plain text."""
TEXT, NUMERIC, JSONB, UUID, BIGINT, DOUBLE = 25, 1700, 3802, 2950, 20, 701
_TYPES: dict[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.large_binary(),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    26: pa.int64(),  # oid, which has no sign
    700: pa.float32(),
    701: pa.float64(),
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
    1186: pa.month_day_nano_interval(),
    JSONB: pa.large_string(),
    UUID: pa.large_string(),
    **dict.fromkeys(TEXTS, pa.large_string()),
}
_DIGITS = 38
"""Most digits of Arrow's decimal128."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    oid: int
    """The type of a value on the wire: of an array, the elements'."""
    type: pa.DataType
    declared: int
    """The OID of its own type, such as an enum, a domain or an array."""
    is_list: bool = False
    cast: bool = False
    """Whether the server is asked for its text, since Arrow has no such type."""
    sql: str = "text"
    """The name of the type without its modifier, or of the elements'."""
    is_number: bool = False
    """Whether it is a numeric without a precision, which is text in Arrow."""

    @property
    def field(self) -> pa.Field:
        """Its name and Arrow type."""
        kind = pa.list_(self.type) if self.is_list else self.type
        return pa.field(self.name, kind, metadata=NUMBER if self.is_number else None)


def columns_of(rows: Sequence[Any]) -> list[Column]:
    """The columns in the rows of `CATALOGUE`."""
    return [_column(*row) for row in rows]


def width_of(rows: Sequence[Any]) -> int:
    """What tells the table and its number of columns from others, in the rows of `CATALOGUE`."""
    return rows[0][-1] if rows else 0


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """Their Arrow schema; the key, the first, is always int64."""
    return pa.schema([pa.field(columns[0].name, pa.int64()), *(column.field for column in columns[1:])])


def _column(name: str, oid: int, modifier: int, depth: int, enum: bool, sql: str, declared: int, _: int) -> Column:
    kind = pa.large_string() if enum else _decimal(modifier) if oid == NUMERIC else _TYPES.get(oid)
    if kind is None or depth > 1:
        number = oid == NUMERIC and not depth
        return Column(name, TEXT, pa.large_string(), TEXT, cast=True, sql=sql, is_number=number)
    return Column(name, TEXT if enum else oid, kind, declared, depth == 1, sql=sql)


def _decimal(modifier: int) -> pa.DataType | None:
    """The Arrow type of a numeric by its type modifier; None if Arrow has none of that precision."""
    precision, scale = modifier - 4 >> 16 & 0xFFFF, (modifier - 4 & 0x7FF ^ 1024) - 1024
    return (
        pa.decimal128(precision, scale) if modifier >= 4 and precision <= _DIGITS and 0 <= scale <= precision else None
    )
