"""Parses decimal numbers in canonical form, as `id_of` does, many at once: eight digits at a time.

Source: simdjson, `parse_eight_digits_unrolled`, and Sean Eron Anderson, "Bit Twiddling Hacks" (bytes above a bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit._types import INT64_MAX, INT64_MIN
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import inside
from labkit.shards.redis.layouts.byte_strings import ByteStrings, Flags, Offsets, cells, every, side_by_side
from labkit.shards.redis.layouts.rows import id_of
from labkit.tables import InvalidAnswer

__all__ = ["ids_inside", "numbers", "numbers_from", "numbers_of_one_width"]

_Numbers: TypeAlias = npt.NDArray[np.int64]
_Words: TypeAlias = npt.NDArray[np.uint64]

_MINUS, _ZERO, _ONE, _NINE = b"-019"
_DIGITS = b"0123456789"
_EACH = 0x0101010101010101
"""Multiplied by a byte: a 64-bit word with that byte eight times."""
_ZEROS = np.uint64(_ZERO * _EACH)


def numbers_from(texts: ByteStrings, offset: int = 0) -> tuple[_Numbers, Offsets, Flags]:
    """The numbers in the strings, from `offset` on; the positions after them; and flags for which are valid 64-bit
    numbers. For the others the first two are meaningless.
    """
    begins, ends = texts.starts + offset, texts.ends
    words = texts.words(offset)
    width = np.minimum(_digits(words), ends - begins)
    short = (width > 0) & (width < 8) & ((words & 0xFF != _ZERO) | (width == 1))
    found = _value((words ^ _ZEROS) << ((8 - width) * 8).astype(np.uint64))  # shorter ones get leading zeros
    stops = begins + width
    if not short.all():
        rest = np.flatnonzero(~short)
        found[rest], stops[rest], short[rest] = _long_numbers(texts, begins[rest], ends[rest])
    return found, stops, short


def numbers_of_one_width(texts: ByteStrings, offset: int) -> tuple[_Numbers, int] | None:
    """The numbers in the strings, from `offset` on, and where they stop, if all have as many digits: as many as the
    first one, sixteen at most. That is so for most IDs that ascend. What follows may be another digit.
    """
    first = texts[0][offset:] if len(texts) else b""
    width = len(first) - len(first.lstrip(_DIGITS))
    if not 0 < width <= 16 or (texts.ends - texts.starts).min() < offset + width:
        return None
    found = np.zeros(len(texts), np.int64)
    for count in [width] if width <= 8 else [width - 8, 8]:
        digits = (texts.words(offset) ^ _ZEROS) << np.uint64(8 * (8 - count))
        if _above_nine(digits).any():
            return None
        found = _value(digits) if count == width else found * 10**8 + _value(digits)
        offset += count
    return (found, offset) if width == 1 or found.min() >= 10 ** (width - 1) else None


def numbers(words: Sequence[Any] | ByteStrings) -> _Numbers | None:
    """IDs in decimal as int64; None if one is not bytes, too large, or not in canonical form."""
    if isinstance(words, ByteStrings):
        texts: ByteStrings | None = words
    else:
        texts = side_by_side(words) if set(map(type, words)) <= {bytes} else None
    if texts is None:
        return None
    found, stops, good = numbers_from(texts)
    return found if good.all() and np.array_equal(stops, texts.ends) else None


def ids_inside(words: Sequence[Any] | ByteStrings, ask: Ask) -> tuple[_Numbers, Offsets]:
    """The IDs in the window of `ask`, and their positions in `words`, which must be IDs in decimal.

    Raises `InvalidAnswer` for the first that is not, and for one in the window that does not fit in 64 bits.
    """
    ids = numbers(words)
    if ids is None:
        return _of_any(list(map(id_of, words)), ask)
    low, high = INT64_MIN if ask.low is None else ask.low, INT64_MAX if ask.high is None else ask.high
    places = np.flatnonzero((ids >= low) & (ids <= high))
    return ids[places], places


def _of_any(ids: list[int], ask: Ask) -> tuple[_Numbers, Offsets]:
    """The same for integers, which may exceed 64 bits outside the window."""
    places = [place for place, row_id in enumerate(ids) if inside(row_id, ask)]
    for row_id in (ids[place] for place in places):
        if not INT64_MIN <= row_id <= INT64_MAX:
            raise InvalidAnswer(f"id {row_id} does not fit in 64 bits")
    return np.array([ids[place] for place in places], np.int64), np.array(places, np.int64)


def _digits(words: _Words) -> Offsets:
    """How many of the eight bytes, from the first on, are digits."""
    others = _above_nine(words ^ _ZEROS)
    width: Offsets = (np.bitwise_count(~others & (others - 1)) >> 3).astype(np.int64)
    return width


def _above_nine(digits: _Words) -> _Words:
    """A bit for the first byte above nine, and perhaps for some after it."""
    found = digits + 0x76 * _EACH
    found |= digits
    found &= 0x80 * _EACH
    return found


def _value(digits: _Words) -> _Numbers:
    """The number of eight digits, the first in the lowest byte. Overwrites them."""
    digits *= 2561
    digits >>= 8
    digits &= 0x00FF00FF00FF00FF
    digits *= 6553601
    digits >>= 16
    digits &= 0x0000FFFF0000FFFF
    digits *= 42949672960001
    digits >>= 32
    return digits.view(np.int64)


def _long_numbers(texts: ByteStrings, begins: Offsets, ends: Offsets) -> tuple[_Numbers, Offsets, Flags]:
    """Numbers of any length, with a sign or without."""
    negative = texts.data[begins] == _MINUS
    firsts = begins + negative
    stops = firsts
    for _ in range(3):  # 64 bits have 19 digits at most; one that goes on is too large
        stops = stops + _digits(every("<u8", texts.data)[stops])
    stops = np.maximum(begins, np.minimum(stops, ends))
    leading = texts.data[firsts]
    good = ((leading >= _ONE) & (leading <= _NINE)) | ((leading == _ZERO) & (stops == firsts + 1) & ~negative)
    good &= stops > firsts
    column = cells(texts, begins, stops, ~good)
    try:
        return column.cast(pa.large_string()).cast(pa.int64()).fill_null(0).to_numpy(), stops, good
    except pa.ArrowInvalid:  # it does not report which are too large
        values = [int(value or 0) for value in column.to_pylist()]
        good &= [INT64_MIN <= value <= INT64_MAX for value in values]
        return np.array([value if ok else 0 for value, ok in zip(values, good, strict=True)], np.int64), stops, good
