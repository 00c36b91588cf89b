"""Paging on real servers: whatever fails or recovers between two pages, nothing is skipped or repeated."""

from __future__ import annotations

import random
import time

import pandas as pd
import pytest

from labkit import Lab, RangeRouter, ReadResult, Status, faults
from tests.server.conftest import EMBEDDED
from tests.support.lateness import MARGIN, starved

pytestmark = pytest.mark.asyncio(loop_scope="module")


def ids(result: ReadResult) -> list[int]:
    return result.frame["id"].tolist()


@EMBEDDED
@pytest.mark.parametrize("size", [1, 7, 25, 60, 1000])
async def test_pages_are_the_table(lab: Lab, size: int) -> None:
    """Pages of any size together are exactly the table."""
    pages = [page async for page in lab.reader.pages(size=size)]
    assert pd.concat([page.frame for page in pages], ignore_index=True).equals(lab.rows)
    assert [len(page.frame) for page in pages[:-1]] == [size] * (len(pages) - 1)


@EMBEDDED
@pytest.mark.timeout(120)
async def test_shards_die_and_come_back_between_pages(lab: Lab) -> None:
    """The rows and gaps of all pages together make up the table, each ID exactly once."""
    draw = random.Random(3)
    seen: list[int] = []
    lost: list[int] = []
    async for page in lab.reader.pages(size=4):
        seen += ids(page)
        lost += [i for low, high in page.missing for i in range(low, high + 1)]
        await lab.heal()
        if draw.random() < 0.6:
            await lab.inject(draw.choice([1, 2, 3]), faults.Kill())
    assert seen == sorted(seen)
    assert lost
    assert sorted(seen + lost) == list(range(1, 61))


@EMBEDDED
async def test_a_frozen_shard_holds_up_only_the_pages_that_touch_it(lab: Lab) -> None:
    """Pages that do not touch a frozen shard do not query it; the one that does returns at its deadline with a gap."""
    async with lab.fault(2, faults.Pause()):
        first = await lab.reader.page(10)
        assert (ids(first), first.complete) == (list(range(1, 11)), True)
        assert first.reports[2].status is Status.SKIPPED
        started = time.monotonic()
        second = await lab.reader.page(10, after=10)
        assert time.monotonic() - started <= lab.timeout + MARGIN + starved()
        assert (ids(second), second.missing, second.next) == ([], ((11, 20),), 20)
        third = await lab.reader.page(10, after=20)
        assert (ids(third), third.complete) == (list(range(21, 31)), True)
    again = await lab.reader.read(*second.missing[0])
    assert ids(again) == list(range(11, 21))


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_ids_at_the_ends_of_int64_are_paged_exactly(backend: str) -> None:
    """Paging is exact where Redis scores cannot tell neighbours apart, and up to the last 64-bit ID."""
    ranges = {"low": [(-(2**63), -(2**63) + 20)], "high": [(2**53 - 3, 2**53 + 9), (2**63 - 11, 2**63 - 1)]}
    async with Lab(backend, router=RangeRouter(ranges)) as lab:
        for size in (1, 4, 5, 100):
            pages = [page async for page in lab.reader.pages(size=size)]
            assert pd.concat([page.frame for page in pages], ignore_index=True).equals(lab.rows)
