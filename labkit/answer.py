"""The contract of a shard's answer, checked before any of its rows is merged.

IDs, the first column, are integers, ascending and unique, inside the ranges asked of that shard. One row that breaks
the contract makes the whole answer invalid: pandas would silently merge duplicate, foreign and missing IDs. Whether the
columns are those of the other shards is for `labkit.merge` to see.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import lt
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit._types import Range, Ranges
from labkit.router import to_bounds
from labkit.tables import (
    NUMBER,
    PIECE,
    SCHEMA,
    TEXT_OR_NULL,
    Ids,
    InvalidAnswer,
    id_chunks,
    is_number,
    pieces,
    shown_columns,
    to_columns,
)

__all__ = [
    "SMALL_ANSWER",
    "STEP",
    "Answer",
    "Bounds",
    "SmallAnswer",
    "as_small",
    "as_table",
    "check",
    "checked",
    "in_order",
    "inside",
    "slices",
    "to_table",
]

STEP = 32_768
"""IDs, or ranges, checked in one step: a millisecond or two."""

Answer: TypeAlias = Sequence[Sequence[Any]] | pa.Table
"""What a shard returns: a table whose first column is the key, of 64-bit integers, or a sequence of (id, name) rows;
ascending by key."""
SMALL_ANSWER = 256
"""Most rows, and most ranges, for which plain Python is faster than numpy and Arrow."""

_ID = frozenset((int,))
Bounds: TypeAlias = npt.NDArray[np.int64]
"""Ascending ranges: one row per range, (low, high)."""


@dataclass(frozen=True, slots=True, eq=False)
class SmallAnswer:
    """A few rows that keep the contract of `labkit.answer`, as Python objects."""

    ids: Sequence[int]
    names: Sequence[str | None]
    cuts: Sequence[Range]
    """For each range asked, the positions [start, stop) of its rows."""

    schema: ClassVar[pa.Schema] = SCHEMA

    @property
    def num_rows(self) -> int:
        """As in `pyarrow.Table`."""
        return len(self.ids)

    def table(self) -> pa.Table:
        """The rows as a table of `SCHEMA`."""
        columns = [pa.array(self.ids, pa.int64()), pa.array(self.names, pa.large_string())]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def as_small(answer: Answer, ranges: Ranges) -> SmallAnswer | None:
    """The rows of `answer`; None if there are many, if it is a table, or if a row breaks the contract (see `check`)."""
    if not isinstance(answer, list | tuple) or len(answer) > SMALL_ANSWER or len(ranges) > SMALL_ANSWER:
        return None
    try:
        ids, names = zip(*answer, strict=True) if answer else ((), ())
        text = "".join(filter(None, names))
    except (TypeError, ValueError):
        return None
    if not set(map(type, ids)) <= _ID or not TEXT_OR_NULL.issuperset(map(type, names)) or not _is_unicode(text):
        return None
    cuts = [(bisect_left(ids, low), bisect_right(ids, high)) for low, high in ranges]
    if not all(map(lt, ids, islice(ids, 1, None))) or sum(stop - start for start, stop in cuts) != len(ids):
        return None
    return SmallAnswer(ids, names, cuts)


def as_table(rows: SmallAnswer | pa.Table) -> pa.Table:
    """The same rows as a table of `SCHEMA`."""
    return rows.table() if isinstance(rows, SmallAnswer) else rows


def in_order(pieces: Iterable[tuple[Ranges, SmallAnswer]]) -> pa.Table:
    """All rows as one table ascending by id; each answer comes with the ranges that were asked."""
    parts = []
    for ranges, rows in pieces:
        for (low, _), (start, stop) in zip(ranges, rows.cuts, strict=True):
            if stop > start:
                parts.append((low, rows.ids[start:stop], rows.names[start:stop]))
    parts.sort()
    ids, names = chain.from_iterable(part[1] for part in parts), chain.from_iterable(part[2] for part in parts)
    return SmallAnswer(list(ids), list(names), ()).table()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


async def to_table(answer: Answer) -> Answer:
    """`answer`, as a table if it has many rows: converted in pieces, so that the event loop keeps running."""
    if isinstance(answer, pa.Table) or not isinstance(answer, Sequence) or len(answer) <= PIECE:
        return answer
    batches = []
    for batch in pieces(answer):
        batches.append(batch)
        await asyncio.sleep(0)
    return pa.Table.from_batches(batches, SCHEMA)


def check(answer: Answer, ranges: Ranges) -> pa.Table:
    """`answer` as a table; `InvalidAnswer` names the first row that breaks the contract."""
    table = _as_table(answer)
    for _ in _checks(id_chunks(table), ranges, table.schema.names[0]):
        pass
    return table


async def checked(answer: Answer, ranges: Ranges) -> pa.Table:
    """`check` in steps, so that the event loop keeps running."""
    table = _as_table(await to_table(answer))
    for _ in _checks(id_chunks(table), ranges, table.schema.names[0]):
        await asyncio.sleep(0)
    return table


def _as_table(answer: Answer) -> pa.Table:
    if not isinstance(answer, pa.Table):
        return _of_rows(answer)
    table = answer if answer.schema == SCHEMA else _of_columns(answer)
    if table.column(0).null_count:
        number = table.column(0).is_null().index(True).as_py() + 1
        raise InvalidAnswer(f"row {number} has NULL for {table.schema.names[0]}, the key")
    return table


def _of_rows(rows: Any) -> pa.Table:
    """`rows` as a table; small valid answers never get here (see `as_small`)."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise InvalidAnswer(f"the answer is not a sequence of rows but {type(rows).__name__}")
    if not rows:
        return SCHEMA.empty_table()
    ids, names = to_columns(rows)
    return pa.Table.from_arrays([pa.array(ids), names], schema=SCHEMA)


def _of_columns(table: pa.Table) -> pa.Table:
    """`table` without metadata; its columns must have different names, and the first must be a key."""
    schema = table.schema
    if not len(schema) or schema.types[0] != pa.int64():
        raise InvalidAnswer(
            f"the answer's columns are ({shown_columns(schema)}): the first must be a key of type int64"
        )
    if len(set(schema.names)) < len(schema.names):
        raise InvalidAnswer(f"the answer has two columns of the same name: {shown_columns(schema)}")
    fields = [pa.field(one.name, one.type, metadata=NUMBER if is_number(one) else None) for one in schema]
    return table.cast(pa.schema(fields))


def _checks(ids: Ids, ranges: Ranges, key: str) -> Iterator[None]:
    """Checks IDs in steps, between which the caller may yield to the event loop."""
    yield from _check_order(ids, key)
    yield from _check_ranges(ids, to_bounds(ranges), key)


def _check_order(ids: Ids, key: str) -> Iterator[None]:
    before, seen = None, 0
    for piece in _cut(ids):
        if before is not None and piece[0] <= before:
            raise _out_of_order(key, before, piece[0])
        if (piece[1:] <= piece[:-1]).any():
            wrong = int(np.argmax(piece[1:] <= piece[:-1]))
            raise _out_of_order(key, piece[wrong], piece[wrong + 1])
        before, seen = piece[-1], seen + len(piece)
        if seen >= STEP:
            seen = 0
            yield


def _cut(ids: Ids) -> Iterator[npt.NDArray[np.int64]]:
    """`ids` in pieces of at most `STEP`."""
    return (chunk[start : start + STEP] for chunk in ids for start in range(0, len(chunk), STEP))


def _out_of_order(key: str, before: np.int64, after: np.int64) -> InvalidAnswer:
    return InvalidAnswer(f"{key} {after} is there twice" if before == after else f"{key} {after} comes after {before}")


def _check_ranges(ids: Ids, bounds: Bounds, key: str) -> Iterator[None]:
    """IDs ascend here, so all are inside the ranges if the counts per range add up to their number."""
    count = 0
    for start in range(0, len(bounds), STEP):
        if start:
            yield
        starts, stops = slices(ids, bounds[start : start + STEP])
        count += int((stops - starts).sum())
    if count != sum(map(len, ids)):
        for piece in _cut(ids):
            foreign = piece[~inside(piece, bounds)]
            if len(foreign):
                break
            yield
        raise InvalidAnswer(f"{key} {foreign[0]} is outside the ranges asked of this shard")


def slices(ids: Ids, bounds: Bounds) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each of the ascending ranges, where its IDs start and stop in the ascending `ids`."""
    return _positions(ids, bounds[:, 0], "left"), _positions(ids, bounds[:, 1], "right")


def inside(ids: npt.NDArray[np.int64], bounds: Bounds) -> npt.NDArray[np.bool_]:
    """Which of `ids` lie in one of the ascending ranges."""
    if not len(bounds):
        return np.zeros(len(ids), dtype=bool)
    place = bounds[:, 0].searchsorted(ids, "right") - 1
    found: npt.NDArray[np.bool_] = (place >= 0) & (ids <= bounds[place, 1])
    return found


def _positions(ids: Ids, bounds: npt.NDArray[np.int64], side: Any) -> npt.NDArray[np.int64]:
    """Where the ascending bounds would be inserted into `ids`: each is searched in one chunk only."""
    if len(ids) == 1:
        return ids[0].searchsorted(bounds, side)
    found = np.empty(len(bounds), dtype=np.int64)
    passed = done = 0
    for chunk in ids:
        upto = done + int(bounds[done:].searchsorted(chunk[-1], "right"))
        found[done:upto] = passed + chunk.searchsorted(bounds[done:upto], side)
        passed, done = passed + len(chunk), upto
    found[done:] = passed
    return found
