"""Validates the messages of a Postgres server before asyncpg reads them.

asyncpg trusts what a message says about itself. On kind 0 it loops for ever, holding the GIL; on a length below 4 it
reads backwards, or copies until the process crashes; on an unterminated text it reads into the next message, and takes
what follows for a kind and a length. No deadline helps. None of this happens with messages of the kinds, lengths and
shapes accepted here.
Sources: PostgreSQL documentation, "Message Formats"; asyncpg 0.32, `pgproto/buffer.pyx` and `protocol/coreproto.pyx`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["TEXT_LIMIT", "Messages", "Piece", "Places", "check", "whole"]

Places: TypeAlias = npt.NDArray[np.int64]
"""Positions in bytes, or lengths."""

TEXT_LIMIT = 1 << 16
"""Most bytes of a text message: an error, a notice, a notification. asyncpg copies all of it again for each piece that
arrives, on the event loop."""
_SLAB = 1 << 17
"""Bytes that are validated at a time, one by one or by a leap; they fit in a CPU cache."""
_LEAP = 1 << 12
"""Bytes from which on a leap is faster than a walk."""
_STRING = rb"[^\0]*+\0"
_STRINGS = rb"(?:[^\0]++\0)*+\0"
_SHAPES = {
    b"A": rb".{4}" + 2 * _STRING,
    b"C": _STRING,
    b"E": _STRINGS,
    b"K": rb".{8}",
    b"N": _STRINGS,
    b"R": rb"\0\0\0(?:\x05.{4}|\x0a" + _STRINGS + rb"|[^\x05\x0a])|(?!\0\0\0).{4}",
    b"S": 2 * _STRING,
    b"Z": rb".",
}
"""The content that asyncpg reads without checking where the message ends, by kind of message."""
_PATTERNS = {kind[0]: re.compile(shape, re.DOTALL) for kind, shape in _SHAPES.items()}
_ROWS = b"Dd"
_MOST = (1 << 31) - 1
_LEAST = [_MOST + 1] * 256
"""The least length in the header of each kind of message, which includes its own 4 bytes. A row is never empty."""
for _kind in b"ACEGHIKNRSTVWZcnstv123":
    _LEAST[_kind] = 4
_LEAST[_ROWS[0]], _LEAST[_ROWS[1]] = 6, 5
_head = struct.Struct(">BI").unpack_from


def whole(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The complete messages, each with the position of its end; not validated."""
    begin = 0
    while len(data) >= begin + 5:
        end = begin + 1 + max(4, int.from_bytes(data[begin + 1 : begin + 5], signed=True))
        if len(data) < end:
            return
        yield data[begin:end], end
        begin = end


def check(message: bytes) -> bytes:
    """This complete message; `ValueError` if asyncpg would fail on it."""
    _walked(message, 0, len(message))
    return message


class Piece(NamedTuple):
    """The bytes of some messages, cut anywhere but inside a head or a text."""

    data: bytes
    begins: list[Sequence[int] | Places]
    """Where messages begin in the bytes, in order. What is before the first belongs to a message that began earlier."""
    following: int
    """Where the next message begins: beyond the bytes if the last one is incomplete."""


class Messages:
    """The messages of one connection, which begin with the first byte given to `follow`."""

    def __init__(self) -> None:
        self._held, self._coming = b"", 0

    def follow(self, data: bytes) -> Piece:
        """Takes the next bytes, cut anywhere; returns what is valid of them, and of those that were held back before.
        `ValueError` says what is wrong with a message.
        """
        at, begins = self._coming, []
        if self._held:
            data, at = self._held + data, 0
        for stop in range(at + _SLAB, len(data) + _SLAB, _SLAB):
            for found in (_leapt, _walked):
                some = found(data, at, stop)
                at = int(some[-1])
                if len(some) > 1:
                    begins.append(some[:-1])
        self._held, self._coming = data[at:], max(0, at - len(data))
        return Piece(data[:at], begins, at)


def _walked(data: bytes, at: int, stop: int) -> list[int]:
    """Validates messages from `at` on, one by one. Returns where they begin, and the first at `stop` or beyond, or
    still incomplete.
    """
    stop, begins = min(stop, len(data) - 4), [at]
    while at < stop:
        kind, length = _head(data, at)
        if not _LEAST[kind] <= length <= _MOST:
            raise ValueError(f"a message of kind {chr(kind)!r} and {length} bytes")
        end = at + 1 + length
        if kind in _PATTERNS:
            if length > TEXT_LIMIT:
                raise ValueError(f"a message of kind {chr(kind)!r} of more than {TEXT_LIMIT} bytes, the limit")
            if end > len(data):
                break
            if not _PATTERNS[kind].match(data, at + 5, end):
                raise ValueError(f"a message of kind {chr(kind)!r} that ends in the middle")
        at = end
        begins.append(at)
    return begins


def _leapt(data: bytes, at: int, stop: int) -> Sequence[int] | Places:
    """Like `_walked`, but for many consecutive rows at once; stops early at anything unlike the row at `at`.

    A row may begin wherever the kind and the number of columns match. Each must end where the next one begins. The last
    but one is left to `_walked`: in a row that is too short, the next head, a kind or 0, would be in the place of that
    number.
    """
    count = min(stop, len(data) - 7) - at
    if count < _LEAP or data[at] not in _ROWS or data[at + 6] in (0, data[at]):
        return [at]
    byte = np.frombuffer(data, np.uint8, count + 6, at)
    likely = byte[:count] == data[at]
    likely &= byte[6:] == data[at + 6]
    begins = likely.nonzero()[0]
    if len(begins) < 2:
        return [at]
    words: Any = np.ndarray((count,), "<i8", data, at, (1,))  # each byte with the seven after it
    ends = words[begins].byteswap(inplace=True)
    ends >>= 24  # leaves the kind and the length
    ends += begins
    ends -= (data[at] << 32) - 1
    right = ends[:-1] == begins[1:]
    if not right.all():
        # Other bytes may look like the start of a row, but hardly ever does a row end there.
        ended = np.zeros(count, np.bool_)
        ended[ends[(ends > 0) & (ends < count)]] = ended[0] = True
        there = ended[begins]
        begins, ends = begins[there], ends[there]
        if len(begins) < 2:
            return [at]
        right = ends[:-1] == begins[1:]
    wrong = right.argmin()
    last = len(right) if right[wrong] else int(wrong)
    found: Places = begins[: max(1, last)] + at
    return found
