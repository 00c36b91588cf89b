"""SmallAnswer keeps rows as Python objects; contract and table are the same as by numpy and Arrow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN, Ranges
from labkit.answer import SMALL_ANSWER, SmallAnswer, as_small, check
from labkit.merge import merge
from labkit.router import CLASSIC
from labkit.tables import InvalidAnswer
from tests.support import scenes
from tests.unit.test_answer import BAD, RANGES

quick = settings(scenes.quick, max_examples=200)

IDS = st.integers(-3, 12) | st.sampled_from([INT64_MIN, INT64_MAX])
ODD = st.none() | st.booleans() | st.floats() | st.text(max_size=2) | st.just(2**63)
NAMES = st.none() | st.text(max_size=3)
ROWS = st.lists(st.tuples(IDS, NAMES), max_size=4, unique_by=lambda row: row[0]).map(
    lambda rows: sorted(rows, key=lambda row: row[0])
)
ANY_ROWS = st.lists(
    st.tuples(IDS | ODD, NAMES | st.integers() | st.just("\ud800")) | st.tuples(IDS) | st.none(), max_size=4
)
RANGES_ASKED = st.sampled_from(
    [
        (),
        ((0, 9),),
        ((-2, 3), (4, 4), (7, 12)),
        ((INT64_MIN, -1), (1, INT64_MAX)),
        ((INT64_MIN, INT64_MAX),),
    ]
)


@quick
@given(ROWS | ANY_ROWS, RANGES_ASKED)
@example([], ())
def test_the_rows_that_keep_the_contract_are_those_that_check_takes(rows: list[Any], ranges: Ranges) -> None:
    """The fast path accepts exactly the rows that the general one accepts, and gives an equal table."""
    found = as_small(rows, ranges)
    try:
        table = check(rows, ranges)
    except InvalidAnswer:
        assert found is None
    else:
        assert found is not None
        assert found.num_rows == len(rows)
        assert found.table().equals(table)


@pytest.mark.parametrize("answer", [rows for rows, _, _ in BAD.values()], ids=BAD.keys())
def test_a_bad_row_is_left_to_check(answer: Any) -> None:
    """The fast path declines an answer with a bad row and leaves it to the general one to name it."""
    assert as_small(answer, RANGES) is None


@pytest.mark.parametrize("answer", [None, 7, "ab", {1: "a"}, object(), check([(1, "a")], RANGES)], ids=type)
def test_what_is_no_sequence_of_rows_is_left_to_check(answer: Any) -> None:
    """The fast path declines everything but a list or tuple."""
    assert as_small(answer, RANGES) is None


def test_many_rows_and_many_ranges_are_not_few() -> None:
    """The fast path declines more rows or ranges than its limit."""
    everything = ((0, 10**6),)
    assert as_small([(i, "a") for i in range(SMALL_ANSWER)], everything) is not None
    assert as_small([(i, "a") for i in range(SMALL_ANSWER + 1)], everything) is None
    assert as_small([(1, "a")], tuple((i, i) for i in range(SMALL_ANSWER))) is not None
    assert as_small([(1, "a")], tuple((i, i) for i in range(SMALL_ANSWER + 1))) is None


@quick
@given(st.lists(st.integers(1, 60), unique=True).map(sorted), st.data())
def test_merged_they_are_what_tables_are(ids: list[int], data: st.DataObject) -> None:
    """Merged small answers equal merged tables: of all shards, of some, and mixed with tables."""
    plan = CLASSIC.prune()
    rows = {shard: [(i, f"Test {i}") for i in ids if CLASSIC.locate(i) == shard] for shard in plan}
    tables = {shard: check(rows[shard], plan[shard]) for shard in data.draw(st.permutations(sorted(plan)))}
    small: dict[Any, SmallAnswer] = {
        shard: found for shard in tables if (found := as_small(rows[shard], plan[shard])) is not None
    }
    assert small.keys() == tables.keys()
    lost = data.draw(st.sets(st.sampled_from(sorted(plan))))
    left = {shard: small[shard] for shard in tables if shard not in lost}
    assert merge(plan, left).equals(merge(plan, {shard: tables[shard] for shard in left}))
    mixed = {shard: small[shard] if shard in lost else tables[shard] for shard in tables}
    assert merge(plan, mixed).equals(merge(plan, tables))
