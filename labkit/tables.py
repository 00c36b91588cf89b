"""Rows as columns: Python objects to Arrow, and Arrow to pandas. IDs are 64-bit integers, names are text or NULL.

One malformed row makes all of them invalid; the error names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas  # noqa: F401 - else pyarrow imports it with its first array: half a second within a read
import pyarrow as pa

from labkit._checks import shown
from labkit._types import INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PIECE",
    "SCHEMA",
    "TEXT_OR_NULL",
    "Ids",
    "InvalidAnswer",
    "id_chunks",
    "pieces",
    "to_batch",
    "to_columns",
    "to_frame",
    "to_ids",
]

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.large_string())])
"""Text is large_string, as in pandas and polars, so that a DataFrame shares it instead of copying."""
PIECE = 4096
"""Rows converted in one step: a few milliseconds, so that other reads on the event loop are not delayed."""

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
    """`table` (id, name) as a DataFrame: id int64, name str with missing values as NA, RangeIndex.

    Names are not copied: the frame shares the table's memory.
    """
    import pandas as pd

    # Always a copy, even of a single chunk: changing the frame must not change the table.
    ids = np.concatenate([np.empty(0, np.int64), *id_chunks(table)])
    text: Any = pd.StringDtype("pyarrow", na_value=np.nan)
    return pd.DataFrame({"id": ids, "name": text.__from_arrow__(table.column(1))}, copy=False)


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
                raise InvalidAnswer(
                    f"row {number} has NULL for an id" if row_id is None else f"id {shown(row_id)} is not an integer"
                )
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
