"""Sorts any number of rows by id without blocking the event loop: bucket by bucket.

A sample determines the bounds of buckets of some thousand rows; each row is assigned to its bucket, and each bucket is
sorted separately.
Source: Frazer and McKellar, "Samplesort: A Sampling Approach to Minimal Storage Tree Sorting" (1970).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit.shards.redis.layouts.byte_strings import Offsets
from labkit.tables import SCHEMA, InvalidAnswer

__all__ = ["SLICE", "arranged", "in_order"]

SLICE = 8_192
"""Rows handled between two yields to the event loop: a millisecond or two."""
_SAMPLES = 16
"""Samples per `SLICE` rows; more samples make buckets more even."""
_CROWDED = 16
"""Slices in one bucket that mean an id occurs many times: chance does not do that."""

Ids: TypeAlias = npt.NDArray[np.int64]


async def in_order(pieces: Sequence[Ids]) -> tuple[Ids, list[Offsets]]:
    """All pieces concatenated, and the positions of the ids in ascending order, in parts of some thousand each.

    Raises `InvalidAnswer` for an id that occurs too many times.
    """
    total = sum(map(len, pieces))
    bounds = _bounds(pieces)
    ids, order = np.empty(total, np.int64), np.empty(total, np.int64)
    buckets, sizes, start = [], np.zeros(len(bounds) + 1, np.int64), 0
    for piece in pieces:
        await asyncio.sleep(0)
        ids[start : start + len(piece)] = piece
        order[start : start + len(piece)] = 0  # a first touch allocates memory, and `_dealt` touches all at once
        buckets.append(bounds.searchsorted(piece, "right").astype(np.uint32))
        sizes += np.bincount(buckets[-1], minlength=len(sizes))
        start += len(piece)
    await _dealt(buckets, sizes, order)
    parts: list[Offsets] = np.split(order, sizes.cumsum()[:-1])
    for part in parts:
        if len(part) > _CROWDED * SLICE:
            raise InvalidAnswer(f"id {ids[part].min()} or one near it occurs too many times")
        await asyncio.sleep(0)
        part[:] = part[ids[part].argsort(kind="stable")]
    return ids, parts


async def arranged(batches: Sequence[pa.RecordBatch], limit: int | None = None, schema: pa.Schema = SCHEMA) -> pa.Table:
    """The rows of all batches, ascending by id; at least the first `limit`. Raises as `in_order` does."""
    if not batches:
        return schema.empty_table()
    ids, parts = await in_order([batch.column(0).to_numpy() for batch in batches])
    columns = [await _joined(batches, number) for number in range(1, len(schema))]
    found: list[pa.RecordBatch] = []
    count = 0
    for part in parts:
        if limit is not None and count >= limit:
            break
        await asyncio.sleep(0)
        taken = [column.take(pa.array(part, mask=None if null is None else null[part])) for column, null in columns]
        found.append(pa.RecordBatch.from_arrays([pa.array(ids[part]), *taken], schema=schema))
        count += len(part)
    return pa.Table.from_batches(found, schema)


def _bounds(pieces: Sequence[Ids]) -> Ids:
    """The bounds between buckets."""
    random = np.random.default_rng()
    sample = [piece[random.integers(0, len(piece), 1 + len(piece) * _SAMPLES // SLICE)] for piece in pieces]
    return np.sort(np.concatenate(sample))[_SAMPLES::_SAMPLES] if sample else np.empty(0, np.int64)


async def _dealt(buckets: Sequence[npt.NDArray[np.uint32]], sizes: Offsets, order: Offsets) -> None:
    """Writes the positions of each bucket contiguously into `order`."""
    free, start = sizes.cumsum() - sizes, 0
    for bucket in buckets:
        await asyncio.sleep(0)
        own = np.bincount(bucket, minlength=len(sizes))
        within = bucket.argsort(kind="stable")
        sorted_bucket = bucket[within]
        before = own.cumsum() - own
        order[free[sorted_bucket] + np.arange(len(bucket)) - before[sorted_bucket]] = within + start
        free += own
        start += len(bucket)


async def _joined(batches: Sequence[pa.RecordBatch], number: int) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """A column of all batches in one array; and which values are NULL, if the array does not say so."""
    await asyncio.sleep(0)
    parts = [batch.column(number) for batch in batches]
    return await _texts(parts) if pa.types.is_large_string(parts[0].type) else (pa.concat_arrays(parts), None)


async def _texts(parts: Sequence[pa.Array]) -> tuple[pa.LargeStringArray, npt.NDArray[np.bool_]]:
    """The texts of all parts in one array, part by part, and which are NULL."""
    count, size = sum(map(len, parts)), sum(_text(part)[1].size for part in parts)
    null = np.empty(count, np.bool_)
    offsets, data = np.zeros(count + 1, np.int64), np.empty(size, np.uint8)
    row = 0
    for part in parts:
        await asyncio.sleep(0)
        ends, text = _text(part)
        begin, following = offsets[row], row + len(part)
        null[row:following] = part.is_null().to_numpy(zero_copy_only=False)
        offsets[row + 1 : following + 1] = ends + begin
        data[begin : begin + len(text)] = text
        row = following
    return pa.Array.from_buffers(pa.large_string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)], 0), null


def _text(texts: pa.Array) -> tuple[Offsets, npt.NDArray[np.uint8]]:
    """Where each text ends in the bytes of all, and those bytes."""
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    text = np.frombuffer(data or b"", np.uint8)[places[0] : places[-1]]
    return places[1:] - places[0], text
