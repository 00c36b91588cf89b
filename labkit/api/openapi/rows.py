"""The rows of a table in the OpenAPI document: the JSON Schema of one, by the types of its columns, and examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from labkit._types import INT64_MAX, INT64_MIN
from labkit.tables import shown_type

__all__ = ["example_rows", "row_schema"]

_Schema = dict[str, Any]


def row_schema(schema: pa.Schema) -> _Schema:
    """The JSON Schema of a row: all columns, of which an answer may have only the key and those asked for."""
    key, *others = schema
    properties = {key.name: {"type": "integer", "format": "int64", "minimum": INT64_MIN, "maximum": INT64_MAX}}
    properties |= {field.name: _described(field.type) for field in others}
    return {
        "type": "object",
        "title": "Row",
        "description": "One row of the table.",
        "properties": properties,
        "required": [key.name],
        "additionalProperties": False,
    }


def example_rows(schema: pa.Schema, ids: range) -> list[dict[str, Any]]:
    """Rows with these IDs."""
    key, *others = schema.names
    return [{key: i, **{name: _example(schema.field(name).type, i) for name in others}} for i in ids]


def _described(kind: pa.DataType) -> _Schema:
    """The schema of a value, which may be NULL."""
    found = _value(kind)
    options = found.pop("anyOf", None) or [found]
    return {"anyOf": [*options, {"type": "null"}], "description": f"{shown_type(kind)}; null for NULL."}


def _value(kind: pa.DataType) -> _Schema:
    if _is_list(kind):
        return {"type": "array", "items": _described(kind.value_type)}
    for test, schema, _ in _TYPES:
        if test(kind):
            return dict(schema)
    return {"type": "string"}


def _example(kind: pa.DataType, number: int) -> Any:
    if _is_list(kind):
        return [_example(kind.value_type, number)]
    for test, _, example in _TYPES:
        if test(kind):
            return example(number)
    return f"Test {number}"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


_TEXT = {"type": "string"}
_TYPES: tuple[tuple[Callable[[pa.DataType], bool], _Schema, Callable[[int], Any]], ...] = (
    (pa.types.is_boolean, {"type": "boolean"}, lambda i: i % 2 == 0),
    (pa.types.is_integer, {"type": "integer", "format": "int64"}, lambda i: 10 * i),
    (
        pa.types.is_floating,
        {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
        lambda i: i / 2,
    ),
    (pa.types.is_decimal, {**_TEXT, "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}, lambda i: f"{i}.50"),
    (pa.types.is_date, {**_TEXT, "format": "date"}, lambda i: f"2026-01-{i:02}"),
    (pa.types.is_time, _TEXT, lambda i: f"{i:02}:30:00"),
    (
        lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None,
        {**_TEXT, "format": "date-time"},
        lambda i: f"2026-01-{i:02}T09:30:00.000000Z",
    ),
    (pa.types.is_timestamp, _TEXT, lambda i: f"2026-01-{i:02}T09:30:00.000000"),
    (pa.types.is_interval, {**_TEXT, "format": "duration"}, lambda i: f"P0M{i}DT0S"),
    (
        lambda kind: pa.types.is_large_binary(kind) or pa.types.is_binary(kind),
        {**_TEXT, "contentEncoding": "base64"},
        lambda i: "AP8=",
    ),
)
"""For each kind of type: what it is in JSON, and an example. Everything else is text."""
