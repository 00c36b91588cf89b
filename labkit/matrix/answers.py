"""What an external reader returned, as plain data: rows, and the ranges that it reports as missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from operator import index
from typing import Any

import pyarrow as pa

from labkit._types import Ranges
from labkit.lab.truth import as_rows as as_lab_rows
from labkit.matrix.dataset import Flat, flat
from labkit.matrix.evidence import Observation
from labkit.merge import union
from labkit.result import ReadResult
from labkit.shards.redis.layouts.values import WRONG, of_json
from labkit.show.format import clip
from labkit.tables import SCHEMA, shown_columns, to_json

__all__ = ["as_ranges", "as_rows", "observed", "understood"]

MAX_ITEMS = 10_000
"""More rows or ranges than this are refused: the matrix has sixty rows."""
MAX_LENGTH = 1_000
"""Characters or bytes of the longest value that is kept."""


@dataclass(frozen=True)
class Unstorable:
    """The repr of a value that no shard can hold: the judging process may not know its class."""

    text: str

    def __repr__(self) -> str:
        return self.text


def observed(result: ReadResult, elapsed: float, schema: pa.Schema = SCHEMA) -> Observation:
    """What a result reports, which must have the columns of `schema`; `elapsed` is the caller's own measurement."""
    statuses = {shard: report.status for shard, report in result.reports.items()}
    found = result.table.schema
    if result.table.num_rows and not found.equals(schema):
        malformed = f"its columns are {shown_columns(found)}; expected {shown_columns(schema)}"
        return Observation(None, elapsed, result.missing, statuses, malformed=malformed)
    return Observation([flat(row) for row in as_lab_rows(result.table)], elapsed, result.missing, statuses)


def understood(answer: Any, schema: pa.Schema = SCHEMA) -> tuple[list[Flat], Ranges | None]:
    """The rows and the ranges reported as missing, None if the answer reports none.

    A mapping has "rows" and may have "missing". A tuple or list of two is the pair (rows, missing), unless its first
    item is itself a row: `[(1, "a"), (2, "b")]` are two rows, `([(1, "a")], [(2, 2)])` is one row and a gap.
    Raises TypeError, ValueError or KeyError for an answer that is neither rows nor rows and gaps.
    """
    if isinstance(answer, Mapping):
        if "rows" not in answer:
            raise KeyError('a mapping without "rows"')
        return as_rows(answer["rows"], schema), as_ranges(answer.get("missing"))
    if isinstance(answer, tuple | list) and len(answer) == 2 and not _is_row(answer[0]):
        return as_rows(answer[0], schema), as_ranges(answer[1])
    return as_rows(answer, schema), None


def as_rows(answer: Any, schema: pa.Schema = SCHEMA) -> list[Flat]:
    """Rows of `schema` from tuples of its values in order, mappings from its names, or a DataFrame.

    Values may be in the types of `to_json`, or Python objects that Arrow takes for the column's type.
    """
    names = schema.names
    if _is_frame(answer):
        answer = answer[: MAX_ITEMS + 1]
        rows: list[Any] = list(zip(*(answer[name].tolist() for name in names), strict=True))
    elif isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Iterable):
        one = "(id, name) pairs" if schema.equals(SCHEMA) else f"tuples ({', '.join(names)})"
        raise TypeError(f"{type(answer).__name__}; return {one}, mappings with {' and '.join(names)}, or a DataFrame")
    else:
        rows = list(islice(answer, MAX_ITEMS + 1))
    if len(rows) > MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS:,} rows")
    return [_row([row[name] for name in names] if _has_names(row) else row, schema) for row in rows]


def as_ranges(missing: Any) -> Ranges | None:
    """Ranges from pairs [low, high] of integers, both inclusive, in any order; overlapping and touching ones merge."""
    if missing is None:
        return None
    if isinstance(missing, str | bytes | Mapping) or not isinstance(missing, Iterable):
        raise TypeError(f"missing is {_clipped(missing)}; return a list of [low, high]")
    pairs = list(islice(missing, MAX_ITEMS + 1))
    if len(pairs) > MAX_ITEMS:
        raise ValueError(f"missing has more than {MAX_ITEMS:,} ranges")
    return union(map(_range, pairs))


def _range(pair: Any) -> tuple[int, int]:
    try:
        low, high = (_bound(bound) for bound in pair)
    except (TypeError, ValueError):
        raise TypeError(f"missing has {_clipped(pair)}, which is not a range [low, high] of integers") from None
    if low > high:
        raise ValueError(f"missing has {_clipped(pair)}, whose low end is above its high end")
    return low, high


def _bound(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return index(value)


def _is_frame(answer: Any) -> bool:
    return hasattr(answer, "columns") and hasattr(answer, "itertuples")


def _is_row(value: Any) -> bool:
    """Whether the value is a single row: it has column names, or its first item is a scalar."""
    if _is_frame(value) or isinstance(value, str | bytes):
        return False
    if _has_names(value):
        return not (isinstance(value, Mapping) and "rows" in value)
    if not (isinstance(value, Sized) and isinstance(value, Iterable)) or not len(value):
        return False
    first = next(iter(value))
    return isinstance(first, str | bytes) or not isinstance(first, Iterable)


def _has_names(row: Any) -> bool:
    # asyncpg's Record is not a Mapping, and iterates over its values
    return isinstance(row, Mapping) or (hasattr(row, "keys") and hasattr(row, "__getitem__"))


def _row(row: Any, schema: pa.Schema) -> Flat:
    row_id, *others = row
    values = zip(others, schema.types[1:], strict=True)
    return (_plain(row_id), *(None if _is_missing(value) else _value(value, kind) for value, kind in values))


def _is_missing(value: Any) -> bool:
    if value is None or repr(value) in ("<NA>", "NaT"):  # which refuse to be compared
        return True
    return not isinstance(value, Sized) and bool(value != value)


def _value(value: Any, kind: pa.DataType) -> Any:
    """The value in the types of `to_json`, if it is one of the column's type."""
    if pa.types.is_large_string(kind):
        return _plain(value)
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy
    if isinstance(value, Sized) and len(value) > MAX_LENGTH:
        return _plain(value)
    for typed in (_of_json, _of_python):
        try:
            [row] = to_json(pa.table([typed(value, kind)], ["value"]))
        except (*WRONG, AttributeError):
            continue
        return row["value"]
    return _plain(value)


def _of_json(value: Any, kind: pa.DataType) -> pa.Array:
    return of_json([value], kind)


def _of_python(value: Any, kind: pa.DataType) -> pa.Array:
    infinite = isinstance(value, float) and pa.types.is_floating(kind)
    if isinstance(value, str | bool | int | float) and not infinite:
        raise TypeError  # these are JSON's own
    return pa.array([value], kind)


def _plain(value: Any) -> Any:
    """Converts numbers and text of numpy and pandas to Python's own types; other values to their repr."""
    value = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
    if isinstance(value, str | bytes) and len(value) > MAX_LENGTH:
        return Unstorable(f"{type(value).__name__} of length {len(value):,}")
    if isinstance(value, str):
        return str(value)
    return value if type(value) in (int, float, bool, bytes, type(None)) else Unstorable(_clipped(value))


def _clipped(value: Any) -> str:
    return clip(repr(value), 80)
