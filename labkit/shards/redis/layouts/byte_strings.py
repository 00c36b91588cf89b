"""Many byte strings in one buffer, so that numpy and Arrow can scan and slice all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "FRONT",
    "TAIL",
    "ByteStrings",
    "Flags",
    "Fronts",
    "Many",
    "Offsets",
    "cells",
    "every",
    "pieces_of",
    "side_by_side",
]

Offsets: TypeAlias = npt.NDArray[np.int64]
"""Positions in the buffer, in bytes."""
Flags: TypeAlias = npt.NDArray[np.bool_]

FRONT = 24
"""Enough for a header of RESP, a bracket, an id of sixteen digits, a comma and a quote."""
TAIL = b" " * 64
"""Padding after the last string, so that reads may run some bytes beyond any string."""


@dataclass(frozen=True, slots=True, eq=False)
class Fronts:
    """Of each string, `FRONT` bytes around its beginning, which is behind `offset` of them.

    numpy takes as long to gather so many bytes as to gather two, and six times as long as for one.
    """

    windows: npt.NDArray[np.void]
    offset: int

    def field(self, kind: str, offset: int) -> npt.NDArray[Any]:
        """The number of a type such as "<u8" in each string, from `offset` on."""
        return np.ndarray(self.windows.shape, kind, self.windows, self.offset + offset, self.windows.strides)


@dataclass(frozen=True, slots=True, eq=False)
class ByteStrings:
    """String i is `data[starts[i]:ends[i]]`; they ascend, and at least `TAIL` follows the last one."""

    data: npt.NDArray[np.uint8]
    starts: Offsets
    ends: Offsets
    fronts: Fronts | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, which: int) -> bytes: ...
    @overload
    def __getitem__(self, which: slice) -> ByteStrings: ...
    def __getitem__(self, which: int | slice) -> bytes | ByteStrings:
        """One string, or a slice that shares the buffer."""
        if isinstance(which, slice):
            fronts = None if self.fronts is None else Fronts(self.fronts.windows[which], self.fronts.offset)
            return ByteStrings(self.data, self.starts[which], self.ends[which], fronts)
        return self.data[self.starts[which] : self.ends[which]].tobytes()

    def words(self, offset: int) -> npt.NDArray[np.uint64]:
        """The eight bytes of each string, or beyond it, from `offset` on as a little-endian number."""
        if self.fronts is not None and self.fronts.offset + offset + 8 <= FRONT:
            return self.fronts.field("<u8", offset)
        words: npt.NDArray[np.uint64] = every("<u8", self.data)[self.starts + offset]
        return words

    def at(self, places: Offsets) -> ByteStrings:
        """The strings at ascending `places`, sharing the buffer."""
        return ByteStrings(self.data, self.starts[places], self.ends[places])

    def __iter__(self) -> Iterator[bytes]:
        data = self.data.tobytes()
        return (data[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True))


class Many:
    """Elements that were parsed in pieces, each but the last with an even number of them."""

    def __init__(self, pieces: list[list[Any] | ByteStrings]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.pieces)


def pieces_of(elements: list[Any] | ByteStrings | Many, size: int) -> Iterator[list[Any] | ByteStrings]:
    """The elements, at most `size` at a time; if `size` is even, all parts but the last are too. Empties a `Many` as it
    goes, to free memory early.
    """
    pieces = elements.pieces[::-1] if isinstance(elements, Many) else [elements]
    if isinstance(elements, Many):
        elements.pieces.clear()
    while pieces:
        piece = pieces.pop()
        for start in range(0, len(piece), size):
            yield piece[start : start + size]


def every(kind: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """What is at every byte offset, of a type such as "<u8": a number of eight bytes, little-endian."""
    return np.ndarray(len(data) - np.dtype(kind).itemsize + 1, kind, data, strides=(1,))


def side_by_side(words: Sequence[Any]) -> ByteStrings | None:
    """All words in one buffer; None if one is neither bytes nor text."""
    try:
        column = pa.array([*words, TAIL], pa.large_binary())
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        return None
    if column.null_count:
        return None
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int64)
    return ByteStrings(np.frombuffer(data, np.uint8), places[:-2], places[1:-1])


def cells(texts: ByteStrings, begins: Offsets, stops: Offsets, null: Flags | None) -> pa.LargeBinaryArray:
    """The bytes from each of `begins` to its stop, ascending pairs, as a column with its own buffer."""
    count = len(begins)
    offsets = np.empty(2 * count + 1, np.int64)
    offsets[:-1:2], offsets[1::2], offsets[-1] = begins, stops, len(texts.data)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts.data)]
    both = pa.Array.from_buffers(pa.large_binary(), 2 * count, buffers)
    return both.take(pa.array(np.arange(0, 2 * count, 2), mask=null))  # every second cell; the others are the gaps
