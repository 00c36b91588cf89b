"""Declared schemas: the columns of a shard whose server has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from labkit.errors import UsageError

__all__ = ["declared", "read_as"]

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def declared(schema: Any) -> pa.Schema:
    """The schema that answers have: the declared names, each type as `read_as` has it, the key as int64.

    Raises `UsageError` for anything but a `pyarrow.Schema`, for names that repeat, for a first column, the key, that is
    not of integers, and for a type that no answer has.
    """
    if not isinstance(schema, pa.Schema):
        raise UsageError(f"schema must be a pyarrow.Schema, the key first, not {type(schema).__name__}")
    names = schema.names
    if not names:
        raise UsageError("schema must have at least one column, the key")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"schema has the column {repeated[0]!r} more than once: give every column its own name")
    if not pa.types.is_integer(schema.field(0).type):
        raise UsageError(
            f"the first column of schema is the key, so {names[0]!r} must be integers, not {schema.field(0).type}"
        )
    fields = [pa.field(names[0], pa.int64())]
    for field in list(schema)[1:]:
        try:
            fields.append(pa.field(field.name, read_as(field.type)))
        except TypeError as error:
            raise UsageError(f"column {field.name!r} of schema: {error}") from None
    return pa.schema(fields)


def read_as(kind: pa.DataType) -> pa.DataType:
    """The type in which answers have values of the type `kind`, the same from every server; TypeError if there is none.

    Integers become 16, 32 or 64 bits with a sign; text and binary have 64-bit offsets; times are in microseconds, those
    with a time zone in UTC; lists hold anything but lists.
    """
    if pa.types.is_dictionary(kind):
        return read_as(kind.value_type)
    if any(is_(kind) for is_ in _LISTS):
        if not any(is_(kind.value_type) for is_ in _LISTS):
            return pa.list_(read_as(kind.value_type))
    elif pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    for test, known in _READ_AS:
        if test(kind):
            return known or kind
    raise TypeError(f"the type {kind} is not supported; declare another one, such as text")


_READ_AS: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType | None], ...] = (
    (lambda kind: kind in (pa.int8(), pa.int16()), pa.int16()),
    (lambda kind: kind in (pa.uint8(), pa.uint16(), pa.int32()), pa.int32()),
    (pa.types.is_integer, pa.int64()),
    (lambda kind: kind in (pa.float16(), pa.float32()), pa.float32()),
    (pa.types.is_float64, None),
    (pa.types.is_decimal128, None),
    (pa.types.is_boolean, None),
    (lambda kind: any(is_(kind) for is_ in _TEXTS), pa.large_string()),
    (lambda kind: any(is_(kind) for is_ in _BINARIES), pa.large_binary()),
    (pa.types.is_date, pa.date32()),
    (pa.types.is_time, pa.time64("us")),
    (pa.types.is_interval, None),
)
