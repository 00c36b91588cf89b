"""Types shared by all of labkit: shard keys and ID ranges."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

__all__ = ["INT64_MAX", "INT64_MIN", "Range", "Ranges", "ShardKey", "Span", "shown_ranges"]

ShardKey: TypeAlias = Hashable
Range: TypeAlias = tuple[int, int]
"""(low, high), both ends inclusive."""
Ranges: TypeAlias = tuple[Range, ...]
Span: TypeAlias = tuple[int, int, ShardKey]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
SHOWN = 100
"""Most ranges that a `repr` shows."""


def shown_ranges(ranges: Sequence[Range]) -> str:
    """Their `repr`, cut after the first `SHOWN`."""
    text = repr(ranges[:SHOWN])
    return text if len(ranges) <= SHOWN else f"{text[:-1]}, … {len(ranges) - SHOWN:,} more{text[-1]}"
