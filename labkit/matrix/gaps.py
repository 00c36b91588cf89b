"""Ranges of IDs, both ends inclusive, that say what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from labkit._types import Ranges

__all__ = ["normal", "without"]


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same IDs in ascending ranges that neither overlap nor touch."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def without(ranges: Ranges, others: Ranges) -> Ranges:
    """The IDs of `ranges` that are not in `others`; both are `normal`, and so is what comes."""
    left: list[tuple[int, int]] = []
    for low, high in ranges:
        for start, end in others:
            if end >= low and start <= high:
                if start > low:
                    left.append((low, start - 1))
                low = end + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)
