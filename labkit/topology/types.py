"""The columns that a topology file declares for Redis: names with the names of Arrow types, as pyarrow writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pyarrow as pa

from labkit._checks import did_you_mean
from labkit.errors import TopologyError
from labkit.tables import shown_type

__all__ = ["schema_of", "written_schema"]

_PLAIN: dict[str, pa.DataType] = {
    **{name: pa.type_for_alias(name) for name in ("bool", "int8", "int16", "int32", "int64")},
    **{name: pa.type_for_alias(name) for name in ("uint8", "uint16", "uint32", "float32", "float64")},
    "float": pa.float32(),
    "double": pa.float64(),
    "date32[day]": pa.date32(),
    "date32": pa.date32(),
    "time64[us]": pa.time64("us"),
    "month_day_nano_interval": pa.month_day_nano_interval(),
    # The offsets of labkit's own text and binary columns have 64 bits, whatever the file calls them.
    **dict.fromkeys(("string", "utf8", "large_string", "large_utf8"), pa.large_string()),
    **dict.fromkeys(("binary", "large_binary"), pa.large_binary()),
}
_EXAMPLES = ("int64", "double", "bool", "string", "date32", "timestamp[us, UTC]", "decimal128(12, 2)", "list<int64>")


def schema_of(types: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of {column: type as text}, the key first; `TopologyError` names a type that is none."""
    if not types:
        raise TopologyError('schema has no columns: write the key first, such as { order_id = "int64" }')
    fields = [pa.field(name, _type_of(name, text)) for name, text in types.items()]
    if fields[0].type != pa.int64():
        raise TopologyError(f'schema: {fields[0].name} is the first column, so the key: it must be "int64"')
    return pa.schema(fields)


def written_schema(schema: pa.Schema) -> dict[str, str]:
    """The mapping from which `schema_of` makes an equal schema."""
    return {field.name: shown_type(field.type) for field in schema}


def _type_of(column: str, text: str) -> pa.DataType:
    kind = _parsed(text)
    if kind is None:
        hint = did_you_mean(text, _EXAMPLES) if len(text) <= 40 else f"expected one of {', '.join(_EXAMPLES)}"
        shown = "an address" if "://" in text else repr(text[:40])
        raise TopologyError(f"schema: {column} has an unknown type, {shown}; {hint}")
    return kind


def _parsed(text: str) -> pa.DataType | None:
    """The type that the text names; None if it is none."""
    text = text.strip()
    if kind := _PLAIN.get(text):
        return kind
    for pattern, to_type in _WITH_ARGUMENTS:
        if found := pattern.fullmatch(text):
            return to_type(*found.groups())
    return None


def _decimal(precision: str, scale: str) -> pa.DataType | None:
    digits = int(precision)
    return pa.decimal128(digits, int(scale)) if 1 <= digits <= 38 and abs(int(scale)) <= 38 else None


def _list(text: str) -> pa.DataType | None:
    item = _parsed(text)
    return None if item is None or pa.types.is_list(item) else pa.list_(item)


_WITH_ARGUMENTS: tuple[tuple[re.Pattern[str], Callable[..., pa.DataType | None]], ...] = (
    (re.compile(r"decimal(?:128)?\(\s*(\d{1,2})\s*,\s*(-?\d{1,2})\s*\)"), _decimal),
    (re.compile(r"timestamp\[us\]"), lambda: pa.timestamp("us")),
    (re.compile(r"timestamp\[us,\s*(?:tz=)?UTC\]"), lambda: pa.timestamp("us", "UTC")),
    (re.compile(r"list<\s*(?:item:\s*)?(.+)>"), _list),
)
