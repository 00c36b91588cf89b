"""Rows sorted bucket by bucket: the same order as sorting all of them at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.shards.redis.layouts import ordering
from labkit.shards.redis.layouts.ordering import arranged, in_order
from labkit.tables import SCHEMA, InvalidAnswer
from tests.support.scenes import quick

ID = st.integers(INT64_MIN, INT64_MAX) | st.integers(0, 50)
NAME = st.none() | st.text(st.characters(codec="utf-8"), max_size=4)
PIECES = st.lists(st.lists(st.tuples(ID, NAME), min_size=1, max_size=40), max_size=6).map(
    lambda pieces: [list(dict(piece).items()) for piece in pieces]
)


@pytest.fixture(autouse=True)
def few_in_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket holds four rows here."""
    monkeypatch.setattr(ordering, "SLICE", 4)


def batch(rows: list[tuple[int, str | None]]) -> pa.RecordBatch:
    ids, names = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays([pa.array(ids, pa.int64()), pa.array(names, pa.large_string())], schema=SCHEMA)


async def in_pieces(
    pieces: list[list[tuple[int, str | None]]], limit: int | None = None
) -> list[tuple[int, str | None]]:
    table = await arranged([batch(rows) for rows in pieces], limit)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@quick
@given(PIECES, st.none() | st.integers(0, 50))
def test_the_order_is_that_of_sorting_all(pieces: list[list[tuple[int, str | None]]], limit: int | None) -> None:
    """Rows are ordered by ID, equal IDs by position; with a limit, at least that many of the first are returned."""
    wanted = sorted((row for rows in pieces for row in rows), key=lambda row: row[0])
    got = asyncio.run(in_pieces(pieces, limit))
    assert got == wanted[: len(got)]
    assert len(got) >= min(len(wanted), len(wanted) if limit is None else limit)


async def test_cut_batches_have_their_own_names() -> None:
    """A batch that is a slice of a larger one keeps its own names."""
    whole = batch([(i, f"name {i}") for i in range(20)])
    table = await arranged([whole.slice(5, 3), whole.slice(1, 2)])
    assert table.column("name").to_pylist() == [f"name {i}" for i in (1, 2, 5, 6, 7)]


async def test_an_id_that_is_there_again_and_again_is_found_out() -> None:
    """An ID that occurs too many times is invalid: it would make a bucket of any size."""
    with pytest.raises(InvalidAnswer, match="occurs too many times"):
        await in_order([np.full(5, 7, np.int64)] * 200 + [np.arange(5)])


async def test_buckets_are_small() -> None:
    """Each bucket is far smaller than the table, so other tasks get their turn between buckets."""
    pieces = [np.random.default_rng(1).permutation(np.arange(i, 4000, 40)) for i in range(40)]
    ids, parts = await in_order(pieces)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == 4000
    assert max(sizes) < 64
    assert all(ids[before].max() < ids[after].min() for before, after in pairwise(part for part in parts if len(part)))
