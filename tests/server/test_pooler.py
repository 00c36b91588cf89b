"""Postgres behind a real pgbouncer: each client gets its own table's rows, whichever session the pooler picks."""

from __future__ import annotations

import asyncio
import collections
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from labkit import Lab, RangeRouter, ShardReader, Status
from labkit.shards.postgres import PostgresShard
from tests.support.pooler import pooling
from tests.support.watching import admin, comes_true, sockets

pytestmark = [pytest.mark.pgbouncer, pytest.mark.asyncio(loop_scope="module")]

ROUTER = RangeRouter({1: [(1, 60)]})
SECRET = "s3cr3t"
OFF = "sslmode=disable&statement_timeout=off"
MODES = ["transaction", "session", "statement"]
FEW = {"default_pool_size": 3, "max_client_conn": 200}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def one() -> AsyncIterator[Lab]:
    """A lab with one server and two tables."""
    async with Lab("postgres", router=ROUTER, launcher="embedded") as lab:
        connection = await admin(lab, 1)
        await connection.execute("CREATE TABLE other AS SELECT id, 'other ' || id AS name FROM data_1")
        connection.terminate()
        yield lab


def a_reader(port: int, table: str = "data_1", options: str = OFF, timeout: float = 10.0, **kwargs: Any) -> ShardReader:
    shard = PostgresShard(f"postgresql://labkit@127.0.0.1:{port}/postgres?{options}", table, **kwargs)
    return ShardReader(ROUTER, {1: shard}, timeout=timeout)


PROGRAM = """
import asyncio, collections, sys
from tests.server.test_pooler import a_reader, tally_of
port, table, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print(asyncio.run(tally_of(port, table, number)))
"""


async def tally_of(port: int, table: str, number: int) -> dict[str, int]:
    """Counts whose rows arrived in `number` reads of a table, four at a time, by SELECT and COPY."""
    word = "other" if table == "other" else "Test"
    tally: collections.Counter[str] = collections.Counter()
    async with a_reader(port, table) as small, a_reader(port, table, bulk=True) as bulk:
        for i in range(number // 4):
            reader = bulk if i % 3 == 0 else small
            windows = [(1, 20), (None, 20), (1, None), (None, None)]
            for result in await asyncio.gather(*(reader.read(*window) for window in windows)):
                own = all(name.startswith(word) for name in result.table.column("name").to_pylist())
                tally[str(result) if not result.complete else "own" if own else "OTHER'S"] += 1
    return dict(tally)


@pytest.mark.parametrize("mode", MODES)
async def test_two_programs_get_the_rows_of_their_own_tables(one: Lab, mode: str) -> None:
    """Two programs get their own rows, even on sessions where the other has prepared its statements."""
    # In session mode each client needs its own session.
    sessions = {"default_pool_size": 30 if mode == "session" else 3}
    async with pooling(one, pool_mode=mode, **sessions) as port:
        programs = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, str(port), table, "200", stdout=asyncio.subprocess.PIPE
            )
            for table in ("data_1", "other")
        ]
        for program in programs:
            output, _ = await program.communicate()
            assert output.decode().strip() == "{'own': 200}"


async def test_a_reset_between_clients_costs_no_read(one: Lab) -> None:
    """A pooler that discards a session's statements between clients costs no read."""
    settings = {"server_reset_query": "DISCARD ALL", "server_reset_query_always": 1}
    async with pooling(one, pool_mode="transaction", default_pool_size=2, **settings) as port:
        assert await tally_of(port, "data_1", 200) == {"own": 200}


@pytest.mark.parametrize("bulk", [True, False])
async def test_a_timeout_that_the_pooler_refuses_says_what_to_write(one: Lab, bulk: bool) -> None:
    """A pooler that refuses statement_timeout gives an error with the fix; with the fix, or if the pooler ignores the
    setting, the shard is read.
    """
    async with pooling(one, pool_mode="transaction") as port:
        async with a_reader(port, options="sslmode=disable", bulk=bulk) as reader:
            report = (await reader.read()).reports[1]
        assert report.status is Status.REJECTED
        assert "unsupported startup parameter: statement_timeout" in (report.error or "")
        assert "write ?statement_timeout=off at the end of the shard's URL" in (report.error or "")
        async with a_reader(port, bulk=bulk) as reader:
            assert (await reader.read()).complete
    async with (
        pooling(one, pool_mode="transaction", ignore_startup_parameters="statement_timeout") as port,
        a_reader(port, options="sslmode=disable", bulk=bulk) as reader,
    ):
        assert (await reader.read()).complete


@pytest.mark.parametrize("mode", MODES)
async def test_a_watch_sees_changes_through_a_pooler(one: Lab, mode: str) -> None:
    """A watch through a pooler sees changes, with notifications or without, and leaves nothing behind."""
    before = sockets()
    async with pooling(one, pool_mode=mode, **FEW) as port, a_reader(port) as reader:
        names: list[str] = []

        async def follow() -> None:
            async for result in reader.watch(interval=0.2):
                assert result.complete
                names.append(result.table.column("name")[6].as_py())

        following = asyncio.create_task(follow())
        for name in ("first", "second", "Test 7"):
            await one.put(7, name)
            assert await comes_true(lambda name=name: bool(names) and names[-1] == name)
        following.cancel()
        await asyncio.wait([following])
    assert await comes_true(lambda: sockets() <= before)


async def test_a_pooler_whose_sessions_are_all_taken_is_a_timeout(one: Lab) -> None:
    """A read that waits in the pooler's queue ends at its deadline; once a session is free, reads are served."""
    async with (
        pooling(one, pool_mode="session", default_pool_size=1) as port,
        a_reader(port) as first,
        a_reader(port, timeout=0.3) as second,
    ):
        assert (await first.read()).complete
        assert (await second.read()).reports[1].status is Status.TIMEOUT
        await first.aclose()
        for _ in range(20):
            if (await second.read()).complete:
                break
        assert (await second.read()).complete


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bulk", [True, False])
async def test_a_pooler_that_asks_for_scram(one: Lab, mode: str, bulk: bool) -> None:
    """A pooler with SCRAM accepts a query sent along with the proof, and rejects a wrong password with its message."""
    settings = {"pool_mode": mode, "auth_type": "scram-sha-256", "users": {"reader": SECRET}}
    async with pooling(one, **settings) as port:
        for password, error in ((SECRET, None), ("wrong", "SASL authentication failed")):
            url = f"postgresql://reader:{password}@127.0.0.1:{port}/postgres?{OFF}"
            async with ShardReader(ROUTER, {1: PostgresShard(url, "data_1", bulk=bulk)}, timeout=10.0) as reader:
                results = [await reader.read() for _ in range(2)]
            assert [result.reports[1].error for result in results] == [error] * 2
            assert [result.complete for result in results] == [error is None] * 2
