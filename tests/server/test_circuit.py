"""Circuit breakers in front of real servers: a hanging shard is not queried, and is found again when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from labkit import Lab, ReadResult, ShardReader, Status, faults
from labkit.shards.circuit import SILENCE, CircuitBreaker
from tests.server.conftest import EMBEDDED
from tests.support.watching import PATIENCE, cold

pytestmark = [pytest.mark.asyncio(loop_scope="module"), EMBEDDED]

TIMEOUT = 0.5
"""Seconds; short, because tests wait for it more than once."""
OPEN = "circuit open: no answer before the deadline (3 times in a row)"
CROWD = "circuit open: 10 reads wait and none was answered"


@asynccontextmanager
async def guarded(lab: Lab, seconds: float = TIMEOUT) -> AsyncIterator[ShardReader]:
    """A reader with warm connections to the lab's shards, each behind a breaker."""
    breakers = {shard: CircuitBreaker(source) for shard, source in cold(lab).shards.items()}
    async with ShardReader(lab.router, breakers, timeout=seconds) as reader:
        async with asyncio.timeout(PATIENCE):
            while not (await reader.read()).complete:
                pass
        yield reader


def only_2_is_missing(result: ReadResult) -> bool:
    """Whether shards 1 and 3 are complete and shard 2 is missing."""
    statuses = {shard: report.status for shard, report in result.reports.items()}
    assert statuses == {1: Status.OK, 2: statuses[2], 3: Status.OK}
    return (result.missing, result.table.num_rows) == (((11, 20), (41, 50)), 40) and statuses[2] is not Status.OK


async def test_a_frozen_shard_is_waited_for_three_times(lab: Lab) -> None:
    """After three timeouts its circuit opens and reads no longer wait; a probe finds the shard when it resumes."""
    async with guarded(lab) as reader:
        async with lab.fault(2, faults.Pause()):
            for _ in range(3):
                result = await reader.read()
                assert only_2_is_missing(result)
                assert result.reports[2].status is Status.TIMEOUT
            for _ in range(20):
                result = await reader.read()
                assert only_2_is_missing(result)
                assert (result.reports[2].status, result.reports[2].error) == (Status.UNREACHABLE, OPEN)
            assert [reader.shards[shard].state for shard in (1, 2, 3)] == ["closed", "open", "closed"]
        async with asyncio.timeout(PATIENCE):
            while not (result := await reader.read()).complete:
                assert only_2_is_missing(result)
                await asyncio.sleep(0.01)
        assert reader.shards[2].state == "closed"


async def test_a_crowd_does_not_wait_for_a_frozen_shard(lab: Lab) -> None:
    """While ten reads wait for it unanswered, another read returns before any of the ten has timed out."""
    timeout = 2 * TIMEOUT
    async with guarded(lab, timeout) as reader, lab.fault(2, faults.Pause()):
        crowd = [asyncio.create_task(reader.read()) for _ in range(10)]
        await asyncio.sleep(2 * timeout * SILENCE)
        result = await reader.read()
        assert not any(task.done() for task in crowd)
        assert only_2_is_missing(result)
        assert (result.reports[2].status, result.reports[2].error) == (Status.UNREACHABLE, CROWD)
        for result in await asyncio.gather(*crowd):
            assert only_2_is_missing(result)
            assert result.reports[2].status is Status.TIMEOUT


async def test_a_crowd_on_shards_that_answer_is_never_refused(lab: Lab) -> None:
    """200 concurrent reads, on cold connections and on warm ones, are all complete, and no circuit opens."""
    breakers = {shard: CircuitBreaker(source) for shard, source in cold(lab).shards.items()}
    # Only a slow machine needs this long.
    async with ShardReader(lab.router, breakers, timeout=5.0) as reader:
        for _ in range(3):
            results = await asyncio.gather(*(reader.read() for _ in range(200)))
            assert {report.error for result in results for report in result.reports.values()} == {None}
        assert {breaker.state for breaker in breakers.values()} == {"closed"}


async def test_a_dead_shard_is_asked_each_time(lab: Lab) -> None:
    """Refused connections are cheap, so no circuit opens, and the first read after the restart is complete."""
    async with guarded(lab) as reader:
        async with lab.fault(2, faults.Kill()):
            for _ in range(20):
                assert only_2_is_missing(await reader.read())
            assert reader.shards[2].state == "closed"
        assert (await reader.read()).complete
