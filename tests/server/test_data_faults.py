"""Faults of the data: the server holds exactly the altered rows, and the original rows come back untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labkit import Lab, RangeRouter, ReadResult, Status, errors, faults
from labkit.faults import DataFault
from tests.support.lateness import MARGIN, starved
from tests.support.snapshot import left_as, snapshot
from tests.support.watching import cold

pytestmark = pytest.mark.asyncio(loop_scope="module")

GAP = ((11, 20), (41, 50))
LIES: dict[DataFault, str | tuple[str, str]] = {
    faults.DuplicateIds(): "is there twice",
    faults.DuplicateIds(20): "id 11 is there twice",
    faults.ForeignIds(): "is outside the ranges",
    faults.ForeignIds(3): "is outside the ranges",
    faults.NullIds(): "has NULL for id, the key",
    faults.NullIds(99): "row 1 has NULL for id, the key",
    faults.BadTypes(): ("the key id is text, not smallint, integer or bigint", "id '11' is not an integer"),
}
"""What the reader says; on Postgres and on Redis, if that differs."""
UNSEEN = [faults.MissingRows(), faults.MissingRows(5), faults.MissingRows(99), faults.Empty()]


def rows_of(lab: Lab, state: dict[str, Any]) -> list[Any]:
    """(id, name) of all rows in a server's snapshot."""
    if lab.backend == "postgres":
        return list(state["rows"])
    return [tuple(json.loads(raw)) for raw, _ in state["rows"]]


def others(lab: Lab) -> Any:
    """The expected rows without those of shard 2."""
    return lab.rows[lab.router.locate_many(lab.rows["id"]) != 1]


async def read_by_both(lab: Lab) -> list[ReadResult]:
    """Reads on warm connections, which have read the table before, and on new ones."""
    async with cold(lab) as newcomer:
        return [await lab.read(), await newcomer.read()]


@pytest.mark.parametrize("fault", LIES, ids=repr)
async def test_a_lie_makes_the_shard_invalid_and_is_undone(lab: Lab, fault: DataFault) -> None:
    """The server holds exactly `lab.altered`, nothing of it is merged, and afterwards the table is as before."""
    before = await snapshot(lab)
    async with lab.fault(2, fault):
        held = rows_of(lab, await snapshot(lab))
        results = await read_by_both(lab)
    assert sorted(held, key=repr) == sorted(lab.altered(2, fault), key=repr)
    assert held != rows_of(lab, before)
    for result in results:
        report = result.reports[2]
        assert (report.status, result.missing) == (Status.INVALID, GAP)
        said = LIES[fault]
        assert (said if isinstance(said, str) else said[lab.backend == "redis"]) in (report.error or "")
        assert result.frame.equals(others(lab).reset_index(drop=True))
        assert result.elapsed <= lab.timeout + MARGIN + starved()
    assert (await lab.read()).complete
    await left_as(lab, before)


@pytest.mark.parametrize("fault", UNSEEN, ids=repr)
async def test_rows_that_are_not_there_are_missed_by_no_reader(lab: Lab, fault: DataFault) -> None:
    """Lost rows cannot be detected: the read is complete with the remaining rows."""
    before = await snapshot(lab)
    async with lab.fault(2, fault):
        results = await read_by_both(lab)
    left = lab.altered(2, fault)
    assert len(left) == max(20 - getattr(fault, "count", 20), 0)
    for result in results:
        assert result.complete
        assert [(i, n) for i, n in result.frame.itertuples(index=False) if lab.router.locate(i) == 2] == left
        assert len(result.frame) == 40 + len(left)
    assert (await lab.read()).raise_for_missing().frame.equals(lab.rows)
    await left_as(lab, before)


async def test_a_window_shows_of_a_lie_what_the_server_finds_in_it(lab: Lab) -> None:
    """In a window, Postgres finds no NULL ids; Redis finds rows by their score. A key of text is invalid on both."""
    redis = lab.backend == "redis"
    async with lab.fault(2, faults.NullIds(10)):
        report = (await lab.read(11, 50)).reports[2]
    assert (report.status, report.rows) == ((Status.INVALID, 0) if redis else (Status.OK, 10))
    async with lab.fault(2, faults.BadTypes()):
        with pytest.raises(errors.ShardUnavailable) as caught:
            await lab.reader.get(12)
    assert caught.value.report.status is Status.INVALID


async def test_what_has_no_id_keeps_its_place(lab: Lab) -> None:
    """In Redis a row without an ID stays in place: it gets a neighbour's score."""
    async with lab.fault(2, faults.NullIds(10)):
        state = await snapshot(lab)
        await lab.read()
    if lab.backend == "redis":
        scores = {json.loads(raw)[1]: score for raw, score in state["rows"]}
        assert scores.keys() == {f"Test {i}" for i in [*range(11, 21), *range(41, 51)]}
        assert {lab.router.locate(int(score)) for score in scores.values()} == {2}
        assert sorted(scores, key=lambda name: (scores[name], name)) == sorted(scores)
    else:
        assert [name for row_id, name in state["rows"] if row_id is None] != []


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_a_shard_without_rows_can_lie_too(backend: str) -> None:
    """Faults work on a shard without rows, and in Redis the key, which does not exist when empty, is removed again."""
    async with Lab(backend, rows={1: "one", 21: "two"}, timeout=2.0) as lab:
        before = await snapshot(lab)
        async with lab.fault(2, faults.ForeignIds()):
            assert (await lab.read()).reports[2].status is Status.INVALID
        with pytest.warns(errors.NeverFired, match=r"Empty\(\) never fired on shard 2: there was nothing to act on"):
            async with lab.fault(2, faults.Empty()):
                assert (await lab.read()).complete
        assert (await lab.read()).raise_for_missing().table.num_rows == 2
        await left_as(lab, before)


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_tables_of_any_name_ids_of_64_bits_and_names_as_long_as_can_be(backend: str) -> None:
    """Faults work with names of full length, 64-bit IDs, and table names that need quoting or are truncated."""
    odd, long = 'it\'s "odd"', "ž" * 60
    rows = {1: "n" * 255, 5: None, 2**62: "x" * 255}
    async with Lab(backend, router=RangeRouter({odd: [(1, 9)], long: [(10, 2**63 - 1)]}), rows=rows) as lab:
        for fault in (faults.DuplicateIds(9), faults.BadTypes(), faults.NullIds()):
            for shard in (odd, long):
                async with lab.fault(shard, fault):
                    assert (await lab.read()).reports[shard].status is Status.INVALID
                assert (await lab.read()).raise_for_missing().frame.equals(lab.rows)
        if backend == "postgres":
            async with lab.fault({odd: faults.DropTable(), long: faults.SlowQuery(0.01)}):
                result = await lab.read()
            assert {result.reports[odd].status, result.reports[long].status} == {Status.REJECTED, Status.OK}
            assert (await lab.read()).raise_for_missing().frame.equals(lab.rows)
