"""Rows in Postgres' binary formats, split into values and decoded into Arrow columns, without a Python object per row.

A row of COPY BINARY is the number of its values (2 bytes), and of each its length (4 bytes) and bytes. A record, as
`record_send` makes it, has 4 bytes for the number, and the type of a value (4 bytes) before its length.
Source of the formats: PostgreSQL documentation, COPY, "Binary Format"; PostgreSQL, `rowtypes.c`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from labkit.shards.postgres.columns import Column
from labkit.shards.postgres.decoding import PADDING, WIDTHS, Values, decoded, field, gathered
from labkit.shards.postgres.messages import Places
from labkit.tables import InvalidAnswer

__all__ = ["CHANGED", "batch_of"]

CHANGED = "the columns of the table changed during the read"
ANY = -1
"""The width of values that differ in it."""


class Run(NamedTuple):
    """Columns whose values are next to each other in every row where none is NULL: only the last may have any width."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    """Bytes of the values; `ANY` for the last means that they differ."""
    offsets: tuple[int, ...]
    """Where the values begin, behind the place where the first one's head does."""
    size: int
    """Bytes of the heads and values, without a last value of any width."""


def batch_of(
    columns: Sequence[Column],
    schema: pa.Schema,
    data: bytes,
    begins: Places,
    ends: Places,
    before: int,
    *,
    records: bool = False,
    order: Sequence[Column] | None = None,
) -> pa.RecordBatch:
    """Rows of COPY, or `records`, as columns. They begin and end at these places of `data`, which ends in `PADDING`.

    `before` is how many rows precede them in the answer. `order` is that of the columns in a row, if it is another one.

    Raises `InvalidAnswer` for anything else, for values of other types, for a value that its Arrow type cannot hold,
    for text that is not UTF-8, and for NULL in the first column, the key.
    """
    if not len(begins):
        return pa.RecordBatch.from_pylist([], schema)
    try:
        found = list(_split(tuple(order or columns), data, begins, ends, before, records))
    except IndexError:
        raise _malformed() from None
    if order is not None:
        found = [found[order.index(column)] for column in columns]
    key = found[0]
    if (key.lengths < 0).any():
        row = before + int(np.argmax(key.lengths < 0)) + 1
        raise InvalidAnswer(f"row {row} has NULL for {columns[0].name}, the key")
    return pa.RecordBatch.from_arrays([decoded(key).cast(pa.int64()), *map(decoded, found[1:])], schema=schema)


def _split(
    columns: tuple[Column, ...], data: bytes, begins: Places, ends: Places, before: int, records: bool
) -> Iterator[Values]:
    """The values of each column. Raises IndexError for lengths beyond the data."""
    at, number, head = begins, *((4, 8) if records else (2, 4))
    for together in _runs(columns, number, head):
        windows = gathered(data, at, f"V{together.size}")
        if at is begins and (field(windows, 0, f">i{number}") != len(columns)).any():
            raise InvalidAnswer(CHANGED) if records else _malformed()
        for run in [together] if _is_plain(together, windows) else _apart(together, head):
            if run is not together:
                windows = gathered(data, at, f"V{run.size}")
            following = at + run.size
            for column, width, offset in zip(run.columns, run.widths, run.offsets, strict=True):
                if records and (field(windows, offset - 8, ">u4") != column.declared).any():
                    raise InvalidAnswer(CHANGED)
                if width != ANY:
                    yield Values(column, data, at, offset, np.broadcast_to(np.int64(width), at.shape), before, windows)
                else:
                    lengths = field(windows, offset - 4, ">i4").astype(np.int64)
                    yield Values(column, data, at, offset, lengths, before)
                    following += np.maximum(lengths, 0)
            at = following
    if (at != ends).any():
        raise _malformed()


@lru_cache
def _runs(columns: tuple[Column, ...], number: int, head: int) -> list[Run]:
    """The columns of a row that begins with their number, of so many bytes, and has a head before each value."""
    runs, some, size = list[Run](), list[tuple[Column, int, int]](), number
    for column in columns:
        width = ANY if column.is_list else WIDTHS.get(column.oid, ANY)
        some.append((column, width, size + head))
        size += head + max(0, width)
        if width == ANY or column is columns[-1] or size + head + max(WIDTHS.values()) > len(PADDING):
            together, widths, offsets = zip(*some, strict=True)
            runs.append(Run(together, widths, offsets, size))
            some, size = [], 0
    return runs


def _is_plain(run: Run, windows: Any) -> bool:
    """Whether the values have the widths of the run in every row."""
    fields = zip(run.widths, run.offsets, strict=True)
    return all(width == ANY or (field(windows, offset - 4, ">i4") == width).all() for width, offset in fields)


def _apart(run: Run, head: int) -> list[Run]:
    """The columns of a run one by one, each of any width."""
    offsets = [run.offsets[0], *(head for _ in run.columns[1:])]
    return [Run((column,), (ANY,), (offset,), offset) for column, offset in zip(run.columns, offsets, strict=True)]


def _malformed() -> InvalidAnswer:
    return InvalidAnswer("the answer cannot be understood: a row is malformed")
