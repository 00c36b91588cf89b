"""Rows as columns: Python objects to Arrow, and Arrow to pandas and JSON.

The first column is the key, 64-bit integers; the others have any of Arrow's types. Rows that come as Python pairs are
(id, name), with a text or NULL for a name: one malformed row makes all of them invalid, and the error names it.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas  # noqa: F401 - else pyarrow imports it with its first array: half a second within a read
import pyarrow as pa
import pyarrow.compute as pc

from labkit._checks import shown
from labkit._types import INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NUMBER",
    "PIECE",
    "SCHEMA",
    "TEXT_OR_NULL",
    "Ids",
    "InvalidAnswer",
    "are_same",
    "id_chunks",
    "is_number",
    "is_same",
    "pieces",
    "shown_columns",
    "shown_type",
    "to_batch",
    "to_columns",
    "to_frame",
    "to_ids",
    "to_json",
]

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.large_string())])
"""Text is large_string, as in pandas and polars, so that a DataFrame shares it instead of copying."""
PIECE = 4096
"""Rows converted in one step: a few milliseconds, so that other reads on the event loop are not delayed."""

NUMBER = {"labkit": "number"}
"""The metadata of a field whose text is a number, exact, for which Arrow has no type."""
TEXT_OR_NULL = frozenset((str, type(None)))
"""The types a name can have."""
Ids: TypeAlias = Sequence[npt.NDArray[np.int64]]
"""A column of IDs in chunks, none of them empty."""


class InvalidAnswer(Exception):
    """Raised inside a read when an answer breaks the contract; the reader turns it into `Status.INVALID`."""


def pieces(rows: Sequence[Any]) -> Iterator[pa.RecordBatch]:
    """`rows`, a sequence of (id, name), in batches of at most `PIECE`; `InvalidAnswer` names a malformed row."""
    left = iter(rows)
    before = 0
    while piece := list(islice(left, PIECE)):
        yield to_batch(piece, before)
        before += len(piece)


def to_batch(rows: Sequence[Any], before: int = 0) -> pa.RecordBatch:
    """`rows` (at least one) as a batch of `SCHEMA`; `before` is the number of rows that precede them in the answer."""
    return pa.RecordBatch.from_arrays(list(to_columns(rows, before)), schema=SCHEMA)


def to_columns(rows: Sequence[Any], before: int = 0) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Likewise as a column of IDs and one of names."""
    try:
        ids, names = zip(*rows, strict=True)
    except (TypeError, ValueError):
        raise InvalidAnswer(_first_odd_row(rows, before)) from None
    return _id_array(ids, before), _name_array(names, before)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """`table` as a DataFrame with its column names and a RangeIndex: the key int64, text str with missing values as NA,
    everything else as its Arrow type (`pandas.ArrowDtype`), since pandas' own types lose precision or NULLs; but
    intervals, whose Arrow type pandas cannot print, as `pyarrow.MonthDayNano` or None.

    No column but the key and intervals is copied: the frame shares the table's memory.
    """
    import pandas as pd

    # Always a copy, even of a single chunk: changing the frame must not change the table.
    ids = np.concatenate([np.empty(0, np.int64), *id_chunks(table)])
    columns: dict[str, Any] = {table.schema.names[0]: ids}
    for field, column in zip(list(table.schema)[1:], table.columns[1:], strict=True):
        if pa.types.is_interval(field.type):
            columns[field.name] = pd.Series(column.to_pylist(), dtype=object)
            continue
        text = pa.types.is_large_string(field.type) or pa.types.is_string(field.type)
        kind: Any = pd.StringDtype("pyarrow", na_value=np.nan) if text else pd.ArrowDtype(field.type)
        columns[field.name] = kind.__from_arrow__(column)
    return pd.DataFrame(columns, copy=False)


def to_json(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Each row as a dict in JSON types, without loss: integers as they are, also beyond 2^53; decimals as text; floats
    as they are, but NaN and the infinities as text; times in ISO 8601; binary in Base64; lists as lists.
    """
    columns, names = [_json(column) for column in rows.columns], rows.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def is_same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Where two columns of one type are equal; NULL equals NULL, and NaN equals NaN."""
    if pa.types.is_list(left.type):
        return _same_lists(left, right)
    try:
        equal = pc.equal(left, right)
    except pa.ArrowNotImplementedError:  # of intervals
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return np.fromiter((one == other for one, other in pairs), np.bool_, len(left))
    both_null = pc.and_(pc.is_null(left, nan_is_null=True), pc.is_null(right, nan_is_null=True))
    if pa.types.is_floating(left.type):
        both_null = pc.and_(both_null, pc.equal(pc.is_null(left), pc.is_null(right)))  # NULL is not NaN
    same: npt.NDArray[np.bool_] = pc.or_(pc.fill_null(equal, False), both_null).to_numpy(zero_copy_only=False)
    return same


def _same_lists(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Likewise for lists: those of one length with the same elements."""
    same = is_same(pc.list_value_length(left), pc.list_value_length(right))
    left, right = left.filter(pa.array(same)), right.filter(pa.array(same))
    lengths = pc.fill_null(pc.list_value_length(left), 0).to_numpy()
    ends = np.cumsum(lengths, dtype=np.int64)
    differ = np.append(0, np.cumsum(~is_same(pc.list_flatten(left), pc.list_flatten(right))))
    same[same] = differ[ends] == differ[ends - lengths]
    return same


def are_same(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables have the same columns and rows; NULL equals NULL, and NaN equals NaN."""
    if left.equals(right):
        return True
    if left.num_rows != right.num_rows or not left.schema.equals(right.schema):
        return False
    return all(is_same(*pair).all() for pair in zip(left.columns, right.columns, strict=True))


def is_number(field: pa.Field) -> bool:
    """Whether the column holds numbers as text: see `NUMBER`."""
    return (field.metadata or {}).get(b"labkit") == b"number"


def shown_columns(schema: pa.Schema) -> str:
    """The columns as text: `id int64, name string`."""
    return ", ".join(f"{field.name} {shown_type(field.type)}" for field in schema)


def shown_type(kind: pa.DataType) -> str:
    """A type's name; text is `string`, however its offsets are kept."""
    return "string" if pa.types.is_large_string(kind) else str(kind)


def to_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """The id column of a checked table, without a copy if it is one chunk."""
    chunks = id_chunks(table)
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, np.int64), *chunks])


def id_chunks(table: pa.Table) -> Ids:
    """The id column of a checked table in its chunks, without a copy."""
    return [chunk.to_numpy() for chunk in table.column(0).chunks if len(chunk)]


def _first_odd_row(rows: Sequence[Any], before: int) -> str:
    """Names the first row that is not a pair; called only if there is one."""
    for number, row in enumerate(rows, start=before + 1):
        if not isinstance(row, Sequence) or len(row) != 2:
            return f"row {number} is not a pair (id, name): {shown(row)}"
    return "its rows are not pairs (id, name)"


def _id_array(ids: Sequence[Any], before: int) -> npt.NDArray[np.int64]:
    """`ids` as int64; `InvalidAnswer` for NULL, for anything but a plain integer, and beyond 64 bits."""
    if set(map(type, ids)) != {int}:
        for number, row_id in enumerate(ids, start=before + 1):
            if type(row_id) is not int and not isinstance(row_id, np.integer):
                null = f"row {number} has NULL for id, the key"
                raise InvalidAnswer(null if row_id is None else f"id {shown(row_id)} is not an integer")
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError:
        large = next(row_id for row_id in ids if not INT64_MIN <= row_id <= INT64_MAX)
        raise InvalidAnswer(f"id {large} does not fit in 64 bits") from None


def _name_array(names: Sequence[Any], before: int) -> pa.Array:
    if not TEXT_OR_NULL.issuperset(map(type, names)):
        for number, name in enumerate(names, start=before + 1):
            if name is not None and not isinstance(name, str):
                raise InvalidAnswer(f"row {number}: name {shown(name)} is not text")
    try:
        return pa.array(names, type=pa.large_string())
    except (UnicodeEncodeError, pa.ArrowException):
        raise InvalidAnswer(_first_odd_text(names, before)) from None


def _first_odd_text(names: Sequence[Any], before: int) -> str:
    for number, name in enumerate(names, start=before + 1):
        try:
            (name or "").encode()
        except UnicodeEncodeError:
            return f"row {number}: name {shown(name)} is not valid Unicode text"
    return "its names are more text than a column holds"


def _json(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column in JSON types. See `to_json`."""
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in _json(chunk)]
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        # Not by Python's own types, which have no year above 9999.
        texts: list[str] = np.datetime_as_string(column.to_numpy(zero_copy_only=False)).tolist()
        return [None if text == "NaT" else text + "Z" * bool(getattr(kind, "tz", None)) for text in texts]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        elements, ends = _json(column.flatten()), np.cumsum(pc.fill_null(pc.list_value_length(column), 0)).tolist()
        starts = [0, *ends][:-1]
        there = column.is_valid().to_pylist()
        return [elements[a:b] if ok else None for a, b, ok in zip(starts, ends, there, strict=True)]
    values: list[Any] = column.to_pylist()
    for test, to_value in _TO_JSON:
        if test(kind):
            return [None if value is None else to_value(value) for value in values]
    return values


def _number(value: float) -> float | str:
    """A float; NaN and the infinities, which JSON does not have, as Postgres writes them."""
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def _duration(value: Any) -> str:
    """An interval of months, days and nanoseconds as in ISO 8601: `P14M3DT0.5S`; each part has its own sign."""
    seconds, nanos = divmod(abs(value.nanoseconds), 10**9)
    sign = "-" if value.nanoseconds < 0 else ""
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"P{value.months}M{value.days}DT{sign}{seconds}{fraction}S"


_TO_JSON: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_floating, _number),
    (pa.types.is_decimal, lambda value: f"{value:f}"),
    (pa.types.is_time, lambda value: value.isoformat()),
    (pa.types.is_interval, _duration),
    (pa.types.is_binary, lambda value: b64encode(value).decode()),
    (pa.types.is_large_binary, lambda value: b64encode(value).decode()),
)
