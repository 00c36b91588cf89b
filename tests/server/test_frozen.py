"""A shard that hangs: frozen from outside, on warm and cold connections."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from labkit import CLASSIC, Lab, ReadResult, Status, faults
from labkit.lab.keeper.processes import Processes
from tests.server.conftest import EMBEDDED
from tests.support.containers import LAUNCHERS
from tests.support.lateness import MARGIN, starved
from tests.support.watching import (
    PATIENCE,
    admin,
    cold,
    comes_true,
    footprint,
    frozen_from_outside,
    no_more_than,
    running,
    status,
    tree,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GAPS = ((11, 20), (41, 50))


def assert_only_shard_2_is_late(result: ReadResult, timeout: float) -> None:
    assert result.elapsed < timeout + MARGIN + starved()
    assert result.missing == GAPS
    assert {shard: report.status for shard, report in result.reports.items()} == {
        1: Status.OK,
        2: Status.TIMEOUT,
        3: Status.OK,
    }
    assert result.frame["id"].tolist() == [i for i in range(1, 61) if CLASSIC.locate(i) != 2]


async def test_frozen_on_warm_connections(lab: Lab) -> None:
    """A read of a frozen shard returns 40 rows within 2.05 s and leaves nothing; after SIGCONT reads are complete."""
    before = footprint()
    with frozen_from_outside(lab, 2):
        result = await lab.read()
        assert_only_shard_2_is_late(result, 2.0)
        assert await comes_true(no_more_than(before)), (before, footprint())
    assert (await lab.read()).complete


async def test_frozen_on_cold_connections(lab: Lab) -> None:
    """A connection that cannot be made in time also ends at the deadline, and closing the reader does not hang."""
    before = footprint()
    with frozen_from_outside(lab, 2):
        async with cold(lab) as reader:
            assert_only_shard_2_is_late(await reader.read(), 2.0)
        assert await comes_true(no_more_than(before)), (before, footprint())
    assert (await lab.read()).complete


@EMBEDDED
async def test_a_hundred_frozen_reads_leave_nothing(lab: Lab) -> None:
    """100 timed-out reads in a row leave no task, thread or socket behind."""
    async with cold(lab) as reader:
        assert (await reader.read()).complete
        reader._timeout = 0.1  # otherwise a hundred reads take 200 s
        before = footprint()
        with frozen_from_outside(lab, 2):
            for _ in range(100):
                result = await reader.read()  # within 0.1 s a live shard may time out as well
                assert result.elapsed < reader.timeout + MARGIN + starved()
                assert result.reports[2].status is Status.TIMEOUT
            assert await comes_true(no_more_than(before)), (before, footprint())
    assert (await lab.read()).complete


async def test_closing_a_reader_of_a_frozen_shard_does_not_wait(lab: Lab) -> None:
    """aclose() drops warm connections to a server that does not answer."""
    reader = cold(lab)
    assert (await reader.read()).complete
    with frozen_from_outside(lab, 2):
        async with asyncio.timeout(1.0):
            await reader.aclose()


async def test_a_caller_that_leaves_early_leaves_nothing(lab: Lab) -> None:
    """Cancelling read() cancels its work on every shard."""
    before = footprint()
    with frozen_from_outside(lab, 2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await lab.read()
        assert await comes_true(no_more_than(before)), (before, footprint())
    assert (await lab.read()).complete


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_no_query_is_left_on_the_server(launcher: str) -> None:
    """After SIGCONT Postgres ends the queries of reads that have timed out."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND application_name = 'labkit'"
    async with Lab("postgres", launcher=launcher, timeout=0.5) as lab:
        assert (await lab.read()).complete
        with frozen_from_outside(lab, 2):
            for _ in range(3):
                await lab.read()
        connection = await admin(lab)
        try:
            async with asyncio.timeout(PATIENCE):
                while await connection.fetchval(query):
                    await asyncio.sleep(0.01)
        finally:
            connection.terminate()


async def test_the_pause_fault_is_the_same(lab: Lab) -> None:
    """`Pause` has the same effect as `kill -STOP`, and undoing it resumes the server."""
    async with lab.fault(2, faults.Pause()):
        assert_only_shard_2_is_late(await lab.read(), 2.0)
    assert (await lab.read()).complete


async def test_a_black_hole_hangs_connect_and_silences_connections(lab: Lab) -> None:
    """Under BlackHole both warm and new connections time out, even on loopback; undone, both work."""
    async with cold(lab, timeout=0.5) as reader:
        async with lab.fault(2, faults.BlackHole()):
            warm, new = await asyncio.gather(lab.read(), reader.read())
            assert_only_shard_2_is_late(warm, 2.0)
            assert_only_shard_2_is_late(new, 0.5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.open_connection("127.0.0.1", lab._shards[2].port)
        assert (await lab.read()).complete
        assert (await reader.read()).complete


async def test_a_reader_with_a_longer_timeout_waits_longer() -> None:
    """The server's own statement timeout follows the reader's."""
    async with Lab("postgres", timeout=7.5) as lab:
        await lab.read()
        pool = lab.reader.shards[2]._server.pool()  # type: ignore[attr-defined]
        async with pool.connected(asyncio.get_running_loop().time() + 5) as connection:
            assert await connection.fetchval("SHOW statement_timeout") == "7500ms"


async def test_what_is_paused_stands_still_when_the_pause_returns(tmp_path: Path) -> None:
    """pause() returns once a busy process and its children are stopped, though each stops only when next scheduled."""
    processes = Processes(None)
    busy = "while :; do :; done & " * 7 + "wait"
    where = {"cwd": str(tmp_path), "log": str(tmp_path / "log")}
    try:
        pid = await processes.spawn("busy", ["sh", "-c", busy], **where, drop=False, farewell=signal.SIGKILL, stdin="")
        assert await comes_true(lambda: len(tree(pid)) == 8)
        for _ in range(5):
            await processes.pause("busy")
            assert {status(process) for process in tree(pid)} == {psutil.STATUS_STOPPED}
            await processes.resume("busy")
            assert psutil.STATUS_STOPPED not in {status(process) for process in tree(pid)}
        everybody = tree(pid)
    finally:
        await processes.stop_all(0)
    assert running(everybody) == []  # children of a shell outlive it
