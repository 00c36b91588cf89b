"""The columns that a topology file declares for Redis: names with the names of Arrow types, as pyarrow writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pyarrow as pa

from labkit._checks import did_you_mean
from labkit.errors import TopologyError
from labkit.shards.schemas import declared
from labkit.tables import shown_type

__all__ = ["schema_of", "written_schema"]

_EXAMPLES = ("int64", "double", "bool", "string", "date32", "timestamp[us, UTC]", "decimal128(12, 2)", "list<int64>")


def schema_of(types: Mapping[str, str]) -> pa.Schema:
    """The schema of {column: type as text}, the key first, as `RedisShard` reads it.

    Raises `TopologyError` for a type that is none, `UsageError` for what `labkit.shards.schemas.declared` refuses.
    """
    return declared(pa.schema([pa.field(name, _type_of(name, text)) for name, text in types.items()]))


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
    for pattern, to_type in _WITH_ARGUMENTS:
        if found := pattern.fullmatch(text.strip()):
            return to_type(*found.groups())
    try:
        return pa.type_for_alias(text.strip())
    except ValueError:
        return None


def _decimal(precision: str, scale: str) -> pa.DataType | None:
    digits = int(precision)
    return pa.decimal128(digits, int(scale)) if 1 <= digits <= 38 and abs(int(scale)) <= 38 else None


def _list(text: str) -> pa.DataType | None:
    item = _parsed(text)
    return None if item is None else pa.list_(item)


_WITH_ARGUMENTS: tuple[tuple[re.Pattern[str], Callable[..., pa.DataType | None]], ...] = (
    (re.compile(r"month_day_nano_interval"), pa.month_day_nano_interval),  # it has another alias
    (re.compile(r"decimal(?:128)?\(\s*(\d{1,2})\s*,\s*(-?\d{1,2})\s*\)"), _decimal),
    (re.compile(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?UTC\]"), lambda unit: pa.timestamp(unit, "UTC")),
    (re.compile(r"list<\s*(?:item:\s*)?(.+)>"), _list),
)
