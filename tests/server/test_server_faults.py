"""Server faults: each does what it says, on new and old connections, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from labkit import Lab, ReadResult, Status, errors, faults
from labkit.faults import Fault, Sample, Undo
from tests.support.containers import LAUNCHERS
from tests.support.lateness import MARGIN, starved
from tests.support.snapshot import left_as, snapshot
from tests.support.watching import admin, cold

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT = 0.6
GAP = ((11, 20), (41, 50))
SERVER = [entry for entry in faults.ALL.values() if entry.layer == "server"]

WORDS: dict[type[Fault], dict[str, str]] = {
    faults.LockTable: {"postgres": "no answer before the deadline"},
    faults.SlowQuery: {"postgres": "no answer before the deadline"},
    faults.StatementTimeout: {"postgres": "canceling statement due to statement timeout"},
    faults.ExhaustConnections: {"postgres": "too many clients already"},
    faults.WrongPassword: {"postgres": "password authentication failed", "redis": "invalid username-password pair"},
    faults.DropTable: {"postgres": 'relation "data_2" does not exist'},
    faults.ClientPause: {"redis": "no answer before the deadline"},
    faults.Busy: {"redis": "BUSY"},
    faults.MaxClients: {"redis": "max number of clients reached"},
    faults.MasterDown: {"redis": "Link with MASTER is down"},
}
"""The cause that a read reports, for faults that always give the same one."""


def cases(launchers: list[Any], one_each: bool = False) -> list[Any]:
    """(backend, launcher) with each sample of each server fault, or with `one_each` only the last one. Cluster nodes,
    being Redis servers, are left to the failure matrix.
    """
    return [
        pytest.param(
            (backend, *launcher.values),
            sample,
            id=f"{backend}-{launcher.values[0]}-{sample.fault!r}",
            marks=launcher.marks,
        )
        for launcher in launchers
        for entry in SERVER
        for backend in entry.backends
        if backend != "redis-cluster"
        for sample in entry.samples(TIMEOUT)[-1 if one_each else 0 :]
    ]


def on(backend: str) -> Any:
    """Marks a test to run on a lab of this backend, with each launcher."""
    labs = [pytest.param((backend, *p.values), id=f"{backend}-{p.values[0]}", marks=p.marks) for p in LAUNCHERS]
    return pytest.mark.parametrize("lab", labs, indirect=True)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def labs() -> AsyncIterator[Callable[[str, str], Awaitable[Lab]]]:
    """Labs of this module, each started on first use."""
    made: dict[tuple[str, str], Lab] = {}
    async with AsyncExitStack() as stack:

        async def get(backend: str, launcher: str) -> Lab:
            if (backend, launcher) not in made:
                new = Lab(backend, launcher=launcher, timeout=TIMEOUT)
                made[backend, launcher] = await stack.enter_async_context(new)
            return made[backend, launcher]

        yield get


@pytest_asyncio.fixture(loop_scope="module")
async def lab(request: pytest.FixtureRequest, labs: Callable[[str, str], Awaitable[Lab]]) -> AsyncIterator[Lab]:
    """A lab that is complete before the test, and healed after it."""
    lab = await labs(*request.param)
    (await lab.read()).raise_for_missing()
    yield lab
    await lab.heal()


async def both(lab: Lab) -> tuple[ReadResult, ReadResult]:
    """Concurrent reads by a reader without connections and by the lab's own reader."""
    async with cold(lab, TIMEOUT) as newcomer:
        new, old = await asyncio.gather(newcomer.read(), lab.read())
    return new, old


def judge(lab: Lab, result: ReadResult, may: frozenset[Status], fault: Fault) -> None:
    """Asserts that the read is right under the fault, with a status from `may`."""
    report = result.reports[2]
    assert report.status in may, report
    assert result.elapsed <= TIMEOUT + MARGIN + starved()
    assert {result.reports[shard].status for shard in (1, 3)} == {Status.OK}
    mine = lab.router.locate_many(lab.rows["id"]) == 1
    assert result.missing == (GAP if report.failed else ())
    assert result.frame.equals(lab.rows[~(mine & report.failed)].reset_index(drop=True))
    if report.failed and type(fault) in WORDS and report.status is not Status.DISCONNECTED:
        assert WORDS[type(fault)][lab.backend] in (report.error or "")


@pytest.mark.parametrize(("lab", "sample"), cases(LAUNCHERS), indirect=["lab"])
async def test_a_read_reports_it_as_it_says_and_nothing_is_left_of_it(lab: Lab, sample: Sample) -> None:
    """Cold and warm reads have a status of the sample's and an exact gap, in time, and the fault fires.

    Once it is undone, the very next read is complete and the server is as before.
    """
    before = await snapshot(lab)
    async with lab.fault(2, sample.fault):  # warns, and so fails, if it did not fire
        new, old = await both(lab)
    assert (await lab.read()).complete
    judge(lab, new, sample.cold, sample.fault)
    judge(lab, old, sample.warm, sample.fault)
    await left_as(lab, before)


@pytest.mark.parametrize(("lab", "sample"), cases(LAUNCHERS[:1], one_each=True), indirect=["lab"])
async def test_it_is_undone_on_a_server_that_started_again_meanwhile(lab: Lab, sample: Sample) -> None:
    """A fault is undone even if the server restarted meanwhile and all of the fault's connections are lost."""
    before = await snapshot(lab)
    async with lab.fault(2, sample.fault):
        await both(lab)
        await lab._shards[2].kill()  # past the lab, which would refuse
        await lab._shards[2].restart()
    assert (await lab.read()).complete
    await left_as(lab, before)


class Remembering(Undo):
    """An `Undo` that remembers its steps after they have run."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[Callable[[], Awaitable[Any]]] = []

    def push(self, step: Callable[[], Awaitable[Any]]) -> None:
        super().push(step)
        self.pushed.append(step)


@pytest.mark.parametrize(("lab", "sample"), cases(LAUNCHERS, one_each=True), indirect=["lab"])
async def test_undoing_does_no_harm_where_there_is_nothing_to_undo(lab: Lab, sample: Sample) -> None:
    """Undo steps run a second time, as after a start that failed before doing anything, leave the server as it was."""
    before, undo, shard = await snapshot(lab), Remembering(), lab._shards[2]
    await sample.fault.start(shard, undo)
    for step in [*reversed(undo.pushed), *reversed(undo.pushed)]:
        await step()
    shard.release()
    await left_as(lab, before)
    async with cold(lab, TIMEOUT) as newcomer:
        assert (await newcomer.read()).complete


@on("postgres")
async def test_not_one_connection_is_left_while_they_are_exhausted(lab: Lab) -> None:
    """While connections are exhausted not even the superuser gets one; undoing the fault gives all of them back."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    keeper = await admin(lab)
    try:
        shard, undo = lab._shards[2], Undo()
        await shard.admin()
        before = await keeper.fetchval(count)
        await faults.ExhaustConnections().start(shard, undo)
        assert await keeper.fetchval(count) == int(await keeper.fetchval("SHOW max_connections"))
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await admin(lab)
        await undo.run()
        assert await keeper.fetchval(count) <= before  # others may have left
    finally:
        lab._shards[2].release()
        keeper.terminate()


@on("postgres")
async def test_a_slow_query_sleeps_once_also_where_it_finds_nothing(lab: Lab) -> None:
    """SlowQuery sleeps once per query, not per row, even if no row matches."""
    loop, seconds = asyncio.get_running_loop(), 0.1
    connection = await admin(lab)
    try:
        async with lab.fault(2, faults.SlowQuery(seconds)):
            for query, rows in [("SELECT * FROM data_2", 20), ("SELECT * FROM data_2 WHERE id = 99", 0)]:
                started = loop.time()
                assert len(await connection.fetch(query)) == rows
                assert seconds <= loop.time() - started < 3 * seconds
            assert (await lab.read()).complete
    finally:
        connection.terminate()


@on("postgres")
async def test_undoing_a_slow_query_does_not_wait_for_who_still_sleeps(lab: Lab) -> None:
    """Undoing SlowQuery cancels queries that are still sleeping."""
    connection = await admin(lab)
    try:
        async with lab.fault(2, faults.SlowQuery(60)):
            sleeper = asyncio.create_task(connection.fetch("SELECT * FROM data_2"))
            await lab.read()
        with pytest.raises(asyncpg.QueryCanceledError):
            await asyncio.wait_for(sleeper, 1)
        assert (await lab.read()).complete
    finally:
        connection.terminate()


@on("postgres")
async def test_the_server_gives_up_long_before_the_deadline(lab: Lab) -> None:
    """A statement timeout is reported as soon as the server ends the query, not at the reader's deadline."""
    async with lab.fault(2, faults.StatementTimeout(0.05)):
        report = (await lab.read()).reports[2]
    assert report.status is Status.TIMEOUT
    assert 0.05 <= report.elapsed < TIMEOUT / 2


@on("postgres")
async def test_the_fault_says_what_a_real_statement_timeout_says(lab: Lab) -> None:
    """The fault has the same error code and message as a real statement timeout, for SELECT and COPY."""

    async def told(query: str) -> tuple[Any, str]:
        with pytest.raises(asyncpg.QueryCanceledError) as raised:
            await connection.execute(query)
        return raised.value.sqlstate, raised.value.message

    connection = await admin(lab)
    try:
        await connection.execute("SET statement_timeout = '50ms'")
        real = await told("SELECT pg_sleep(5)")
        await connection.execute("SET statement_timeout = 0")
        async with lab.fault(2, faults.StatementTimeout(0.05)):
            await lab.read()
            assert await told("SELECT * FROM data_2") == real
            assert await told("COPY (SELECT * FROM data_2) TO '/dev/null'") == real
    finally:
        connection.terminate()


@on("postgres")
async def test_a_read_whose_session_is_terminated_hears_it_at_once(lab: Lab) -> None:
    """A read whose session is terminated is DISCONNECTED before the deadline; the lab's own sessions remain."""
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'data_2'::regclass AND NOT granted"
    holder = await admin(lab)
    try:
        await holder.execute("BEGIN; LOCK TABLE data_2")
        read = asyncio.create_task(lab.read())
        while not await holder.fetchval(waiting):
            assert not read.done()
        async with lab.fault(2, faults.TerminateBackends()):
            report = (await read).reports[2]
            await holder.execute("COMMIT")
        assert report.status is Status.DISCONNECTED
        assert "terminating connection" in (report.error or "")
        assert report.elapsed < TIMEOUT
    finally:
        holder.terminate()


@on("redis")
async def test_nobody_else_gets_in_at_a_server_with_too_many_clients(lab: Lab) -> None:
    """Under MaxClients not even the administrator can connect, but existing connections keep working."""
    async with await admin(lab) as client, lab.fault(2, faults.MaxClients()):
        with pytest.raises(
            ConnectionError
        ):  # the server gives the reason and hangs up: the client may notice the latter first
            await admin(lab)
        assert await client.zcard("data_2") == 20
        await both(lab)


@on("redis")
async def test_who_pauses_clients_waits_for_the_end_of_the_pause(lab: Lab) -> None:
    """Undoing ClientPause, which cannot end early, takes until its end; afterwards no command is delayed."""
    loop, seconds = asyncio.get_running_loop(), 0.8
    started = loop.time()
    async with lab.fault(2, faults.ClientPause(seconds)):
        await lab.read()
    assert loop.time() - started >= seconds
    assert (await lab.read()).elapsed < TIMEOUT / 2


@pytest.mark.parametrize("kind", [faults.SlowQuery, faults.StatementTimeout, faults.ClientPause])
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "1", None])
async def test_a_time_that_is_none_is_refused(kind: Any, seconds: Any) -> None:
    """An invalid time raises UsageError, naming fault and value, when the fault is created."""
    with pytest.raises(
        errors.UsageError, match=f"{kind.__name__}: seconds must be a positive number.*, not {seconds!r}"
    ):
        kind(seconds)


async def test_a_pause_that_nobody_could_end_is_refused() -> None:
    """ClientPause refuses more than 60 seconds, since it cannot be ended early."""
    with pytest.raises(errors.UsageError, match="up to 60, not 61"):
        faults.ClientPause(61)
