"""Decodes values in Postgres' binary format into Arrow columns, without a Python object per value.

A column of values is given by where each begins in the received bytes, and by its length (-1 is NULL). numpy gathers
and converts all of them at once.
Source of the formats: PostgreSQL, the send functions of the types (`numeric.c`, `timestamp.c`, `arrayfuncs.c`, …).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labkit.shards.failures import one_line
from labkit.shards.postgres.columns import JSONB, NUMERIC, UUID, Column
from labkit.tables import InvalidAnswer

__all__ = ["PADDING", "POOL", "Places", "Values", "decoded", "integers"]

PADDING = bytes(16)
"""Behind the bytes, so that reading a value of any width never runs beyond them."""
Places: TypeAlias = npt.NDArray[np.int64]
"""Positions in the bytes, or lengths."""

POOL = pa.jemalloc_memory_pool() if "jemalloc" in pa.supported_memory_backends() else pa.system_memory_pool()
"""Arrow's default, mimalloc, keeps the excess of overallocated buffers: 50 % more memory, measured."""
_DAYS = 10_957
"""From 1970-01-01, Arrow's epoch, to 2000-01-01, Postgres'."""
_DAY = 86_400 * 10**6
"""Microseconds."""
_SMALL = 18
"""Digits of a decimal that fit in 64 bits."""
_FACTORS = np.array([10 ** max(0, power) for power in (*range(19), -4, -3, -2, -1)], np.int64)
_DIVISORS = np.array([10 ** max(0, -power) for power in (*range(19), -4, -3, -2, -1)], np.int64)
"""By power of ten, from -4 to 18."""
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
_DASHES = (8, 13, 18, 23)
"""Where they are in the text of a UUID."""


class Values(NamedTuple):
    """The values of one column in some bytes, which end in `PADDING`."""

    column: Column
    data: bytes
    begins: Places
    lengths: Places
    before: int
    """How many rows precede these in the answer, for messages."""

    def malformed(self) -> InvalidAnswer:
        return InvalidAnswer(f"the data of column {self.column.name} is malformed")

    def refuse(self, wrong: npt.NDArray[np.bool_], what: str) -> None:
        """Raises for the first value that is not NULL and that the Arrow type cannot hold."""
        wrong = wrong & (self.lengths >= 0)
        if wrong.any():
            row = self.before + int(np.argmax(wrong)) + 1
            raise InvalidAnswer(f"row {row}: {self.column.name} is {what}, which {self.column.type} cannot hold")

    def nulls(self, width: int) -> Any:
        """The validity bitmap, None if nothing is NULL; all others must have `width` bytes."""
        if (self.lengths == width).all():
            return None
        if ((self.lengths != width) & (self.lengths != -1)).any():
            raise self.malformed()
        return pa.py_buffer(np.packbits(self.lengths >= 0, bitorder="little"))

    def numbers(self, width: int, offset: int = 0) -> Any:
        """The big-endian integers `offset` bytes behind the beginnings."""
        return integers(self.data, self.begins + offset if offset else self.begins, width)


def decoded(values: Values) -> pa.Array:
    """The values as an Arrow column.

    Raises `InvalidAnswer` for what the Arrow type cannot hold, and for malformed bytes.
    """
    if values.column.is_list:
        return _lists(values)
    return _DECODERS.get(values.column.oid, _texts)(values)


def integers(data: bytes, places: Places, width: int) -> Any:
    """The big-endian integers of `width` bytes at `places`."""
    everywhere: Any = np.ndarray((len(data) - width + 1,), dtype=f"<i{width}", buffer=data, strides=(1,))
    return everywhere[places].byteswap(inplace=True)


def _fixed(width: int) -> Callable[[Values], pa.Array]:
    """A decoder of numbers that are in Arrow as they are in Postgres."""

    def decode(values: Values) -> pa.Array:
        return _array(values, values.nulls(width), values.numbers(width))

    return decode


def _array(values: Values, nulls: Any, numbers: Any) -> pa.Array:
    return pa.Array.from_buffers(values.column.type, len(values.begins), [nulls, pa.py_buffer(numbers)])


def _bools(values: Values) -> pa.Array:
    nulls = values.nulls(1)
    return _array(values, nulls, np.packbits(values.numbers(1) != 0, bitorder="little"))


def _oids(values: Values) -> pa.Array:
    nulls = values.nulls(4)
    return _array(values, nulls, values.numbers(4).astype(np.int64) & 0xFFFFFFFF)


def _moments(width: int, epoch: int) -> Callable[[Values], pa.Array]:
    """A decoder of dates or times, whose epoch is `epoch` units after Arrow's."""

    def decode(values: Values) -> pa.Array:
        nulls, numbers = values.nulls(width), values.numbers(width)
        last = np.iinfo(numbers.dtype).max
        values.refuse((numbers > last - epoch) | (numbers < -last), "infinity, or too far in the future")
        return _array(values, nulls, numbers + numbers.dtype.type(epoch))

    return decode


def _times(values: Values) -> pa.Array:
    nulls, numbers = values.nulls(8), values.numbers(8)
    values.refuse(numbers >= _DAY, "24:00:00")
    return _array(values, nulls, numbers)


def _intervals(values: Values) -> pa.Array:
    nulls, micros = values.nulls(16), values.numbers(8)
    most = np.iinfo(np.int64).max // 1000
    values.refuse((micros > most) | (micros < -most), "more nanoseconds than 64 bits hold")
    parts = np.empty(len(micros), np.dtype([("months", "<i4"), ("days", "<i4"), ("nanos", "<i8")]))
    parts["months"], parts["days"], parts["nanos"] = values.numbers(4, 12), values.numbers(4, 8), micros * 1000
    return _array(values, nulls, parts)


def _texts(values: Values) -> pa.Array:
    cells = _cells(values)
    if np.frombuffer(cells.buffers()[2] or b"", np.uint8).max(initial=0) < 128:
        return cells.view(pa.large_string())  # ASCII needs no further check
    try:
        return cells.cast(pa.large_string(), memory_pool=POOL)
    except pa.ArrowInvalid as error:
        raise InvalidAnswer(f"the answer cannot be understood: {_not_utf8(cells) or one_line(error)}") from None


def _jsonb(values: Values) -> pa.Array:
    """JSON as text, behind a byte for its version."""
    there = values.lengths >= 0
    if (values.lengths == 0).any() or (values.numbers(1)[there] != 1).any():
        raise values.malformed()
    return _texts(values._replace(begins=values.begins + there, lengths=values.lengths - there))


def _cells(values: Values) -> pa.LargeBinaryArray:
    """The bytes of each value, copied out of the data: every second cell of those between all begins and ends."""
    begins, count = values.begins, len(values.begins)
    places = np.empty(2 * count + 1, np.int64)
    places[:-1:2], places[-1] = begins, len(values.data)
    np.add(begins, np.maximum(values.lengths, 0), out=places[1::2])
    null = values.lengths < 0
    wanted = pa.array(np.arange(0, 2 * count, 2), mask=null if null.any() else None)
    both = pa.Array.from_buffers(pa.large_binary(), 2 * count, [None, pa.py_buffer(places), pa.py_buffer(values.data)])
    return pc.take(both, wanted, boundscheck=False, memory_pool=POOL)


def _not_utf8(cells: pa.Array) -> str | None:
    """The error of decoding texts one by one, as a driver would report it."""
    for cell in cells:
        try:
            (cell.as_py() or b"").decode()
        except UnicodeDecodeError as error:
            return one_line(error)
    return None


def _uuids(values: Values) -> pa.Array:
    """In their usual form, 36 characters with dashes."""
    nulls = values.nulls(16)
    raw = np.frombuffer(values.data, np.uint8)[values.begins[:, None] + np.arange(16)]
    digits = _HEX[raw].reshape(len(raw), 32)
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    text[:, [place for place in range(36) if place not in _DASHES]] = digits
    ends = np.arange(len(raw) + 1, dtype=np.int64) * 36
    return pa.Array.from_buffers(pa.large_string(), len(raw), [nulls, pa.py_buffer(ends), pa.py_buffer(text)])


def _decimals(values: Values) -> pa.Array:
    """numeric(precision, scale): base-10000 digits, of which the first counts 10000^weight."""
    kind, there = values.column.type, values.lengths >= 0
    counts, weights = values.numbers(2).astype(np.int64), values.numbers(2, 2).astype(np.int64)
    signs = values.numbers(2, 4).astype(np.int64) & 0xFFFF
    counts[~there] = weights[~there] = signs[~there] = 0
    values.refuse(signs & 0x8000 != 0, "NaN or infinity")
    if (values.lengths[there] != 8 + 2 * counts[there]).any() or (counts < 0).any():
        raise values.malformed()
    most = int(counts.max(initial=0))
    digits = np.empty((most, len(counts)), np.int64)
    for place in range(most):
        digits[place] = integers(values.data, _within(values, 8 + 2 * place), 2)
        digits[place] *= counts > place
    if digits.size and not 0 <= digits.min() <= digits.max() < 10_000:
        raise values.malformed()
    values.refuse((weights > (kind.precision - kind.scale - 1) // 4) & (counts > 0), "too large")
    weights[counts == 0] = 0
    if kind.precision > _SMALL:
        return pa.array(_large(digits, weights, signs, there, kind.scale), kind)
    units = np.zeros(len(counts), np.int64)
    for place in range(most):
        # How many decimal places of the scale are behind this digit: below 0, its last ones are zeros.
        power = np.maximum(4 * (weights - place) + kind.scale, -4)
        if not place:  # all further digits together are less than one of this
            values.refuse(digits[0] > 10**kind.precision // _FACTORS[power], "too large")
        units += digits[place] // _DIVISORS[power] * _FACTORS[power]
    values.refuse(units >= 10**kind.precision, "too large")
    units[signs == 0x4000] *= -1
    wide = np.empty((len(units), 2), np.int64)
    wide[:, 0], wide[:, 1] = units, units >> 63
    nulls = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return _array(values, nulls, wide)


def _large(digits: Any, weights: Any, signs: Any, there: Any, scale: int) -> list[Any]:
    """Likewise as Python decimals, for more digits than 64 bits hold."""
    found = []
    parts = (digits.T.tolist(), weights.tolist(), signs.tolist(), there.tolist())
    for row, weight, sign, known in zip(*parts, strict=True):
        units = 0
        for digit in row:
            units = units * 10_000 + digit
        shift = max(4 * (weight + 1 - len(row)) + scale, -4 * len(row))
        units = units * 10**shift if shift >= 0 else units // 10**-shift  # the last digit may reach beyond the scale
        found.append(Decimal((int(sign == 0x4000), tuple(map(int, str(units))), -scale)) if known else None)
    return found


def _lists(values: Values) -> pa.Array:
    """Arrays of one dimension; an empty one has none."""
    there = values.lengths >= 0
    dimensions = np.where(there, values.numbers(4), 0)
    if ((values.lengths < 12) & there).any():
        raise values.malformed()
    values.refuse(dimensions > 1, "an array of several dimensions")
    counts = np.where(dimensions == 1, integers(values.data, _within(values, 12), 4), 0).astype(np.int64)
    ends = values.begins + np.maximum(values.lengths, 0)
    if (counts < 0).any() or (values.begins + 20 + 4 * counts > ends)[dimensions == 1].any():
        raise values.malformed()
    begins, lengths = np.empty(counts.sum(), np.int64), np.empty(counts.sum(), np.int64)
    firsts = np.cumsum(counts) - counts
    at, place = values.begins + 20, 0
    left = np.flatnonzero(counts > 0)
    while len(left):
        if (at[left] + 4 > ends[left]).any():
            raise values.malformed()
        size = integers(values.data, at[left], 4).astype(np.int64)
        begins[firsts[left] + place], lengths[firsts[left] + place] = at[left] + 4, size
        at[left] += 4 + np.maximum(size, 0)
        place += 1
        left = left[counts[left] > place]
    if (at != ends)[dimensions == 1].any() or (lengths < -1).any():
        raise values.malformed()
    column = replace(values.column, is_list=False)
    elements = decoded(Values(column, values.data, begins, lengths, values.before))
    offsets = np.append(firsts, counts.sum()).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array(~there) if not there.all() else None)


def _within(values: Values, offset: int) -> Places:
    """Positions behind the beginnings, none of them beyond the data."""
    return np.minimum(values.begins + offset, len(values.data) - len(PADDING))


_DECODERS: dict[int, Callable[[Values], pa.Array]] = {
    16: _bools,
    17: _cells,
    20: _fixed(8),
    21: _fixed(2),
    23: _fixed(4),
    26: _oids,
    700: _fixed(4),
    701: _fixed(8),
    1082: _moments(4, _DAYS),
    1083: _times,
    1114: _moments(8, _DAYS * _DAY),
    1184: _moments(8, _DAYS * _DAY),
    1186: _intervals,
    NUMERIC: _decimals,
    JSONB: _jsonb,
    UUID: _uuids,
}
"""By type OID; everything else is text."""
