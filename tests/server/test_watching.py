"""Watching real servers: whatever is written, killed or cut off, the last result is current."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from labkit import Lab, ReadResult, Status, faults
from labkit.shards.postgres import change_trigger
from tests.server.conftest import EMBEDDED
from tests.support.watching import PATIENCE, close_pools, comes_true, footprint, no_more_than

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRUE_WITHIN = 1.0
"""Seconds from the last write or recovery until the last result is current, as the issue requires."""
WRITES = 1000
WRITES_IN_CONTAINERS = 250
"""Fewer writes for the same number of kills: a container takes a second to restart."""


class Latest:
    """The latest result of a watch, and the number of results."""

    def __init__(self) -> None:
        self.result: ReadResult | None = None
        self.number = 0

    def first(self) -> str | None:
        """The name of the first row."""
        assert self.result is not None
        name: str | None = self.result.frame["name"][0]
        return name

    def status(self, shard: int) -> Status:
        assert self.result is not None
        return self.result.reports[shard].status

    def is_truth(self, lab: Lab) -> bool:
        return self.result is not None and self.result.complete and self.result.frame.equals(lab.rows)


@asynccontextmanager
async def watching(lab: Lab, interval: float = 1.0) -> AsyncIterator[Latest]:
    """Follows the lab's table in a separate task, which has ended on exit."""
    latest = Latest()

    async def follow() -> None:
        async with aclosing(lab.reader.watch(interval=interval)) as results:
            async for result in results:
                latest.result = result
                latest.number += 1

    following = asyncio.create_task(follow())
    try:
        assert await comes_true(lambda: latest.is_truth(lab))
        yield latest
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def write_at_random(lab: Lab, draw: random.Random, number: int, dead: set[int]) -> None:
    """Inserts, renames or deletes a row of a live shard."""
    row_id = draw.choice([i for i in range(1, 61) if lab.router.locate(i) not in dead])
    if draw.random() < 0.25:
        await lab.delete(row_id)
    else:
        await lab.put(row_id, draw.choice([f"{number}", None, "", f"ü {number}"]))


@pytest.mark.timeout(120)
async def test_after_a_thousand_writes_and_kills_the_last_result_is_the_truth(lab: Lab) -> None:
    """Random rows are written while shards are killed and recover at random times: a second after the last write and
    recovery, the last result has exactly the lab's rows. No task or listener is left.
    """
    draw = random.Random(7)
    writes = WRITES_IN_CONTAINERS if lab.containers else WRITES
    chance = 10 / writes
    await close_pools(lab)
    before = footprint()
    async with watching(lab) as latest:
        dead: set[int] = set()
        kills = 0
        for number in range(writes):
            await write_at_random(lab, draw, number, dead)
            if draw.random() < chance and len(dead) < 2:
                victim = draw.choice([shard for shard in (1, 2, 3) if shard not in dead])
                await lab.inject(victim, faults.Kill())
                dead.add(victim)
                kills += 1
            elif draw.random() < chance:
                await lab.heal()
                dead.clear()
        await lab.heal()
        assert kills >= 5
        assert await comes_true(lambda: latest.is_truth(lab), TRUE_WITHIN), (latest.result, lab.rows)
        assert latest.number < writes
    await close_pools(lab)
    assert await comes_true(no_more_than(before)), (before, footprint())


async def test_a_change_that_nobody_was_told_of_is_not_missed_for_good(lab: Lab) -> None:
    """A shard cut off is missing, and what was written meanwhile is seen a moment after it is back."""
    async with watching(lab) as latest:
        async with lab.fault(2, faults.Down()):
            assert await comes_true(lambda: latest.result is not None and latest.result.missing == ((11, 20), (41, 50)))
            await lab.put(12, "while cut off")
            await lab.put(1, "elsewhere")
            await lab.delete(15)
            assert await comes_true(lambda: latest.first() == "elsewhere", TRUE_WITHIN)
        assert await comes_true(lambda: latest.is_truth(lab), TRUE_WITHIN)
        assert lab.rows.set_index("id")["name"][12] == "while cut off"


@EMBEDDED
async def test_a_frozen_shard_is_found_out_and_delays_nobody(lab: Lab) -> None:
    """A periodic check finds a frozen shard, whose connection stays open, while changes of others are seen."""
    async with watching(lab, interval=0.2) as latest:
        await lab.inject(2, faults.Pause())
        await lab.put(1, "meanwhile")
        assert await comes_true(lambda: latest.first() == "meanwhile", TRUE_WITHIN)
        assert await comes_true(lambda: latest.status(2) is Status.TIMEOUT)
        assert latest.result is not None
        assert latest.result.missing == ((11, 20), (41, 50))
        await lab.heal()
        assert await comes_true(lambda: latest.is_truth(lab), TRUE_WITHIN)


@EMBEDDED
async def test_a_table_that_is_swapped_is_noticed(lab: Lab) -> None:
    """A swapped-in table without notifications is noticed by the periodic check, or reported by the server."""
    async with watching(lab, interval=0.2) as latest:
        await lab.inject(2, faults.MissingRows(3))
        assert await comes_true(lambda: latest.result is not None and len(latest.result.frame) == len(lab.rows) - 3)
        await lab.heal()
        assert await comes_true(lambda: latest.is_truth(lab))


@EMBEDDED
async def test_a_consumer_that_sleeps_sees_the_latest(lab: Lab) -> None:
    """Fifty writes while the consumer slept give one result, or two if one was in the making."""
    async with aclosing(lab.reader.watch()) as results, asyncio.timeout(PATIENCE):
        assert (await anext(results)).frame.equals(lab.rows)
        async with watching(lab) as awake:
            for number in range(50):
                await lab.put(12, f"{number}")
            assert await comes_true(lambda: awake.is_truth(lab))
        asked = 0
        while not (await anext(results)).frame.equals(lab.rows):
            asked += 1
        assert asked <= 1


async def test_a_server_that_cannot_tell_is_read_at_the_interval(lab: Lab) -> None:
    """Without trigger or notifications, changes are still seen at the stated interval."""
    admin = await lab._shards[2].admin()
    if lab.backend == "postgres":
        await admin.execute("DROP TRIGGER labkit_changes ON data_2")
    else:
        await admin.config_set("notify-keyspace-events", "")
    try:
        async with watching(lab, interval=0.1) as latest:
            await lab.put(12, "polled")
            assert await comes_true(lambda: latest.is_truth(lab))
    finally:
        if lab.backend == "postgres":
            await admin.execute(change_trigger("data_2"))
        else:
            await admin.config_set("notify-keyspace-events", "Kgz")


@EMBEDDED
async def test_consumers_share_the_connections(lab: Lab) -> None:
    """Twenty watches use no more connections than one."""
    async with watching(lab):
        one = footprint()[2]
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(_first(lab))
        assert footprint()[2] <= one


async def _first(lab: Lab) -> None:
    async with asyncio.timeout(PATIENCE), aclosing(lab.reader.watch()) as results:
        assert (await anext(results)).complete
