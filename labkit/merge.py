"""Merging: ranges are disjoint, so the ordered merge puts slices in range order. No sort, no comparison, no copy.

Very many slices would make a table of very many chunks, so their rows are copied, block by block. Tables are merged if
their columns agree: see `agreed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit._types import Range, Ranges, ShardKey
from labkit.answer import STEP, Bounds, SmallAnswer, as_table, in_order, slices
from labkit.router import to_bounds
from labkit.tables import SCHEMA, Ids, id_chunks, shown_type

__all__ = ["agreed", "concatenated", "disagreement", "join", "join_parts", "merge", "merge_parts", "union"]

SLICES = 1024
"""Most slices that a table is made of without copying."""
BLOCK = 32_768
"""Rows copied in one step: a millisecond or two."""
GAPS = 4_096
"""Ranges turned into objects in one step: a millisecond or two, plus garbage collection."""

Pieces = npt.NDArray[np.int64]
"""Each row: the low of a range, the number of its table, start and stop of its rows there."""


def agreed(schemas: Iterable[pa.Schema]) -> pa.Schema | None:
    """The columns that most shards have, by name and type in any order; of equally many, those of the first shard.

    None if there are no shards.
    """
    votes: dict[frozenset[Any], list[pa.Schema]] = {}
    for schema in schemas:
        votes.setdefault(_columns(schema), []).append(schema)
    return max(votes.values(), key=len)[0] if votes else None


def disagreement(schema: pa.Schema, common: pa.Schema) -> str | None:
    """How a shard's columns differ from those of the others; None if they agree, in any order."""
    if _columns(schema) == _columns(common):
        return None
    if schema.names[0] != common.names[0]:
        return f"its key is {schema.names[0]}, not {common.names[0]} as on the other shards"
    lacking = [name for name in common.names if name not in schema.names]
    extra = [name for name in schema.names if name not in common.names]
    changed = [
        f"{field.name} is {shown_type(field.type)}, not {shown_type(common.field(field.name).type)}"
        for field in schema
        if field.name in common.names and field.type != common.field(field.name).type
    ]
    differences = [f"{name} is missing" for name in lacking] + [f"{name} is extra" for name in extra] + changed
    return f"its columns differ from the other shards': {', '.join(differences)}"


def _columns(schema: pa.Schema) -> frozenset[Any]:
    """What must agree: names and types, and which one is the key."""
    return frozenset((number == 0, field.name, field.type) for number, field in enumerate(schema))


def merge(
    plan: Mapping[Any, Ranges], answers: Mapping[Any, pa.Table | SmallAnswer], schema: pa.Schema = SCHEMA
) -> pa.Table:
    """The rows of `answers` (checked, ascending) as one table ascending by id.

    `plan` holds the ranges asked of each shard; a shard without an answer adds nothing. All have the columns of
    `schema`, in that order.
    """
    return pa.concat_tables(merge_parts(plan, answers, schema))


def merge_parts(
    plan: Mapping[Any, Ranges], answers: Mapping[Any, pa.Table | SmallAnswer], schema: pa.Schema = SCHEMA
) -> Iterator[pa.Table]:
    """`merge` in parts: each takes a millisecond or two, there is at least one, and some may be empty."""
    if schema is SCHEMA and all(isinstance(rows, SmallAnswer) for rows in answers.values()):
        yield in_order((plan[shard], rows) for shard, rows in answers.items())
        return
    tables = [as_table(rows) for rows in answers.values()]
    pieces, count, seen = np.empty((sum(len(plan[shard]) for shard in answers), 4), np.int64), 0, 0
    for number, shard in enumerate(answers):
        ids, bounds = id_chunks(tables[number]), to_bounds(plan[shard])
        for start in range(0, len(bounds), STEP):
            some = bounds[start : start + STEP]
            found = _pieces(some, ids, number)
            pieces[count : count + len(found)] = found
            count, seen = count + len(found), seen + len(some)
            if seen >= STEP:
                seen = 0
                yield schema.empty_table()
    order = np.argsort(pieces[:count, 0], kind="stable")
    if count > SLICES:
        for start in range(0, count, STEP):
            yield schema.empty_table()
            yield from (_copied(tables, block) for block in _blocks(pieces[order[start : start + STEP]]))
    else:
        slices = [tables[number].slice(start, stop - start) for _, number, start, stop in pieces[order].tolist()]
        yield pa.concat_tables(slices) if slices else schema.empty_table()


def _pieces(bounds: Bounds, ids: Ids, number: int) -> Pieces:
    """A piece for each range that has rows."""
    starts, stops = slices(ids, bounds)
    return np.column_stack([bounds[:, 0], np.full(len(bounds), number), starts, stops])[stops > starts]


def _blocks(pieces: Pieces) -> list[Pieces]:
    """The pieces in groups of about `BLOCK` rows; a piece of more rows stands alone."""
    rows = pieces[:, 3] - pieces[:, 2]
    large, number = rows >= BLOCK, np.cumsum(rows) // BLOCK
    return np.split(pieces, np.flatnonzero(np.diff(number) | large[1:] | large[:-1]) + 1)


def _copied(tables: list[pa.Table], pieces: Pieces) -> pa.Table:
    """The rows of `pieces` in order. Those from one table are contiguous in it, since both ascend."""
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
    """The ranges of `shards` in `plan`, ascending, merged where they touch."""
    return concatenated(list(join_parts(plan, shards)))


def join_parts(plan: Mapping[Any, Ranges], shards: Iterable[ShardKey]) -> Iterator[Ranges]:
    """`join` in parts, of at most `GAPS` ranges each if they are of several shards; see `concatenated`."""
    asked = [plan[shard] for shard in shards]
    if not asked:
        return
    bounds = np.concatenate([to_bounds(ranges) for ranges in asked])
    order = np.argsort(bounds[:, 0], kind="stable")  # fast for ascending runs
    lows, highs = bounds[order].T
    apart = lows[1:] - 1 != highs[:-1]
    if len(asked) == 1 and apart.all() and (order[1:] > order[:-1]).all():
        yield asked[0]
        return
    begin, end = np.append(True, apart)[: len(lows)], np.append(apart, True)[: len(lows)]
    lows, highs = lows[begin], highs[end]
    for start in range(0, len(lows), GAPS):
        some = slice(start, start + GAPS)
        yield tuple(zip(lows[some].tolist(), highs[some].tolist(), strict=True))


def concatenated(parts: Sequence[Ranges]) -> Ranges:
    """All parts in one tuple; a single part as it is."""
    return parts[0] if len(parts) == 1 else tuple(chain.from_iterable(parts))


def union(ranges: Iterable[Range]) -> Ranges:
    """The same IDs in ascending ranges that neither overlap nor touch. For ranges that may overlap, and are few."""
    apart: list[Range] = []
    for low, high in sorted(ranges):
        if apart and low <= apart[-1][1] + 1:
            apart[-1] = (apart[-1][0], max(apart[-1][1], high))
        else:
            apart.append((low, high))
    return tuple(apart)
