"""Merging: ranges are disjoint, so the ordered merge is slices put in range order. No sort, no comparison, no copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from labkit.answer import SCHEMA, id_chunks, slices
from labkit.few import Few, as_table, in_order
from labkit.router import Ranges, ShardKey

__all__ = ["join", "merge"]


def merge(plan: Mapping[Any, Ranges], answers: Mapping[Any, pa.Table | Few]) -> pa.Table:
    """The rows of `answers` (checked, ascending) as one table ascending by id.

    `plan` holds the ranges asked of each shard; a shard without an answer adds nothing.
    """
    if all(isinstance(rows, Few) for rows in answers.values()):
        return in_order((plan[shard], rows) for shard, rows in answers.items())
    pieces: list[tuple[int, pa.Table]] = []
    for shard, rows in answers.items():
        ranges, table = plan[shard], as_table(rows)
        if len(ranges) == 1:
            pieces.append((ranges[0][0], table))
            continue
        for (low, _), (start, stop) in zip(ranges, slices(id_chunks(table), ranges), strict=True):
            if stop > start:
                pieces.append((low, table.slice(start, stop - start)))
    pieces.sort(key=lambda piece: piece[0])
    return pa.concat_tables([table for _, table in pieces]) if pieces else SCHEMA.empty_table()


def join(plan: Mapping[Any, Ranges], shards: Iterable[ShardKey]) -> Ranges:
    """The ranges of `shards` in `plan`, ascending, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(pair for shard in shards for pair in plan[shard]):
        if joined and joined[-1][1] + 1 == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return tuple(joined)
