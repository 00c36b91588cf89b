"""Data faults as pure functions: the same seed draws the same lie, and the true rows are not modified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import pytest

from labkit import errors, faults
from labkit.faults import DataFault, Undo

TRUTH = tuple((i, f"Test {i}") for i in [*range(11, 21), *range(41, 51)])
FOREIGN = (1, 10, 21, 30, 31, 40, 51, 60)
KINDS = [entry.kind for entry in faults.ALL.values() if issubclass(entry.kind, DataFault)]
COUNTED = [kind for kind in KINDS if kind not in (faults.BadTypes, faults.Empty)]


def altered(fault: DataFault, seed: Any = 0, rows: Sequence[Any] = TRUTH) -> list[Any]:
    return fault.alter(rows, Random(seed), FOREIGN)


def ids(rows: Iterable[Any]) -> list[Any]:
    return [row_id for row_id, _ in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_alters_the_same_rows(kind: Any) -> None:
    """The same seed alters the same rows, and the given rows are not modified."""
    rows = list(TRUTH)
    first = altered(kind(), 7, rows)
    assert rows == list(TRUTH)
    assert altered(kind(), 7, rows) == first != rows


@pytest.mark.parametrize("kind", COUNTED)
def test_other_seeds_alter_other_rows(kind: Any) -> None:
    """Twenty seeds do not all draw the same rows."""
    assert len({repr(altered(kind(), seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize(("count", "drawn"), [(1, 1), (3, 3), (8, 8), (20, 20), (99, 20)])
def test_count_is_a_number_of_rows(kind: Any, count: int, drawn: int) -> None:
    """A fault changes `count` rows, or all if there are fewer."""
    drawn = min(drawn, len(FOREIGN)) if kind is faults.ForeignIds else drawn
    before, after = Counter(TRUTH), Counter(altered(kind(count)))
    assert max((before - after).total(), (after - before).total()) == drawn


@pytest.mark.parametrize("seed", range(5))
def test_duplicate_ids_are_beside_the_row_that_they_repeat(seed: int) -> None:
    """A duplicate follows the row it repeats, with a different name; IDs stay ascending."""
    rows = altered(faults.DuplicateIds(4), seed)
    assert ids(rows) == sorted(ids(rows))
    twice = [row_id for row_id, times in Counter(ids(rows)).items() if times == 2]
    assert len(twice) == 4
    for row_id in twice:
        assert [name for i, name in rows if i == row_id] == [f"Test {row_id}", f"Test {row_id} again"]


@pytest.mark.parametrize("seed", range(5))
def test_foreign_ids_are_of_others_and_in_order(seed: int) -> None:
    """All of the shard's rows are kept, and foreign rows are inserted in ID order."""
    rows = altered(faults.ForeignIds(4), seed)
    assert ids(rows) == sorted(ids(rows))
    assert [row for row in rows if row[0] not in FOREIGN] == list(TRUTH)
    assert len(set(ids(rows)) & set(FOREIGN)) == 4


def test_null_ids_leave_the_names() -> None:
    """Rows and names stay in place; only IDs are lost."""
    rows = altered(faults.NullIds(5))
    assert [name for _, name in rows] == [name for _, name in TRUTH]
    assert [row_id for row_id in ids(rows) if row_id is not None] == [
        row_id for (row_id, _), (now, _) in zip(TRUTH, rows, strict=True) if now is not None
    ]
    assert ids(rows).count(None) == 5


def test_bad_types_are_the_ids_as_text() -> None:
    """Every ID becomes text."""
    assert altered(faults.BadTypes()) == [(str(row_id), name) for row_id, name in TRUTH]


def test_missing_rows_and_empty_leave_true_rows_only() -> None:
    """The remaining rows are unchanged and in order."""
    left = altered(faults.MissingRows(5))
    assert left == [row for row in TRUTH if row in left]
    assert len(left) == 15
    assert altered(faults.Empty()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_without_rows_can_be_asked_for_a_lie(kind: Any) -> None:
    """An empty shard has nothing to repeat or lose; foreign rows can still be added."""
    rows = altered(kind(), rows=())
    assert len(rows) == (1 if kind is faults.ForeignIds else 0)


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3", None])
def test_a_count_that_is_none_is_refused(kind: Any, count: Any) -> None:
    """A wrong count is a `UsageError` when the fault is made; it names the fault and the value."""
    with pytest.raises(errors.UsageError, match=f"{kind.__name__}: count must be .*, not {count!r}"):
        kind(count)


class FakeTarget:
    """A shard that records the order of a fault's calls."""

    foreign = FOREIGN

    def __init__(self, broken: bool = False, held: Sequence[Any] = TRUTH) -> None:
        self.broken, self.held = broken, held
        self.calls: list[str] = []
        self.stood_in: list[Any] = []

    def random(self, fault: Any) -> Random:
        return Random(repr(fault))

    async def rows(self) -> list[Any]:
        self.calls.append("rows")
        return list(self.held)

    async def stand_in(self, rows: Iterable[Any]) -> None:
        self.calls.append("stand in")
        self.stood_in = list(rows)
        if self.broken:
            raise ConnectionError("lost half-way")

    async def bring_back(self) -> None:
        self.calls.append("bring back")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_start_that_fails_half_way_can_be_undone(kind: Any) -> None:
    """The undo is registered before anything is changed."""
    target, undo = FakeTarget(broken=True), Undo()
    with pytest.raises(ConnectionError):
        await kind().start(target, undo)
    await undo.run()
    assert target.calls == ["rows", "stand in", "bring back"]
    assert target.stood_in == kind().alter(TRUTH, target.random(kind()), FOREIGN)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_that_changes_no_row_says_so(kind: Any) -> None:
    """On a shard without rows there is nothing to repeat or lose: the start says that the fault did not act."""
    assert await kind().start(FakeTarget(), Undo()) is True
    assert await kind().start(FakeTarget(held=()), Undo()) is (kind is faults.ForeignIds)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_any_table_keep_their_other_values(kind: Any) -> None:
    """In a lab of another table a row is its key and a tuple of texts, which every fault leaves as they are."""
    rows = [(row_id, (name, None, "5")) for row_id, name in TRUTH]
    others = {repr(others) for _, others in rows}
    assert {repr(values) for _, values in altered(kind(), rows=rows)} <= others
    assert len(altered(kind(), rows=rows)) == len(altered(kind()))
