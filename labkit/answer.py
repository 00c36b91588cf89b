"""The contract of a shard's answer, checked before any of its rows is merged.

IDs are integers, ascending and unique, inside the ranges asked of that shard; names are text or NULL.
One row that breaks it makes the whole answer invalid: pandas would sort duplicate, foreign
and missing IDs in without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas  # noqa: F401 - pyarrow imports it at the first array it makes: half a second in the middle of a read
import pyarrow as pa

from labkit.router import INT64_MAX, INT64_MIN, Range, Ranges

__all__ = ["SCHEMA", "Answer", "InvalidAnswer", "check", "slices", "to_ids"]

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
Answer: TypeAlias = Sequence[Sequence[Any]]
"""What a shard returns: a sequence of (id, name) rows, ascending by id."""


class InvalidAnswer(Exception):
    """Raised inside a read when an answer breaks the contract; the reader turns it into `Status.INVALID`."""


def check(answer: Answer, ranges: Ranges) -> pa.Table:
    """`answer` as a table of `SCHEMA`, or `InvalidAnswer` that names the first row that breaks the contract."""
    ids, names = _columns(answer)
    id_array = _id_array(ids)
    _check_order(id_array)
    _check_ranges(id_array, ranges)
    return pa.Table.from_arrays([pa.array(id_array), _name_array(names)], schema=SCHEMA)


def to_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """The id column of a checked table, without a copy where it is one chunk."""
    column = table.column(0)
    ids: npt.NDArray[np.int64] = column.chunk(0).to_numpy() if column.num_chunks == 1 else column.to_numpy()
    return ids


def _columns(answer: Answer) -> tuple[Sequence[Any], Sequence[Any]]:
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        raise InvalidAnswer(f"the answer is no sequence of rows but {type(answer).__name__}")
    if not answer:
        return (), ()
    try:
        ids, names = zip(*answer, strict=True)
    except (TypeError, ValueError):
        raise InvalidAnswer(_first_odd_row(answer)) from None
    return ids, names


def _first_odd_row(answer: Answer) -> str:
    """Names the first row that is no pair; looked for only once it is known that there is one."""
    for number, row in enumerate(answer, start=1):
        if not isinstance(row, Sequence) or len(row) != 2:
            return f"row {number} is not a pair (id, name): {_short(row)}"
    return "its rows are not pairs (id, name)"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _id_array(ids: Sequence[Any]) -> npt.NDArray[np.int64]:
    """`ids` as int64; `InvalidAnswer` for NULL, for what is not a plain integer, or beyond 64 bits."""
    for number, row_id in enumerate(ids, start=1):
        if type(row_id) is not int and not isinstance(row_id, np.integer):
            raise InvalidAnswer(
                f"row {number} has NULL for an id" if row_id is None else f"id {_short(row_id)} is not an integer"
            )
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError:
        large = next(row_id for row_id in ids if not INT64_MIN <= row_id <= INT64_MAX)
        raise InvalidAnswer(f"id {large} does not fit in 64 bits") from None


def _check_order(ids: npt.NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(ids[1:] <= ids[:-1])
    if wrong.size:
        before, after = int(ids[wrong[0]]), int(ids[wrong[0] + 1])
        raise InvalidAnswer(f"id {after} is there twice" if before == after else f"id {after} comes after {before}")


def _check_ranges(ids: npt.NDArray[np.int64], ranges: Ranges) -> None:
    """IDs ascend here, so all are inside when the counts inside the ranges add up to all."""
    if sum(stop - start for start, stop in slices(ids, ranges)) != len(ids):
        foreign = next(i for i in ids.tolist() if not any(low <= i <= high for low, high in ranges))
        raise InvalidAnswer(f"id {foreign} is outside the ranges asked of this shard")


def slices(ids: npt.NDArray[np.int64], ranges: Sequence[Range]) -> list[tuple[int, int]]:
    """For each range, the positions [start, stop) of its IDs in the ascending `ids`."""
    bounds = np.array(ranges, dtype=np.int64).reshape(-1, 2)
    starts = np.searchsorted(ids, bounds[:, 0], side="left")
    stops = np.searchsorted(ids, bounds[:, 1], side="right")
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _name_array(names: Sequence[Any]) -> pa.Array:
    for number, name in enumerate(names, start=1):
        if name is not None and not isinstance(name, str):
            raise InvalidAnswer(f"row {number}: name {_short(name)} is not text")
    try:
        return pa.array(names, type=pa.string())
    except (UnicodeEncodeError, pa.ArrowException):
        raise InvalidAnswer(_first_odd_text(names)) from None


def _first_odd_text(names: Sequence[Any]) -> str:
    for number, name in enumerate(names, start=1):
        try:
            (name or "").encode()
        except UnicodeEncodeError:
            return f"row {number}: name {_short(name)} is not valid Unicode text"
    return "its names are more text than a column holds"
