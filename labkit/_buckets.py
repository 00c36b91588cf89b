"""Looking up in many ascending numbers: equal buckets over their extent say where bisection begins.

Bisection alone goes to memory at every step: measured, 2 to 3 µs for a random ID among 100,000 ranges.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["BucketIndex"]

FEW = 64
"""Numbers that bisection finds as quickly alone."""
STEPS = 4
"""Numbers in a bucket up to which all of a column are counted through at once."""
ONE_BY_ONE = 16
"""Largest bucket that a single look-up scans linearly; with four buckets per start, most hold one entry."""


class BucketIndex:
    """For ascending numbers of 64 bits: which is the last that is not above a given one.

    There are up to four buckets a number, of a power of two each; for numbers that lie very unevenly it is bisection.
    """

    __slots__ = ("_firsts_array", "_least", "_shift", "_starts", "_starts_array", "_steps", "_top", "place")

    place: Callable[[int], int]
    """The position of the last start that is not above a number; -1 where all are."""

    def __init__(self, starts: array[int]) -> None:
        self._starts = starts
        self._starts_array = np.array(starts, dtype=np.int64)
        self._least = starts[0]
        extent = starts[-1] - starts[0]
        self._shift = max(0, (extent // (2 * len(starts))).bit_length() - 1)
        self._top = (extent >> self._shift) if len(starts) > FEW and extent < 2**62 else -1
        """The last bucket; -1 where there are none."""
        buckets = np.arange(self._top + 2, dtype=np.int64) << self._shift
        self._firsts_array = np.searchsorted(self._starts_array, buckets + self._least, side="right") - 1
        self._steps = int(np.diff(self._firsts_array).max(initial=0))
        self.place = self._placer()

    def places(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """The same as `place` for each of `numbers`."""
        starts = self._starts_array
        if self._top < 0 or self._steps > STEPS:
            below: npt.NDArray[np.intp] = np.searchsorted(starts, numbers, side="right")
            return below - 1
        inside = np.clip(numbers, self._least, starts[-1])
        found: npt.NDArray[np.intp] = self._firsts_array[(inside - self._least) >> self._shift]
        following = np.append(starts[1:], starts[-1])
        for _ in range(self._steps):
            found += following[found] <= inside
        np.minimum(found, len(starts) - 1, out=found)
        found[numbers < self._least] = -1
        return found

    def _placer(self) -> Callable[[int], int]:
        """A function that has all it needs at hand: to look up attributes would take a third of its time."""
        starts, least, shift, top = self._starts, self._least, self._shift, self._top
        firsts: array[int] = array("i", self._firsts_array.tolist())

        def counted(number: int) -> int:
            bucket = (number - least) >> shift
            if not 0 <= bucket <= top:
                return bisect_right(starts, number) - 1
            last = firsts[bucket + 1]
            while starts[last] > number:
                last -= 1
            return last

        def halved(number: int) -> int:
            bucket = (number - least) >> shift
            if not 0 <= bucket <= top:
                return bisect_right(starts, number) - 1
            return bisect_right(starts, number, firsts[bucket] + 1, firsts[bucket + 1] + 1) - 1

        return counted if self._steps <= ONE_BY_ONE else halved
