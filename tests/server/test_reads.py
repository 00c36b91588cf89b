"""Reads on healthy servers."""

from __future__ import annotations

import asyncio

import pandas as pd
import pytest

from labkit import CLASSIC, Lab, RangeRouter, Status, errors

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_full_read_returns_the_truth(lab: Lab) -> None:
    """All 60 rows come back, ascending by ID, with the contract's types."""
    result = await lab.read()
    pd.testing.assert_frame_equal(result.frame, lab.rows)
    assert result.frame["id"].tolist() == list(range(1, 61))
    assert (result.frame["id"].dtype, result.frame["name"].dtype) == ("int64", "str")
    assert result.complete
    assert {report.status for report in result.reports.values()} == {Status.OK}


@pytest.mark.parametrize(
    ("low", "high", "asked"),
    [(5, 25, {1, 2, 3}), (None, 10, {1}), (55, None, {3}), (12, 12, {2}), (8, 13, {1, 2}), (61, 99, set())],
)
async def test_a_window_returns_its_rows_and_asks_only_their_shards(
    lab: Lab, low: int | None, high: int | None, asked: set[int]
) -> None:
    """Both ends of a window are inclusive; shards that own nothing in it are skipped."""
    result = await lab.read(low, high)
    assert result.frame["id"].tolist() == [i for i in range(1, 61) if (low or 1) <= i <= (high or 60)]
    assert {shard for shard, report in result.reports.items() if report.status is Status.OK} == asked
    assert {shard for shard, report in result.reports.items() if report.status is Status.SKIPPED} == {1, 2, 3} - asked


async def test_get_returns_one_row(lab: Lab) -> None:
    """get() returns a row by its ID, and None if no shard owns the ID."""
    assert await lab.reader.get(12) == {"id": 12, "name": "Test 12"}
    assert await lab.reader.get(61) is None


async def test_many_reads_at_once_are_all_complete(lab: Lab) -> None:
    """60 concurrent reads share the pools and are all complete."""
    results = await asyncio.gather(*(lab.read() for _ in range(60)))
    assert all(result.complete and result.table.num_rows == 60 for result in results)


AWKWARD = {
    1: None,
    2: "",
    3: "same",
    4: "same",
    11: "same",
    12: 'it\'s "quoted" \\ and\nbroken\tup',
    13: "žluťoučký 🐎 数据",
    21: '[1,"Test 1"]',
}


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_awkward_names_come_back_as_they_are(backend: str) -> None:
    """Repeated names lose no row, NULL and empty text stay distinct, and any text survives."""
    async with Lab(backend, rows=AWKWARD) as lab:
        result = await lab.read()
        assert {row["id"]: row["name"] for row in result.table.to_pylist()} == AWKWARD
        assert result.frame["name"].isna().tolist() == [name is None for name in AWKWARD.values()]
        assert result.complete


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_ids_of_64_bits_and_keys_of_text(backend: str) -> None:
    """Shards may have text keys, and 64-bit IDs stay distinct, even beyond 2**53, where Redis scores collide."""
    big = 2**53
    router = RangeRouter({"north": [(-(2**63), -1)], "south": [(0, big + 2), (big + 5, 2**63 - 1)]})
    ids = [-(2**63), -big - 1, -big, -1, 0, big, big + 1, big + 2, big + 5, 2**63 - 1]
    async with Lab(backend, router=router, rows={i: f"n{i}" for i in ids}) as lab:
        assert (await lab.read()).frame["id"].tolist() == ids
        assert (await lab.read(big + 1, big + 5)).frame["id"].tolist() == [big + 1, big + 2, big + 5]
        assert await lab.reader.get(big + 1) == {"id": big + 1, "name": f"n{big + 1}"}
        assert await lab.reader.get(big + 3) is None


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_what_was_written_outlives_a_kill(backend: str) -> None:
    """A killed server comes back with its rows instead of empty."""
    from labkit import faults

    async with Lab(backend, router=CLASSIC) as lab:
        await lab.inject(1, faults.Kill())
        await lab.heal()
        assert (await lab.read()).raise_for_missing().table.num_rows == 60


async def test_wrong_windows_raise_before_any_shard_is_asked(lab: Lab) -> None:
    """low > high and bounds that are not integers raise one-line errors."""
    with pytest.raises(ValueError, match="low=30, high=10"):
        await lab.read(30, 10)
    with pytest.raises(errors.RangeError, match=r"1\.5"):
        await lab.read(low=1.5)  # type: ignore[arg-type]
