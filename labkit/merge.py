"""Merging: ranges are disjoint, so the ordered merge is slices put in range order. No sort, no comparison, no copy.

Very many slices would be a table of as many chunks: of those the rows are copied, block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.answer import SCHEMA, id_chunks, slices
from labkit.few import Few, as_table, in_order
from labkit.router import Ranges, ShardKey, to_bounds

__all__ = ["join", "merge", "merged"]

SLICES = 1024
"""Slices up to which a table is made of them as they are."""
BLOCK = 65_536
"""Rows that are copied at a stretch: some milliseconds."""

Pieces = npt.NDArray[np.int64]
"""Rows of: low of the range, number of the table, start and stop of its rows there."""


def merge(plan: Mapping[Any, Ranges], answers: Mapping[Any, pa.Table | Few]) -> pa.Table:
    """The rows of `answers` (checked, ascending) as one table ascending by id.

    `plan` holds the ranges asked of each shard; a shard without an answer adds nothing.
    """
    return pa.concat_tables(merged(plan, answers))


def merged(plan: Mapping[Any, Ranges], answers: Mapping[Any, pa.Table | Few]) -> Iterator[pa.Table]:
    """The same table in parts, each of which takes some milliseconds; at least one."""
    if all(isinstance(rows, Few) for rows in answers.values()):
        yield in_order((plan[shard], rows) for shard, rows in answers.items())
        return
    tables: list[pa.Table] = []
    found: list[Pieces] = []
    for shard, rows in answers.items():
        tables.append(as_table(rows))
        found.append(_pieces(plan[shard], tables[-1], len(found)))
        if len(plan[shard]) > SLICES:
            yield SCHEMA.empty_table()
    pieces = np.concatenate(found)
    pieces = pieces[np.argsort(pieces[:, 0], kind="stable")]
    if len(pieces) > SLICES:
        yield from (_copied(tables, block) for block in _blocks(pieces))
    else:
        slices = [tables[number].slice(start, stop - start) for _, number, start, stop in pieces.tolist()]
        yield pa.concat_tables(slices) if slices else SCHEMA.empty_table()


def _pieces(ranges: Ranges, table: pa.Table, number: int) -> Pieces:
    """The rows of each range that has any."""
    bounds = to_bounds(ranges)
    starts, stops = slices(id_chunks(table), bounds)
    return np.column_stack([bounds[:, 0], np.full(len(bounds), number), starts, stops])[stops > starts]


def _blocks(pieces: Pieces) -> list[Pieces]:
    """Of about `BLOCK` rows each; what has more by itself stands alone."""
    rows = pieces[:, 3] - pieces[:, 2]
    large, number = rows >= BLOCK, np.cumsum(rows) // BLOCK
    return np.split(pieces, np.flatnonzero(np.diff(number) | large[1:] | large[:-1]) + 1)


def _copied(tables: list[pa.Table], pieces: Pieces) -> pa.Table:
    """Their rows in order. What they take of one table lies together there, since both ascend."""
    if len(pieces) == 1:
        ((_, number, start, stop),) = pieces.tolist()
        return tables[number].slice(start, stop - start)
    _, numbers, starts, stops = pieces.T
    used, first, place = np.unique(numbers, return_index=True, return_inverse=True)
    last = len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]
    begin, rows = starts[first], stops[last] - starts[first]
    parts = [tables[n].slice(b, r) for n, b, r in zip(used.tolist(), begin.tolist(), rows.tolist(), strict=True)]
    shift = np.cumsum(rows) - rows - begin
    counts = stops - starts
    taken = np.arange(counts.sum()) + np.repeat(starts + shift[place] - (np.cumsum(counts) - counts), counts)
    return pa.concat_tables(parts).combine_chunks().take(taken)


def join(plan: Mapping[Any, Ranges], shards: Iterable[ShardKey]) -> Ranges:
    """The ranges of `shards` in `plan`, ascending, those that touch made one."""
    asked = [plan[shard] for shard in shards]
    if not asked:
        return ()
    bounds = np.concatenate([to_bounds(ranges) for ranges in asked])
    order = np.argsort(bounds[:, 0], kind="stable")  # quick, of runs that ascend
    lows, highs = bounds[order].T
    apart = lows[1:] - 1 != highs[:-1]
    if len(asked) == 1 and apart.all() and (order[1:] > order[:-1]).all():
        return asked[0]
    begin, end = np.append(True, apart)[: len(lows)], np.append(apart, True)[: len(lows)]
    return tuple(zip(lows[begin].tolist(), highs[end].tolist(), strict=True))
