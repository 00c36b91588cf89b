"""Decodes many members at once into columns, without an object per row.

A member in plain form (`[id,"name"]` or `[id,null]`, the id in decimal, no escape in the name, at most one space after
the comma) is cut out of the shared buffer. All others are decoded by `row`, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.shards.redis.layouts.byte_strings import FRONT, ByteStrings, Flags, Offsets, cells, side_by_side
from labkit.shards.redis.layouts.numbers import numbers_from, numbers_of_one_width
from labkit.shards.redis.layouts.ordering import SLICE
from labkit.shards.redis.layouts.rows import row, row_under
from labkit.tables import SCHEMA, InvalidAnswer, to_batch

__all__ = ["Columns", "Pairs", "columns", "first_wrong", "rows_under"]

_SPACE, _QUOTE, _COMMA, _OPEN, _BACKSLASH, _CLOSE = b' ",[\\]'
_QUOTED = int.from_bytes(b',"', "little")
_NULL = np.frombuffer(b"null]", np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The rows of members in plain form; the others must be decoded, and are merged in by `batch`."""

    ids: npt.NDArray[np.int64]
    names: pa.LargeStringArray
    plain: Flags

    @property
    def others(self) -> list[int]:
        """The positions of members that are not in plain form, ascending."""
        return np.flatnonzero(~self.plain).tolist()

    def batch(self, rows: Sequence[Any]) -> pa.RecordBatch | None:
        """All rows in the order of the members, with `rows` for the others; None if a column cannot hold one."""
        ids, names = self.ids, self.names
        if len(rows):
            try:
                odd = to_batch(rows)
            except InvalidAnswer:
                return None
            order = np.argsort(np.concatenate([np.flatnonzero(self.plain), self.others]), kind="stable")
            ids = np.concatenate([ids, odd.column(0).to_numpy()])[order]
            names = pa.concat_arrays([names, odd.column(1)]).take(pa.array(order))
        return pa.RecordBatch.from_arrays([pa.array(ids), names], schema=SCHEMA)


class Pairs:
    """Rows of (id, name), as `Records` are those of a schema."""

    schema = SCHEMA
    step = SLICE

    def rows_under(self, ids: npt.NDArray[np.int64], values: Sequence[Any] | ByteStrings) -> pa.RecordBatch | None:
        """See `Records.rows_under`."""
        return rows_under(ids, values)

    def first_wrong(self, ids: npt.NDArray[np.int64], values: Sequence[Any] | ByteStrings) -> tuple[int, InvalidAnswer]:
        """See `Records.first_wrong`."""
        return first_wrong(ids, values)


def columns(members: Sequence[Any] | ByteStrings) -> Columns:
    """The members in plain form, as columns; a millisecond or two for 16,000 of them."""
    texts = members if isinstance(members, ByteStrings) else side_by_side(members)
    if texts is None:
        return Columns(np.zeros(0, np.int64), pa.array([], pa.large_string()), np.zeros(len(members), np.bool_))
    if (alike := _alike(texts)) is not None:
        ids, begins = alike
        stops, null, plain = texts.ends - 2, None, np.ones(len(ids), np.bool_)
    else:
        ids, begins, stops, null, plain = _plain(texts)
    names = cells(texts, begins, stops, null)
    if (good := _good(names)) is not None:
        plain[plain] = good
        ids, names = ids[good], names.filter(pa.array(good))
    return Columns(ids, names.view(pa.large_string()), plain)


def rows_under(ids: npt.NDArray[np.int64], values: Sequence[Any] | ByteStrings) -> pa.RecordBatch | None:
    """The rows stored under those ids, which they must contain too; None if one is wrong."""
    found = columns(values)
    try:
        batch = found.batch([row(values[place]) for place in found.others])
    except InvalidAnswer:
        return None
    return batch if batch is not None and np.array_equal(batch.column(0).to_numpy(), ids) else None


def first_wrong(ids: npt.NDArray[np.int64], values: Sequence[Any] | ByteStrings) -> tuple[int, InvalidAnswer]:
    """The lowest id whose value is not its row, and the error; for when `rows_under` returns None."""
    for place in ids.argsort(kind="stable").tolist():
        row_id = int(ids[place])
        try:
            _, name = row_under(row_id, values[place])
            if name is not None and not (isinstance(name, str) and name.isprintable()):
                to_batch([(row_id, name)])
        except InvalidAnswer as error:
            return row_id, error
    raise InvalidAnswer("the answer's rows are not those of its ids")


def _alike(texts: ByteStrings) -> tuple[npt.NDArray[np.int64], Offsets] | None:
    """The IDs, and where the names begin, if all members are alike: IDs of one width, no space, text as name."""
    fronts = texts.fronts
    found = None if fronts is None else numbers_of_one_width(texts, 1)
    if fronts is None or found is None or fronts.offset + (comma := found[1]) + 2 > FRONT:
        return None
    begins, stops = texts.starts + (comma + 2), texts.ends - 2
    right = (fronts.field("u1", 0) == _OPEN) & (fronts.field("<u2", comma) == _QUOTED) & (begins <= stops)
    right &= (texts.data[stops] == _QUOTE) & (texts.data[stops + 1] == _CLOSE)
    return (found[0], begins) if right.all() else None


def _plain(texts: ByteStrings) -> tuple[npt.NDArray[np.int64], Offsets, Offsets, Flags | None, Flags]:
    """The IDs, where the names begin and stop, and which are NULL, of all members in plain form; and which are."""
    data, starts, ends = texts.data, texts.starts, texts.ends
    ids, commas, plain = numbers_from(texts, 1)
    values, stops = commas + 1, ends - 2
    if (spaced := data[values] == _SPACE).any():
        values += spaced
    named = (data[values] == _QUOTE) & (data[stops] == _QUOTE) & (stops > values)
    null = None if named.all() else _null(texts, values)
    plain &= (data[starts] == _OPEN) & (data[commas] == _COMMA) & (data[stops + 1] == _CLOSE)
    plain &= named if null is None else named | null
    begins = values + 1
    if not plain.all():
        ids, begins, stops, null = ids[plain], begins[plain], stops[plain], None if null is None else null[plain]
    return ids, begins, stops, null, plain


def _null(texts: ByteStrings, values: Offsets) -> Flags:
    """Which members have NULL as name."""
    null: Flags = texts.ends - values == len(_NULL)
    null[null] = (texts.data[values[null, None] + np.arange(len(_NULL))] == _NULL).all(axis=1)
    return null


def _good(names: pa.LargeBinaryArray) -> Flags | None:
    """Which names need no unescaping: no backslash, quote or control character, and valid UTF-8; None if all.

    That common case takes one scan over the shared buffer.
    """
    _, offsets, data = names.buffers()
    byte = np.frombuffer(data, np.uint8)
    utf8 = byte.max(initial=0) < 128 or _are_utf8(names)
    clear = byte.min(initial=_SPACE) >= _SPACE and not (byte == _BACKSLASH).any() and not (byte == _QUOTE).any()
    if utf8 and clear:
        return None
    odd = (byte < _SPACE) | (byte == _BACKSLASH) | (byte == _QUOTE)
    if not utf8:
        odd |= byte > 127
    good = np.ones(len(names), np.bool_)
    good[np.searchsorted(np.frombuffer(offsets, np.int64)[1:], np.flatnonzero(odd), side="right")] = False
    return good


def _are_utf8(names: pa.LargeBinaryArray) -> bool:
    try:
        names.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True
