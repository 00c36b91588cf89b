"""Merging: slices in range order, without a copy; gaps joined where they touch."""

from __future__ import annotations

import pyarrow as pa
import pytest

from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import check
from labkit.merge import join, merge
from labkit.router import CLASSIC
from labkit.tables import SCHEMA


def checked(plan, shard, ids):
    return check([(i, f"Test {i}") for i in ids], plan[shard])


def addresses(table: pa.Table) -> list[int]:
    """The address of each data buffer of each chunk of each column."""
    return [
        buffer.address
        for column in table.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()[1:]
        if buffer is not None
    ]


def test_slices_come_in_range_order():
    """Rows of interleaved ranges come out ascending, whatever the order of the answers."""
    plan = CLASSIC.prune()
    answers = {s: checked(plan, s, [i for i in range(1, 61) if CLASSIC.locate(i) == s]) for s in (3, 1, 2)}
    assert merge(plan, answers).column("id").to_pylist() == list(range(1, 61))


def test_merging_copies_nothing():
    """Every buffer of the merged table belongs to an answer, and each range is one slice of it."""
    plan = CLASSIC.prune()
    answers = {s: checked(plan, s, [low for low, _ in plan[s]]) for s in plan}
    merged = merge(plan, answers)
    assert merged.column("id").num_chunks == 6
    assert set(addresses(merged)) == {a for table in answers.values() for a in addresses(table)}


def test_a_shard_without_an_answer_adds_nothing():
    """The rows of the other shards stay in order around the gap."""
    plan = CLASSIC.prune(8, 33)
    answers = {s: checked(plan, s, [low for low, _ in plan[s]]) for s in (1, 3)}
    assert merge(plan, answers).column("id").to_pylist() == [8, 21, 31]


@pytest.mark.parametrize("shards", [(), (1, 2)])
def test_nothing_merges_to_an_empty_table(shards):
    """No answers, and answers without rows, give an empty table of the schema."""
    plan = CLASSIC.prune()
    table = merge(plan, {s: checked(plan, s, []) for s in shards})
    assert table.num_rows == 0
    assert table.schema == SCHEMA


@pytest.mark.parametrize(
    ("shards", "joined"),
    [
        ((), ()),
        ((2,), ((11, 20), (41, 50))),
        ((1, 2), ((1, 20), (31, 50))),
        ((3, 2), ((11, 30), (41, 60))),
        ((1, 2, 3), ((1, 60),)),
    ],
)
def test_join_makes_touching_ranges_one(shards, joined):
    """Joined ranges are ascending, and neighbours with no ID between them become one."""
    assert join(CLASSIC.prune(), shards) == joined


def test_join_leaves_gaps_of_one_id():
    """Ranges with a single ID between them stay separate."""
    assert join({"a": ((1, 1),), "b": ((3, 3), (4, 9))}, ["b", "a"]) == ((1, 1), (3, 9))


def test_join_reaches_the_ends_of_int64():
    """Joining at the ends of int64 does not overflow."""
    plan = {"a": ((INT64_MIN, -1),), "b": ((0, INT64_MAX),)}
    assert join(plan, plan) == ((INT64_MIN, INT64_MAX),)
