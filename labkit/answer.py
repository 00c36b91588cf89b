"""The contract of a shard's answer, checked before any of its rows is merged.

IDs are integers, ascending and unique, inside the ranges asked of that shard; names are text or NULL.
One row that breaks it makes the whole answer invalid: pandas would sort duplicate, foreign
and missing IDs in without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.router import Ranges, to_bounds
from labkit.rows import PIECE, SCHEMA, InvalidAnswer, pieces, to_columns

__all__ = [
    "SCHEMA",
    "Answer",
    "Bounds",
    "Ids",
    "InvalidAnswer",
    "check",
    "id_chunks",
    "inside",
    "slices",
    "to_ids",
    "to_table",
]

Answer: TypeAlias = Sequence[Sequence[Any]] | pa.Table
"""What a shard returns: a sequence of (id, name) rows, or a table of `SCHEMA`; ascending by id."""
Ids: TypeAlias = Sequence[npt.NDArray[np.int64]]
"""A column of IDs in chunks, none of them empty."""
Bounds: TypeAlias = npt.NDArray[np.int64]
"""Ranges, ascending: a row per range, its low and its high."""


async def to_table(answer: Answer) -> Answer:
    """`answer`, many rows as a table: they are converted bit by bit, so that the event loop goes on meanwhile."""
    if isinstance(answer, pa.Table) or not isinstance(answer, Sequence) or len(answer) <= PIECE:
        return answer
    batches = []
    for batch in pieces(answer):
        batches.append(batch)
        await asyncio.sleep(0)
    return pa.Table.from_batches(batches, SCHEMA)


def check(answer: Answer, ranges: Ranges) -> pa.Table:
    """`answer` as a table of `SCHEMA`, or `InvalidAnswer` that names the first row that breaks the contract."""
    if not isinstance(answer, pa.Table):
        return _checked_rows(answer, ranges)
    table = answer if answer.schema == SCHEMA else _of_schema(answer)
    if table.column(0).null_count:
        number = table.column(0).is_null().to_pylist().index(True) + 1
        raise InvalidAnswer(f"row {number} has NULL for an id")
    _check(id_chunks(table), ranges)
    return table


def _checked_rows(rows: Any, ranges: Ranges) -> pa.Table:
    """The same for rows: no table is looked into that was just made. Few that are right do not come here (`few`)."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise InvalidAnswer(f"the answer is no sequence of rows but {type(rows).__name__}")
    if not rows:
        return SCHEMA.empty_table()
    ids, names = to_columns(rows)
    _check([ids], ranges)
    return pa.Table.from_arrays([pa.array(ids), names], schema=SCHEMA)


def _check(ids: Ids, ranges: Ranges) -> None:
    _check_order(ids)
    _check_ranges(ids, ranges)


def to_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """The id column of a checked table, without a copy where it is one chunk."""
    chunks = id_chunks(table)
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, np.int64), *chunks])


def id_chunks(table: pa.Table) -> Ids:
    """The id column of a checked table in its chunks, without a copy."""
    return [chunk.to_numpy() for chunk in table.column(0).chunks if len(chunk)]


def _of_schema(table: pa.Table) -> pa.Table:
    """The same table, where only what a schema says beside names and types is different."""
    if (table.schema.names, table.schema.types) != (SCHEMA.names, SCHEMA.types):
        given = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise InvalidAnswer(f"the answer's columns are ({given}), not (id int64, name string)")
    return table.cast(SCHEMA)


def _check_order(ids: Ids) -> None:
    for chunk in ids:
        if (chunk[1:] <= chunk[:-1]).any():
            wrong = int(np.argmax(chunk[1:] <= chunk[:-1]))
            raise _out_of_order(chunk[wrong], chunk[wrong + 1])
    for chunk, following in pairwise(ids):
        if following[0] <= chunk[-1]:
            raise _out_of_order(chunk[-1], following[0])


def _out_of_order(before: np.int64, after: np.int64) -> InvalidAnswer:
    return InvalidAnswer(f"id {after} is there twice" if before == after else f"id {after} comes after {before}")


def _check_ranges(ids: Ids, ranges: Ranges) -> None:
    """IDs ascend here, so all are inside when the counts inside the ranges add up to all."""
    bounds = to_bounds(ranges)
    starts, stops = slices(ids, bounds)
    if int((stops - starts).sum()) != sum(map(len, ids)):
        foreign = next(chunk[~owned][0] for chunk in ids if not (owned := inside(chunk, bounds)).all())
        raise InvalidAnswer(f"id {foreign} is outside the ranges asked of this shard")


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
    """Where the ascending bounds would stand in `ids`: each is looked up in the one chunk that has it."""
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
