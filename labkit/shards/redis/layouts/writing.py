"""Rows as they are stored: JSON, or the fields of a hash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import pyarrow as pa

from labkit.shards.redis.layouts.rows import member
from labkit.tables import SCHEMA, to_json

__all__ = ["Rows", "batches", "members", "parts", "texts"]

Rows: TypeAlias = "pa.Table | pa.RecordBatch | Iterable[tuple[int, str | None]]"
"""What a layout writes: a table of any columns, the key first, or (id, name) pairs."""


def members(rows: pa.Table | pa.RecordBatch) -> list[bytes]:
    """Each row as the layouts "sorted-set", "hash" and "strings" store it: its values in the order of the columns, as
    JSON has them (`labkit.tables.to_json`), in a compact array in UTF-8.

    For a table of (id, name) that is `member(id, name)` of each row.
    """
    return [json_text(list(row.values())) for row in to_json(rows)]


def texts(rows: pa.Table | pa.RecordBatch) -> list[list[tuple[str, bytes]]]:
    """Each row as the layout "hashes" stores it: its fields besides the key, each with its value in plain text, without
    those that are NULL; a row of which nothing is left has its key.
    """
    key, *others = [_plain(column) for column in rows.columns]
    names = rows.schema.names
    found = []
    for place, row_id in enumerate(key):
        values = ((name, column[place]) for name, column in zip(names[1:], others, strict=True))
        found.append([(name, value) for name, value in values if value is not None] or [(names[0], row_id or b"")])
    return found


def batches(rows: Rows, size: int) -> Iterator[list[tuple[int, bytes]]]:
    """At most `size` rows at a time, each as its id and its stored form in JSON."""
    if isinstance(rows, pa.Table | pa.RecordBatch):
        for part in parts(rows, size):
            yield list(zip(part.column(0).to_pylist(), members(part), strict=True))
        return
    left = iter(rows)
    while batch := [(row_id, member(row_id, name)) for row_id, name in islice(left, size)]:
        yield batch


def parts(rows: Rows, size: int) -> Iterator[pa.Table | pa.RecordBatch]:
    """At most `size` rows at a time, as tables."""
    if isinstance(rows, pa.Table | pa.RecordBatch):
        for start in range(0, rows.num_rows, size):
            yield rows.slice(start, size)
        return
    left = iter(rows)
    while some := list(islice(left, size)):
        yield pa.table(list(map(list, zip(*some, strict=True))), SCHEMA)


def json_text(value: Any) -> bytes:
    """Compact JSON, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(column: pa.Array | pa.ChunkedArray) -> list[bytes | None]:
    """The values of a column in plain text; NULL is None."""
    if pa.types.is_large_binary(column.type) or pa.types.is_binary(column.type):
        return list(column.to_pylist())
    values = (row["value"] for row in to_json(pa.table({"value": column})))
    return [
        None if value is None else value.encode() if isinstance(value, str) else json_text(value) for value in values
    ]
