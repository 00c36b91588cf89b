"""Properties that hold for any router, any rows, any window and any failures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import check
from labkit.merge import join
from labkit.report import Status
from labkit.router import RangeRouter
from labkit.shards.memory import MemoryShard
from labkit.tables import InvalidAnswer
from tests.support.scenes import (
    an_error,
    around,
    assert_exact,
    huge_routers,
    in_window,
    owned_ids,
    owner_of,
    quick,
    scenes,
    small_routers,
    unrolled,
    windows,
)

pytestmark = pytest.mark.slow


@quick
@given(scenes(small_routers(), an_error()))
def test_small_reads_are_exact(scene):
    """ID by ID: answered ∪ missing = asked, without overlap, and the rows are those of the shards that answered."""
    result = scene.read()
    assert_exact(scene, result)
    asked = {row_id for row_id in owned_ids(scene.router) if in_window(*scene.window, row_id)}
    failed = {row_id for row_id in asked if scene.router.locate(row_id) in scene.broken}
    assert unrolled(result.missing) == failed


@quick
@given(scenes(huge_routers(), an_error()))
def test_huge_reads_are_exact(scene):
    """The same holds by range arithmetic, where no set could hold the IDs."""
    assert_exact(scene, scene.read())


@settings(quick, max_examples=15)
@given(scenes(small_routers(), st.builds(MemoryShard, delay=st.just(math.inf))))
def test_reads_with_hanging_shards_are_exact(scene):
    """A shard that never answers is missing exactly, and leaves no task behind."""
    result = scene.read(timeout=0.05)
    assert_exact(scene, result)
    asked = scene.router.prune(*scene.window)
    assert {s for s, r in result.reports.items() if r.status is Status.TIMEOUT} == set(scene.broken) & set(asked)


def duplicated(rows, at, _router, _shard):
    return [*rows[: at + 1], rows[at], *rows[at + 1 :]]


def swapped(rows, at, _router, _shard):
    assume(len(rows) > 1)
    at = at % (len(rows) - 1)
    return [*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]]


def foreign(rows, at, router, shard):
    """Replaces the row by one whose ID another shard owns, keeping ascending order."""
    low, high = around(router)
    others = [row_id for row_id in range(low, high + 1) if owner_of(router, row_id) != shard]
    assume(others)
    return sorted([*rows[:at], (others[at % len(others)], "foreign"), *rows[at + 1 :]], key=lambda row: row[0])


def nulled(rows, at, _router, _shard):
    return [*rows[:at], (None, rows[at][1]), *rows[at + 1 :]]


def mistyped(rows, at, _router, _shard):
    return [*rows[:at], (rows[at][0], b"bytes"), *rows[at + 1 :]]


@quick
@given(
    scenes(small_routers(), an_error()),
    st.sampled_from([duplicated, swapped, foreign, nulled, mistyped]),
    st.data(),
)
def test_a_mutated_answer_makes_exactly_that_shard_invalid(scene, mutate, data):
    """One duplicated, swapped, foreign or mistyped row, or one without an ID, makes that shard INVALID and no other."""
    holders = [shard for shard in scene.router.shards if scene.rows[shard]]
    assume(holders)
    liar = data.draw(st.sampled_from(holders))
    at = data.draw(st.integers(0, len(scene.rows[liar]) - 1))
    scene.window = (None, None)
    scene.broken[liar] = MemoryShard(mutate(scene.rows[liar], at, scene.router, liar))
    result = scene.read()
    assert_exact(scene, result)
    assert {s for s, r in result.reports.items() if r.status is Status.INVALID} == {liar}


@quick
@given(st.data(), small_routers())
def test_check_takes_exactly_the_answers_that_keep_the_contract(data, router):
    """`check` agrees with the contract: strictly ascending IDs, each inside a range requested from the shard."""
    shard = data.draw(st.sampled_from(router.shards))
    ranges = router.prune()[shard]
    ids = data.draw(st.lists(st.integers(*around(router)), max_size=4))
    kept = ids == sorted(set(ids)) and all(owner_of(router, row_id) == shard for row_id in ids)
    try:
        table = check([(row_id, "x") for row_id in ids], ranges)
    except InvalidAnswer:
        assert not kept
    else:
        assert kept
        assert table.column("id").to_pylist() == ids


@quick
@given(small_routers())
def test_locate_agrees_with_brute_force(router):
    """`locate` is right for every ID in and around the ranges, and `len` and `divisions` agree."""
    low, high = around(router)
    for row_id in range(low, high + 1):
        assert router.locate(row_id) == owner_of(router, row_id)
    assert len(router) == len(owned_ids(router))
    assert router.divisions == (*(span[0] for span in router.spans), router.spans[-1][1])


@quick
@given(st.data(), small_routers() | huge_routers())
def test_locate_many_agrees_with_locate(data, router):
    """`locate_many` agrees with `locate` for any IDs, in any order, inside and outside the ranges."""
    edges = [edge for low, high, _ in router.spans for edge in (low, high)]
    ids = data.draw(st.lists(st.sampled_from(edges) | st.integers(*around(router)) | st.integers(INT64_MIN, INT64_MAX)))
    positions = router.locate_many(ids).tolist()
    assert [router.shards[p] if p >= 0 else None for p in positions] == [router.locate(row_id) for row_id in ids]


@quick
@given(st.data(), small_routers())
def test_prune_agrees_with_brute_force(data, router):
    """Each shard's part of the window holds exactly the IDs it owns there; shards without any are left out."""
    low, high = data.draw(windows(router))
    owners: dict[Any, set[int]] = {}
    for row_id in owned_ids(router):
        if in_window(low, high, row_id):
            owners.setdefault(owner_of(router, row_id), set()).add(row_id)
    plan = router.prune(low, high)
    assert {shard: unrolled(ranges) for shard, ranges in plan.items()} == owners
    assert all(list(ranges) == sorted(ranges) for ranges in plan.values())
    assert list(plan) == [shard for shard in router.shards if shard in plan]


@quick
@given(st.data(), small_routers())
def test_join_holds_the_same_ids_in_the_fewest_ranges(data, router):
    """Joined ranges are ascending, do not touch, and hold each ID of the shards once."""
    shards = data.draw(st.sets(st.sampled_from(router.shards)))
    plan = router.prune()
    joined = join(plan, shards)
    assert unrolled(joined) == {row_id for shard in shards for row_id in unrolled(plan[shard])}
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(joined))


@quick
@given(small_routers() | huge_routers())
def test_a_router_is_equal_to_its_repr(router):
    """`repr` makes an equal router with an equal hash."""
    again = eval(repr(router), {"RangeRouter": RangeRouter})
    assert again == router
    assert hash(again) == hash(router)
