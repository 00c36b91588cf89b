"""Shards that die: before a read, during one, all at once; and what `raise_for_missing` says."""

from __future__ import annotations

import asyncio
import socket

import pytest

from labkit import Lab, Status, errors, faults
from labkit.shards import RedisShard
from tests.server.conftest import EMBEDDED
from tests.support.mocks import taken
from tests.support.watching import admin, cold, comes_true, footprint, kill_from_outside, no_more_than, refuses

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("warm", [True, False])
async def test_a_dead_shard_is_unreachable_at_once(lab: Lab, warm: bool) -> None:
    """A dead shard is reported at once, not at the deadline, whether connections were warm or cold."""
    async with cold(lab, timeout=30.0) as reader:
        if warm:
            await reader.read()
        async with lab.fault(3, faults.Kill()):
            async with asyncio.timeout(5.0):
                result = await reader.read()
            assert result.reports[3].status is Status.UNREACHABLE
            assert result.reports[3].error == "connection refused"
            assert result.missing == ((21, 30), (51, 60))
            assert result.table.num_rows == 40
        assert (await reader.read()).complete


@EMBEDDED
async def test_the_address_of_a_dead_shard_is_nobody_elses(lab: Lab) -> None:
    """A dead shard's port refuses connections but stays reserved, even from servers that bind with SO_REUSEADDR."""
    port = lab._shards[3].port
    async with lab.fault(3, faults.Kill()):
        assert (await lab.read()).missing == ((21, 30), (51, 60))
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="Address already in use"):
                stranger.bind(("127.0.0.1", port))
    assert (await lab.read()).complete


async def test_a_killed_server_is_not_dialled_past_its_proxy(lab: Lab) -> None:
    """Another program may have the port of a killed server by now, so the administrator does not send a password
    there.
    """
    async with lab.fault(3, faults.Kill()):
        with pytest.raises(OSError, match="it listens nowhere"):
            await lab.admin(3)
    again = await lab.admin(3)
    assert await lab._backend.alive(again)
    lab._backend.hang_up(again)


async def test_killed_from_outside(lab: Lab) -> None:
    """A shard killed behind the lab's back is missing until it is restarted, and no read raises."""
    assert await comes_true(kill_from_outside(lab, 2))
    result = await lab.read()
    assert result.missing == ((11, 20), (41, 50))
    assert result.reports[2].status in (Status.UNREACHABLE, Status.DISCONNECTED)
    assert await comes_true(lambda: refuses(lab._shards[2].port))  # the proxy has noticed its death
    assert (await lab.read()).reports[2].status is Status.UNREACHABLE
    await lab.inject(2, faults.Kill())  # now the lab knows, and heal() restarts it
    await lab.heal()
    assert (await lab.read()).complete


async def test_killed_in_the_middle_of_a_read(lab: Lab) -> None:
    """A connection that breaks after the query was sent is DISCONNECTED, and none of the shard's rows are used."""
    async with cold(lab, timeout=30.0) as reader:
        await reader.read()
        before = footprint()
        async with _holding_up(lab):
            task = asyncio.create_task(reader.read())
            await _query_sent(lab, reader.shards[2])
            await lab.inject(2, faults.Kill())
        result = await task
        assert result.reports[2].status is Status.DISCONNECTED
        assert result.missing == ((11, 20), (41, 50))
        assert result.frame["id"].isin(range(11, 21)).sum() == 0
        assert result.table.num_rows == 40
        await lab.heal()
        assert (await reader.read()).complete
        assert await comes_true(no_more_than(before)), (before, footprint())


async def test_all_shards_down_is_an_empty_incomplete_result(lab: Lab) -> None:
    """With all shards down everything is missing, and raise_for_missing names ranges, shards and causes."""
    for shard in (1, 2, 3):
        await lab.inject(shard, faults.Kill())
    result = await lab.read()
    assert result.frame.empty
    assert list(result.frame.columns) == ["id", "name"]
    assert (result.complete, result.missing) == (False, ((1, 60),))
    with pytest.raises(errors.IncompleteRead) as caught:
        result.raise_for_missing()
    for word in ("1-60", "shard 1", "shard 2", "shard 3", "unreachable", "connection refused"):
        assert word in str(caught.value)


async def test_get_of_a_dead_shard_raises(lab: Lab) -> None:
    """get() raises when the row's owner is down, and still returns rows of other shards."""
    async with lab.fault(2, faults.Kill()):
        with pytest.raises(errors.ShardUnavailable, match="row 12 is unknown: shard 2 is unreachable"):
            await lab.reader.get(12)
        assert await lab.reader.get(1) == {"id": 1, "name": "Test 1"}


async def test_faults_stack_and_each_has_its_own_status(lab: Lab) -> None:
    """One read reports a frozen, a dead and a healthy shard; heal() undoes all, and the events record it."""
    seen = len(lab.events)
    await lab.inject(2, faults.Pause())
    await lab.inject(3, faults.Kill())
    result = await lab.read()
    assert [report.status for report in result.reports.values()] == [Status.OK, Status.TIMEOUT, Status.UNREACHABLE]
    await lab.heal()
    assert (await lab.read()).complete
    assert [(event.kind, event.shard, event.fault) for event in lab.events[seen:]] == [
        ("start", 2, faults.Pause()),
        ("fired", 2, faults.Pause()),
        ("start", 3, faults.Kill()),
        ("fired", 3, faults.Kill()),
        ("stop", 3, faults.Kill()),
        ("stop", 2, faults.Pause()),
    ]


async def test_a_paused_shard_can_be_killed(lab: Lab) -> None:
    """Pause and Kill on one shard are undone one after the other, and the address stays the same."""
    urls = lab.urls
    async with lab.fault(2, faults.Pause(), faults.Kill()):
        assert (await lab.read()).reports[2].status is Status.UNREACHABLE
    assert lab.urls == urls
    assert (await lab.read()).complete


async def test_a_paused_shard_is_paused_after_a_kill(lab: Lab) -> None:
    """Pause also acts on the new process when a killed server is restarted."""
    async with cold(lab, timeout=0.3) as reader, lab.fault(2, faults.Pause()):
        async with lab.fault(2, faults.Kill()):
            assert (await reader.read()).reports[2].status is Status.UNREACHABLE
        assert (await reader.read()).reports[2].status is Status.TIMEOUT
    assert (await lab.read()).complete


async def test_a_fault_is_undone_when_the_body_raises(lab: Lab) -> None:
    """A fault ends with its block, even when the block raises."""
    with pytest.raises(KeyError):
        async with lab.fault(1, faults.Kill()):
            raise KeyError
    assert (await lab.read()).complete


def _holding_up(lab: Lab):  # type: ignore[no-untyped-def]
    """Keeps shard 2 from answering: locks its Postgres table, or freezes its Redis."""
    return _locked(lab) if lab.backend == "postgres" else lab.fault(2, faults.Pause())


class _locked:  # noqa: N801 - a context manager, used as a verb
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def __aenter__(self) -> None:
        self.admin = await admin(self.lab)
        await self.admin.execute("BEGIN; LOCK TABLE data_2 IN ACCESS EXCLUSIVE MODE")

    async def __aexit__(self, *_: object) -> None:
        self.admin.terminate()


async def _query_sent(lab: Lab, source: object) -> None:
    """Returns once the query has been sent to shard 2."""
    if isinstance(source, RedisShard):
        assert await comes_true(lambda: taken(source._server) > 0)
        return
    connection = await admin(lab)
    try:
        while not await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.005)
    finally:
        connection.terminate()
