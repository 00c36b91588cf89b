"""Many byte strings side by side in one buffer, so that numpy and Arrow look at all of them at once, and cut them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Flags", "Places", "Texts", "cells", "side_by_side"]

Places: TypeAlias = npt.NDArray[np.int64]
"""Positions in the buffer, in bytes."""
Flags: TypeAlias = npt.NDArray[np.bool_]

_TAIL = b" " * 64
"""Behind the last text, so that one may look some bytes beyond any of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Text number i is `data[starts[i]:ends[i]]`, in bytes; it ends where the next one starts."""

    data: npt.NDArray[np.uint8]
    starts: Places
    ends: Places

    def owners(self, places: Places) -> Places:
        """The numbers of the texts that those places lie in."""
        return np.searchsorted(self.ends, places, side="right")


def side_by_side(words: Sequence[Any]) -> Texts | None:
    """All words in one buffer; None where one of them is no text at all."""
    try:
        column = pa.array([*words, _TAIL], pa.large_binary())
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        return None
    if column.null_count:
        return None
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int64)
    return Texts(np.frombuffer(data, np.uint8), places[:-2], places[1:-1])


def cells(texts: Texts, begins: Places, stops: Places, null: Flags) -> pa.LargeStringArray:
    """What lies between those places, which ascend in pairs: every second cell of a column that holds the rest too."""
    count = len(begins)
    offsets = np.empty(2 * count + 1, np.int64)
    offsets[:-1:2], offsets[1::2], offsets[-1] = begins, stops, len(texts.data)
    both = pa.LargeStringArray.from_buffers(2 * count, pa.py_buffer(offsets), pa.py_buffer(texts.data))
    return both.take(pa.array(np.arange(0, 2 * count, 2), mask=null if null.any() else None))
