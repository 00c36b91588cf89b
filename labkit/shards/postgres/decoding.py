"""Decodes values in Postgres' binary format into Arrow columns, without a Python object per value.

A column of values is given by where each begins in the received bytes, and by its length (-1 is NULL). numpy gathers
and converts all of them at once. Gathering a window of 64 bytes takes as long as gathering one number, so values that
are next to each other in every row are gathered together.
Source of the formats: PostgreSQL, the send functions of the types (`numeric.c`, `timestamp.c`, `arrayfuncs.c`, …).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labkit.shards.failures import one_line
from labkit.shards.postgres.columns import JSONB, NUMERIC, UUID, Column
from labkit.shards.postgres.messages import Places
from labkit.tables import InvalidAnswer

__all__ = ["PADDING", "POOL", "WIDTHS", "Values", "decoded", "field", "gathered"]

PADDING = bytes(64)
"""Behind the bytes, so that a window that begins in them never ends beyond them; none is wider."""
WIDTHS = {16: 1, 20: 8, 21: 2, 23: 4, 26: 4, 700: 4, 701: 8, 1082: 4, 1083: 8, 1114: 8, 1184: 8, 1186: 16, UUID: 16}
"""Bytes of a value, by type OID, of the types that have the same for all."""

POOL = pa.jemalloc_memory_pool() if "jemalloc" in pa.supported_memory_backends() else pa.system_memory_pool()
"""Arrow's default, mimalloc, keeps the excess of overallocated buffers: 50 % more memory, measured."""
_DAYS = 10_957
"""From 1970-01-01, Arrow's epoch, to 2000-01-01, Postgres'."""
_DAY = 86_400 * 10**6
"""Microseconds."""
_SMALL = 18
"""Digits of a decimal that fit in 64 bits."""
_GROUPS = 11
"""Most base-10000 digits of a decimal with the 38 digits that Arrow's has."""
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
_DASHES = (8, 13, 18, 23)
"""Where they are in the text of a UUID."""


class Values(NamedTuple):
    """The values of one column in some bytes, which end in `PADDING`."""

    column: Column
    data: bytes
    places: Places
    offset: int
    """How many bytes behind the places the values begin."""
    lengths: Places
    before: int
    """How many rows precede these in the answer, for messages."""
    window: Any = None
    """The bytes at the places, if they were gathered together and include the values."""

    @property
    def begins(self) -> Places:
        """Where the values begin."""
        return self.places + self.offset

    def malformed(self) -> InvalidAnswer:
        return InvalidAnswer(f"the data of column {self.column.name} is malformed")

    def refuse(self, wrong: npt.NDArray[np.bool_], what: str) -> None:
        """Raises for the first value that is not NULL and that the Arrow type cannot hold."""
        if wrong.any() and (wrong := wrong & (self.lengths >= 0)).any():
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
        offset += self.offset
        if self.window is not None:
            return field(self.window, offset, f">i{width}").astype(f"=i{width}")
        return gathered(self.data, self.places, f"<i{width}", offset).byteswap(inplace=True)


def decoded(values: Values) -> pa.Array:
    """The values as an Arrow column.

    Raises `InvalidAnswer` for what the Arrow type cannot hold, and for malformed bytes.
    """
    if not len(values.lengths):
        return pa.array([], values.column.field.type)
    if values.column.is_list:
        return _lists(values)
    return _DECODERS.get(values.column.oid, _texts)(values)


def gathered(data: bytes, places: Places, kind: str, offset: int = 0) -> Any:
    """What is `offset` bytes behind each of the places: `kind` is a number, or a window of bytes such as `V40`. Raises
    IndexError beyond the data.
    """
    size = np.dtype(kind).itemsize
    everywhere: Any = np.ndarray((max(0, len(data) - offset - size + 1),), kind, data, offset, (1,))
    return everywhere[places]


def field(windows: Any, offset: int, kind: str) -> Any:
    """What is in the windows, `offset` bytes behind their beginnings."""
    return np.ndarray(windows.shape, kind, windows, offset, windows.strides)


def _fixed(width: int) -> Callable[[Values], pa.Array]:
    """A decoder of numbers that are in Arrow as they are in Postgres."""

    def decode(values: Values) -> pa.Array:
        return _array(values, values.nulls(width), values.numbers(width))

    return decode


def _array(values: Values, nulls: Any, numbers: Any) -> pa.Array:
    return pa.Array.from_buffers(values.column.type, len(values.lengths), [nulls, pa.py_buffer(numbers)])


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
    return _texts(values._replace(places=values.places + there, lengths=values.lengths - there))


def _cells(values: Values) -> pa.LargeBinaryArray:
    """The bytes of each value, copied out of the data: every second cell of those between all begins and ends."""
    count, lengths = len(values.lengths), values.lengths
    nulls = None
    if int(lengths.min()) < 0:
        there = lengths >= 0
        nulls, lengths = pa.py_buffer(np.packbits(there, bitorder="little")), lengths * there
    places = np.empty(2 * count + 1, np.int64)
    places[-1] = len(values.data)
    np.add(values.places, values.offset, out=places[:-1:2])
    np.add(places[:-1:2], lengths, out=places[1::2])
    both = pa.Array.from_buffers(pa.large_binary(), 2 * count, [None, pa.py_buffer(places), pa.py_buffer(values.data)])
    cells = pc.take(both, pa.array(np.arange(0, 2 * count, 2)), boundscheck=False, memory_pool=POOL)
    return pa.Array.from_buffers(pa.large_binary(), count, [nulls, *cells.buffers()[1:]]) if nulls else cells


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
    windows = gathered(values.data, values.places, "V16", values.offset)
    raw = windows.view(np.uint8).reshape(len(windows), 16)
    digits = _HEX[raw].reshape(len(raw), 32)
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    text[:, [place for place in range(36) if place not in _DASHES]] = digits
    ends = np.arange(len(raw) + 1, dtype=np.int64) * 36
    return pa.Array.from_buffers(pa.large_string(), len(raw), [nulls, pa.py_buffer(ends), pa.py_buffer(text)])


def _decimals(values: Values) -> pa.Array:
    """numeric(precision, scale): base-10000 digits, of which the first counts 10000^weight."""
    kind, there = values.column.type, values.lengths >= 0
    values.refuse(values.lengths > 8 + 2 * _GROUPS, "too large")
    most = max(0, int(values.lengths.max()) - 8) // 2
    windows = gathered(values.data, values.places, f"V{8 + 2 * most}", values.offset)
    counts, weights, signs = (
        field(windows, at, sort).astype(np.int64) for at, sort in ((0, ">i2"), (2, ">i2"), (4, ">u2"))
    )
    all_there = bool(there.all())
    if not all_there:
        counts[~there] = weights[~there] = signs[~there] = 0
    values.refuse(signs & 0x8000 != 0, "NaN or infinity")
    right = values.lengths == 8 + 2 * counts
    if not (right if all_there else right | ~there).all() or counts.min() < 0:
        raise values.malformed()
    values.refuse((weights > (kind.precision - kind.scale - 1) // 4) & (counts > 0), "too large")
    weights *= counts > 0
    digits = [field(windows, 8 + 2 * place, ">u2") * (counts > place) for place in range(most)]
    behind = -(-kind.scale // 4)  # base-10000 digits behind the point
    if any(some.max() >= 10_000 for some in digits) or weights.min() < -behind:
        raise values.malformed()
    if kind.precision > _SMALL:
        table = np.array(digits).reshape(most, len(counts))
        return pa.array(_large(table, weights, signs, there, kind.scale), kind)
    units = _units(values, digits, weights + behind, 4 * behind - kind.scale)
    wide = np.empty((len(units), 2), np.int64)
    negative = signs == 0x4000
    if negative.any():
        units[negative] *= -1
    wide[:, 0], wide[:, 1] = units, units >> 63
    nulls = None if all_there else pa.py_buffer(np.packbits(there, bitorder="little"))
    return _array(values, nulls, wide)


def _units(values: Values, digits: list[Any], exponents: Any, spare: int) -> Any:
    """Decimals of at most `_SMALL` digits, without their points and signs. The exponent of a first digit is how many
    base-10000 digits the column has room for behind it; the last of them has `spare` decimal places too many, zeros.
    """
    precision = values.column.type.precision
    powers = [4 * exponent - spare for exponent in range((precision + spare - 1) // 4 + 1)]
    factors = np.array([10**power if power >= 0 else 0 for power in powers] + _GROUPS * [0], np.int64)
    most, units, last = int(factors.max()), np.zeros(len(exponents), np.int64), np.zeros(len(exponents), np.int64)
    for place, some in enumerate(digits):
        exponent = exponents - place  # a negative one, of a digit that the value does not have, finds a zero at the end
        factor = factors[exponent]
        if not place and most > (1 << 63) // 10_000:  # all further digits together are less than one of this
            values.refuse(some > (10**precision // np.maximum(factors, 1))[exponent], "too large")
        units += some * factor
        if spare:
            last += some * (exponent == 0)
    if spare:
        units += last // 10**spare
    values.refuse(units >= 10**precision, "too large")
    return units


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
    counts = np.where(dimensions == 1, values.numbers(4, 12), 0).astype(np.int64)
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
        size = gathered(values.data, at[left], "<i4").byteswap().astype(np.int64)
        begins[firsts[left] + place], lengths[firsts[left] + place] = at[left] + 4, size
        at[left] += 4 + np.maximum(size, 0)
        place += 1
        left = left[counts[left] > place]
    if (at != ends)[dimensions == 1].any() or (lengths < -1).any():
        raise values.malformed()
    column = replace(values.column, is_list=False)
    elements = decoded(Values(column, values.data, begins, 0, lengths, values.before))
    offsets = np.append(firsts, counts.sum()).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array(~there) if not there.all() else None)


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
