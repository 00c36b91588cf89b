"""Faults inside servers that labkit did not start: they act, and are undone, also after SIGKILL of what started them.

A lab stands for the user's servers: clients reach them through its proxies, the administrator past these.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from labkit import Lab, Proxies, RangeRouter, ReadResult, ShardReader, errors, faults
from labkit.faults import Fault, Sample, Undo
from labkit.faults.server.commands import carry_out
from labkit.lab.access import ADMIN
from labkit.proxies.fronts import Front
from labkit.proxies.journal import Entry, Journal
from labkit.proxies.left import Outcome, undo_left
from labkit.proxies.own import Owned
from labkit.proxies.routes import route
from tests.support.lateness import MARGIN, starved
from tests.support.snapshot import left_as, snapshot
from tests.support.watching import admin, cold

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT = 0.5
ROUTER = RangeRouter({2: [(1, 60)]})
SESSIONS = {faults.LockTable, faults.ExhaustConnections}
"""Faults that end with the connections of their process."""
PASSING = {faults.TerminateBackends, faults.ClientPause}
"""Faults that end by themselves."""
WRITTEN = {entry.kind for entry in faults.ALL.values() if entry.kind.own_servers} - SESSIONS - PASSING
"""Faults that last until they are undone."""
OWN = [entry for entry in faults.ALL.values() if entry.kind.own_servers]
CASES = [
    pytest.param(backend, entry.samples(TIMEOUT)[-1], id=f"{backend}-{entry.name}")
    for backend in ("postgres", "redis")
    for entry in OWN
    if backend in entry.backends
]
Killable: TypeAlias = "subprocess.Popen[str]"


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal of a test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Journal()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def labs() -> AsyncIterator[dict[str, Lab]]:
    """A Postgres and a Redis of one shard each."""
    async with AsyncExitStack() as stack:
        yield {
            backend: await stack.enter_async_context(Lab(backend, router=ROUTER, launcher="embedded", timeout=TIMEOUT))
            for backend in ("postgres", "redis")
        }


@pytest.fixture(scope="module")
def forks() -> Iterator[Killable]:
    """A program that starts faults in processes of their own; see `own_faults`."""
    words = [sys.executable, "-m", "tests.support.own_faults"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield program
        assert program.stdin is not None
        program.stdin.close()


def admin_url(lab: Lab) -> str:
    """The URL of the administrator, past the lab's proxy: by the server's unix socket."""
    place, password = str(lab._shards[2].located), lab._backend.access.admin  # type: ignore[attr-defined]
    if lab.backend == "redis":
        return f"unix://{ADMIN}:{password}@{place}"
    return f"postgresql://{ADMIN}:{password}@/postgres?host={Path(place).parent}&port=5432"


def tcp_url(lab: Lab, password: str) -> str:
    """The administrator's URL by TCP, through the lab's proxy."""
    return f"{lab.urls[2].partition('//')[0]}//{ADMIN}:{password}@{lab.urls[2].partition('@')[2]}"


def proxies(lab: Lab, **given: Any) -> Proxies:
    """Proxies in front of the lab's server, as its owner makes them."""
    owned = {"admin": {"eu": admin_url(lab)}, "own": True, "tables": {"eu": "data_2"}, **given}
    return Proxies({"eu": lab.urls[2]}, **owned)


@asynccontextmanager
async def reader(lab: Lab, through: Proxies) -> AsyncIterator[ShardReader]:
    """A reader without connections yet, through the proxies."""
    source = lab._backend.source(through.urls["eu"], "data_2")
    async with ShardReader(ROUTER, {2: source}, timeout=TIMEOUT) as made:
        yield made


async def read(lab: Lab, through: Proxies) -> ReadResult:
    async with reader(lab, through) as made:
        return await made.read()


def entries(journal: Journal) -> list[Entry]:
    return [journal.read(path) for path in journal.paths()]


def nothing_left(journal: Journal) -> bool:
    """Whether the journal's folder has no entry and no lock."""
    folder = journal._folder
    return not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize(("backend", "sample"), CASES)
async def test_it_acts_and_is_undone(labs: dict[str, Lab], journal: Journal, backend: str, sample: Sample) -> None:
    """A read through the proxy has a status of the sample's in time; what must be undone is in the journal meanwhile.

    Afterwards reads are complete, the server is as before, and the journal is empty.
    """
    lab = labs[backend]
    before = await snapshot(lab)
    async with proxies(lab) as through, through.fault("eu", sample.fault):  # warns, and so fails, if it did not fire
        result = await read(lab, through)
        written = entries(journal)
    assert result.reports[2].status in sample.cold, result.reports[2]
    assert result.elapsed <= TIMEOUT + MARGIN + starved()
    assert bool(written) is (type(sample.fault) not in SESSIONS | PASSING)
    assert [entry.fault for entry in written] == [repr(sample.fault)] * len(written)
    await left_as(lab, before)
    assert nothing_left(journal)
    assert (await lab.read()).complete


async def killed(forks: Killable, lab: Lab, fault: Fault, url: str = "") -> None:
    """Starts the fault in another process, and kills that once the fault acts."""
    assert forks.stdin is not None
    assert forks.stdout is not None
    parameters = [type(fault).__name__, *astuple(fault)]  # type: ignore[call-overload]
    asked = {"url": url or lab.urls[2], "admin": admin_url(lab), "table": "data_2", "fault": parameters}
    asked_for = json.dumps({**asked, "state": os.environ["XDG_STATE_HOME"]})
    forks.stdin.write(f"{asked_for}\n")
    forks.stdin.flush()
    os.kill(int(await asyncio.to_thread(forks.stdout.readline)), signal.SIGKILL)
    assert await asyncio.to_thread(forks.stdout.readline) == "ended\n"


@pytest.mark.parametrize(("backend", "sample"), CASES)
async def test_it_is_undone_after_sigkill(
    labs: dict[str, Lab], forks: Killable, journal: Journal, backend: str, sample: Sample
) -> None:
    """After SIGKILL of the process with the fault, reads are complete and the server is as before once the journal is
    undone; its commands do no harm when they are given again, twice.
    """
    lab = labs[backend]
    before = await snapshot(lab)
    await killed(forks, lab, sample.fault)
    written = entries(journal)
    assert bool(written) is (type(sample.fault) not in SESSIONS | PASSING)
    if written and not isinstance(sample.fault, faults.MaxClients):  # which has room again
        async with cold(lab, TIMEOUT) as newcomer:
            assert (await newcomer.read()).reports[2].status in sample.cold
    outcomes = await undo_left(journal)
    assert [outcome.failed for outcome in outcomes] == [False] * len(written)
    assert all(f"eu ({', '.join(written[0].servers)}): {sample.fault!r} undone" == one.text for one in outcomes)
    await left_as(lab, before)
    connection = await admin(lab)
    for command in [command for entry in written * 2 for command in reversed(entry.commands)]:
        await carry_out(connection, command)
    lab._backend.hang_up(connection)  # type: ignore[attr-defined]
    await left_as(lab, before)
    assert nothing_left(journal)
    assert (await lab.read()).complete


class Killed(BaseException):
    """The end of a process."""


class Mortal:
    """An administrator's connection; the process is killed by the reply to the last command that is `left`."""

    COMMANDS = frozenset({"execute", "fetch", "fetchval", "execute_command", "config_get", "config_set", "info"})

    def __init__(self, connection: Any, left: list[None]) -> None:
        self._connection, self._left = connection, left

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._connection, name)

        async def command(*words: Any, **named: Any) -> Any:
            reply = await real(*words, **named)
            self._left.pop()
            if not self._left:
                raise Killed
            return reply

        return command if name in self.COMMANDS else real


@pytest.mark.parametrize(("backend", "sample"), [case for case in CASES if type(case.values[1].fault) in WRITTEN])
async def test_it_is_undone_wherever_the_start_was_killed(
    labs: dict[str, Lab], journal: Journal, backend: str, sample: Sample
) -> None:
    """Killed after any number of its commands, a fault has written down all that it did, before it did that."""
    lab, steps = labs[backend], 0
    before = await snapshot(lab)
    started = False
    while not started:
        steps += 1
        owned = Owned({"eu": admin_url(lab)}, True, {"eu": "data_2"})
        owned.check({"eu": route(lab.urls[2])})
        handle: Any = owned.handle(None, Front("eu", route(lab.urls[2])), "")  # type: ignore[arg-type]
        opened, left, administrator = [], [None] * steps, handle.admin

        async def admin_of(administrator: Any = administrator, left: list[None] = left) -> Any:
            return Mortal(await administrator(), left)

        async def connect(opened: list[Any] = opened, handle: Any = handle) -> Any:
            opened.append(await handle._administrator.connect())
            return opened[-1]

        handle.admin, handle.connect = admin_of, connect
        with suppress(Killed):
            await sample.fault.start(handle, Undo())
            started = True
        for connection in opened:
            lab._backend.hang_up(connection)  # type: ignore[attr-defined]
        await owned.aclose()
        assert not [outcome.text for outcome in await undo_left(journal) if outcome.failed]
        await left_as(lab, before)
    assert steps > 2


async def test_faults_that_were_injected_are_undone_when_the_proxies_stop(
    labs: dict[str, Lab], journal: Journal
) -> None:
    """Unlike network faults, those inside the server would outlive the proxies: `stop` undoes them."""
    before = await snapshot(labs["redis"])
    async with proxies(labs["redis"]) as through:
        await through.inject("eu", faults.Busy(), faults.Latency(1))
        assert entries(journal)
    await left_as(labs["redis"], before)
    assert nothing_left(journal)


async def test_maxclients_leaves_room_for_its_undo_beside_other_clients(
    labs: dict[str, Lab], forks: Killable, journal: Journal
) -> None:
    """However many clients a server has, the killed fault leaves room for 16 more, and so for the undo."""
    lab = labs["redis"]
    others = [await admin(lab) for _ in range(40)]
    await killed(forks, lab, faults.MaxClients())
    others += [await admin(lab) for _ in range(12)]
    assert not [outcome for outcome in await undo_left(journal) if outcome.failed]
    assert int((await others[0].config_get("maxclients"))["maxclients"]) > 500
    for client in others:
        await client.aclose()


async def test_masterdown_gives_a_replica_its_master_back(
    labs: dict[str, Lab], forks: Killable, journal: Journal
) -> None:
    """A server that was a replica is one of the same master again, whether the fault ends or is killed."""
    lab = labs["redis"]
    client = await admin(lab)
    try:
        await client.execute_command("REPLICAOF", "127.0.0.1", "2")
        async with proxies(lab) as through, through.fault("eu", faults.MasterDown()):
            await read(lab, through)
        assert await client.execute_command("CONFIG", "GET", "replicaof") == [b"replicaof", b"127.0.0.1 2"]
        await killed(forks, lab, faults.MasterDown())
        await undo_left(journal)
        assert await client.execute_command("CONFIG", "GET", "replicaof") == [b"replicaof", b"127.0.0.1 2"]
    finally:
        await client.execute_command("REPLICAOF", "NO", "ONE")
        await client.aclose()


async def test_masterdown_refuses_a_server_that_could_be_replaced(labs: dict[str, Lab], journal: Journal) -> None:
    """A replica could be promoted while its master plays dead: then the fault is refused, and nothing is changed."""
    lab = labs["redis"]
    before, client = await snapshot(lab), await admin(lab)
    try:
        connection = await client.connection_pool.get_connection()
        await connection.send_command("REPLCONF", "listening-port", "1")
        await connection.read_response()
        await connection.send_command("PSYNC", "?", "-1")
        await connection.read_response()
        async with proxies(lab) as through:
            with pytest.raises(errors.LabError, match="MasterDown does not act on a server with replicas"):
                await through.inject("eu", faults.MasterDown())
    finally:
        lab._backend.hang_up(client)  # type: ignore[attr-defined]
    await left_as(lab, before)


async def test_a_user_without_a_password_is_one_again(labs: dict[str, Lab], journal: Journal) -> None:
    """The fault acts on the user of the server's URL; one with `nopass` gets that back, and others are left alone."""
    lab = labs["redis"]
    async with await admin(lab) as client:
        await client.execute_command("ACL", "SETUSER", "guest", "on", "nopass", "~*", "+@all")
        before = set(await client.acl_list())
        guest = lab.urls[2].replace(f":{lab._backend.access.client}@", "guest:any@")  # type: ignore[attr-defined]
        through = Proxies({"eu": guest}, admin={"eu": admin_url(lab)}, own=True)
        async with through, through.fault("eu", faults.WrongPassword()):
            async with Redis.from_url(through.urls["eu"]) as visitor:
                with pytest.raises(AuthenticationError):
                    await visitor.ping()
            assert (await lab.read()).complete
        assert set(await client.acl_list()) == before
        await client.execute_command("ACL", "DELUSER", "guest")


async def test_a_password_that_was_given_meanwhile_is_kept(
    labs: dict[str, Lab], forks: Killable, journal: Journal
) -> None:
    """Whoever found that clients are locked out, and has given them a password, keeps it when the journal is undone."""
    connection = await admin(labs["postgres"])
    stored = "SELECT rolpassword FROM pg_authid WHERE rolname = 'labkit'"
    before = await connection.fetchval(stored)
    try:
        await killed(forks, labs["postgres"], faults.WrongPassword())
        assert await connection.fetchval(stored) != before
        await connection.execute("ALTER ROLE labkit PASSWORD 'another'")
        another = await connection.fetchval(stored)
        await undo_left(journal)
        assert await connection.fetchval(stored) == another
    finally:
        await connection.execute(f"ALTER ROLE labkit PASSWORD '{before}'")
        connection.terminate()


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_the_administrator_is_not_locked_out(labs: dict[str, Lab], journal: Journal, backend: str) -> None:
    """WrongPassword on the administrator's own user could not be undone: it is refused before anything is done."""
    lab = labs[backend]
    url = lab.urls[2].replace("labkit:", f"{ADMIN}:").replace("//:", f"//{ADMIN}:")
    async with Proxies({"eu": url}, admin={"eu": admin_url(lab)}, own=True) as through:
        with pytest.raises(errors.LabError, match=f"would lock out the administrator, who is '{ADMIN}'"):
            await through.inject("eu", faults.WrongPassword())
    assert nothing_left(journal)


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
async def test_a_table_that_was_made_meanwhile_is_not_dropped(
    labs: dict[str, Lab], forks: Killable, journal: Journal, kind: str
) -> None:
    """An application that makes its missing table again loses no row: the undo says so, and waits in the journal."""
    lab = labs["postgres"]
    before, connection = await snapshot(lab), await admin(lab)
    try:
        await killed(forks, lab, faults.DropTable())
        await connection.execute(f"CREATE {kind} data_2 AS SELECT 7 AS id")
        [outcome] = await undo_left(journal)
        assert outcome.failed
        assert 'relation "data_2" already exists' in outcome.text
        assert await connection.fetchval("SELECT id FROM data_2") == 7
        assert len(entries(journal)) == 1
        await connection.execute(f"DROP {kind} data_2")
        assert await undo_left(journal) == [Outcome(outcome.text.partition(" not undone")[0] + " undone")]
    finally:
        connection.terminate()
    await left_as(lab, before)


async def test_a_name_that_is_taken_is_left_alone(labs: dict[str, Lab], journal: Journal) -> None:
    """What already has a name that the fault would use is neither used nor removed; the fault does not start."""
    lab = labs["postgres"]
    connection = await admin(lab)
    await connection.execute("CREATE TABLE aside_data_2 (id INT)")
    await connection.execute("CREATE FUNCTION give_up_data_2() RETURNS INT LANGUAGE sql AS 'SELECT 1'")
    before = await snapshot(lab)
    try:
        async with proxies(lab) as through:
            for fault in (faults.DropTable(), faults.SlowQuery(1), faults.StatementTimeout()):
                with pytest.raises(
                    errors.LabError, match=rf"{type(fault).__name__}.* on shard 'eu': .* already exists"
                ):
                    await through.inject("eu", fault)
        await left_as(lab, before)
    finally:
        await connection.execute("DROP TABLE aside_data_2; DROP FUNCTION give_up_data_2()")
        connection.terminate()
    assert nothing_left(journal)


async def test_a_table_that_is_always_being_read_comes_back(labs: dict[str, Lab], journal: Journal) -> None:
    """Undoing SlowQuery cancels whoever sleeps, again and again, until it gets the view: readers never stop coming."""
    lab = labs["postgres"]
    before = await snapshot(lab)
    stopped = asyncio.Event()

    async def reads() -> None:
        connection = await admin(lab)
        await connection.execute("SET statement_timeout = 0")
        while not stopped.is_set():
            try:
                await connection.fetch("SELECT * FROM data_2")
            except asyncpg.QueryCanceledError:
                continue
        connection.terminate()

    async with proxies(lab) as through:
        await through.inject("eu", faults.SlowQuery(60))
        readers = [asyncio.create_task(reads()) for _ in range(4)]
        await read(lab, through)
        await through.heal()
    assert all(not one.done() for one in readers)
    stopped.set()
    await asyncio.gather(*readers)
    await left_as(lab, before)


async def test_nobody_sees_more_while_a_view_stands_in(labs: dict[str, Lab], journal: Journal) -> None:
    """Rights and row-level security of the table hold while SlowQuery has a view in its place."""
    lab = labs["postgres"]
    owner = await admin(lab)
    await owner.execute(
        "CREATE TABLE secret (id INT, name TEXT); INSERT INTO secret VALUES (1, 'mine'), (2, 'yours');"
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON secret USING (name = 'mine');"
        "CREATE ROLE reads; CREATE ROLE stranger; CREATE ROLE reads_one;"
        "GRANT SELECT ON secret TO reads; GRANT SELECT (id) ON secret TO reads_one"
    )

    async def seen(role: str) -> int:
        async with owner.transaction():
            await owner.execute(f"SET LOCAL ROLE {role}")
            return len(await owner.fetch("SELECT id FROM secret"))

    try:
        await owner.execute(
            "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM labkit; REVOKE ALL ON secret FROM labkit"
        )
        by_tcp = {"eu": tcp_url(lab, lab._backend.access.admin)}  # type: ignore[attr-defined]
        async with proxies(lab, admin=by_tcp, tables={"eu": "public.secret"}) as through:
            await through.inject("eu", faults.SlowQuery(0.001))
            assert await owner.fetchval("SELECT relkind FROM pg_class WHERE relname = 'secret'") == b"v"
            assert await seen("reads") == 1
            for statement in ("COPY secret TO '/dev/null'", "TRUNCATE secret"):
                with pytest.raises(asyncpg.WrongObjectTypeError):
                    await owner.execute(statement)
            for role in ("stranger", "labkit", "reads_one"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await seen(role)
            with pytest.warns(errors.NeverFired):
                await through.heal()
        assert (await seen("reads"), await seen("reads_one")) == (1, 1)
    finally:
        await owner.execute("DROP TABLE secret; DROP ROLE reads; DROP ROLE stranger; DROP ROLE reads_one")
        owner.terminate()


async def test_the_owner_of_a_table_is_administrator_enough(labs: dict[str, Lab], journal: Journal) -> None:
    """Without being a superuser, and without a right to cancel who reads: then the undo takes as long as they read."""
    lab = labs["postgres"]
    before, superuser = await snapshot(lab), await admin(lab)
    async with proxies(lab, admin={"eu": lab.urls[2]}) as through:
        for fault in (faults.LockTable(), faults.DropTable(), faults.StatementTimeout()):
            async with through.fault("eu", fault):
                assert not (await read(lab, through)).complete
        async with through.fault("eu", faults.SlowQuery(1.0)):
            sleeping = asyncio.create_task(superuser.fetch("SELECT * FROM data_2"))
            assert not (await read(lab, through)).complete
        assert len(await sleeping) == 60
        denied = r"WrongPassword\(\) on shard 'eu': permission denied for table pg_authid"
        with pytest.raises(errors.LabError, match=denied):
            await through.inject("eu", faults.WrongPassword())
    superuser.terminate()
    await left_as(lab, before)


async def test_another_process_does_not_start_where_a_fault_acts_or_is_left(
    labs: dict[str, Lab], forks: Killable, journal: Journal
) -> None:
    """On a server with an entry, faults inside it are refused: by the PID while that runs, else with the command that
    undoes the entry; network faults act.
    """
    lab = labs["redis"]
    async with proxies(lab) as first, proxies(lab) as second:
        await first.inject("eu", faults.MasterDown())
        with pytest.raises(
            errors.UsageError, match=rf"MasterDown\(\) of process {os.getpid()} acts on its server: end that"
        ):
            await second.inject("eu", faults.ClientPause())
        [outcome] = await undo_left(journal)
        assert outcome.text.endswith(f"left alone: process {os.getpid()}, which started it, still runs")
        assert not outcome.failed
        await read(lab, first)
        await first.heal()
    await killed(forks, lab, faults.MasterDown())
    async with proxies(lab) as third:
        with pytest.raises(errors.UsageError, match=r"was not undone.* run `labkit proxy --undo` first"):
            await third.inject("eu", faults.Busy())
        async with third.fault("eu", faults.Latency(1)):
            await read(lab, third)
        await undo_left(journal)
        async with third.fault("eu", faults.Busy()):
            await read(lab, third)


async def test_what_cannot_be_undone_now_can_be_later(labs: dict[str, Lab], journal: Journal) -> None:
    """While the server is gone, an undo fails with one line that names the fault, and the entry stays for later; no
    message has a password.
    """
    lab = labs["redis"]
    before = await snapshot(lab)
    password = lab._backend.access.admin  # type: ignore[attr-defined]
    async with await admin(lab) as client:
        through = await proxies(lab).start()
        await through.inject("eu", faults.WrongPassword())
        path = journal.paths()[0]
        real = journal.read(path)
        await client.execute_command("ACL", "SETUSER", ADMIN, "off")
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(
            errors.LabError, match=r"WrongPassword\(\) on shard 'eu': .*left until `labkit proxy --undo`"
        ) as no:
            await through.stop()
        [outcome] = await undo_left(journal)
        assert outcome.failed
        assert "WrongPassword() not undone: " in outcome.text
        assert password not in outcome.text + str(no.value) + repr(real)
        assert journal.read(path) == real
        await client.execute_command("ACL", "SETUSER", ADMIN, "on")
    [outcome] = await undo_left(journal)
    assert not outcome.failed
    await left_as(lab, before)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (faults.CrashRecovery(), "CrashRecovery cannot be undone surely on a server that labkit did not start"),
        (faults.Kill(), "labkit did not start it"),
        (faults.Empty(), "labkit did not start it"),
        (faults.Busy(), "Busy acts on redis"),
    ],
)
async def test_a_fault_that_cannot_be_undone_surely_is_refused(
    labs: dict[str, Lab], journal: Journal, fault: Fault, why: str
) -> None:
    """CrashRecovery, and faults of the process and the data, are for labs."""
    async with proxies(labs["postgres"]) as through:
        with pytest.raises(errors.UsageError, match=why):
            await through.inject("eu", fault)


async def test_a_proxy_that_was_redirected_has_no_faults_inside(labs: dict[str, Lab], journal: Journal) -> None:
    """A client of Toxiproxy's API may put a proxy in front of another server, whose administrator is not known."""
    lab = labs["redis"]
    async with proxies(lab) as through:
        assert through._fronts is not None
        await through._fronts.redirect(through._fronts.by_name["eu"], ("127.0.0.1", 9))
        with pytest.raises(errors.UsageError, match=r"is in front of 127\.0\.0\.1:9 now, and .* URL is for "):
            await through.inject("eu", faults.Busy())


async def test_without_your_word_no_fault_acts_inside_a_server(labs: dict[str, Lab], journal: Journal) -> None:
    """The refusal names both the administrator's URL and the flag; so does one of them without the other."""
    both = r"admin=\{.*\}, own=True \(labkit proxy --admin eu=URL --i-own-this-server\)"
    async with Proxies({"eu": labs["redis"].urls[2]}) as through:
        with pytest.raises(errors.UsageError, match=f"Busy acts on a server.*{both}"):
            await through.inject("eu", faults.Busy())
    for given in ({"own": True}, {"admin": {"eu": admin_url(labs["redis"])}}):
        with pytest.raises(errors.UsageError, match=both):
            Proxies({"eu": labs["redis"].urls[2]}, **given)  # type: ignore[arg-type]


async def test_what_a_fault_does_not_know_it_asks_for(labs: dict[str, Lab], journal: Journal) -> None:
    """A fault of a table needs its name, one of the clients' user needs the server's URL; nothing is done without."""
    lab = labs["postgres"]
    where = str(lab._shards[2].located)
    async with Proxies({"eu": where}, admin={"eu": admin_url(lab)}, own=True) as through:
        with pytest.raises(errors.UsageError, match=r"tables={'eu': 'orders'}"):
            await through.inject("eu", faults.DropTable())
        with pytest.raises(errors.UsageError, match="postgresql://user@host"):
            await through.inject("eu", faults.WrongPassword())
    async with proxies(lab, tables={"eu": "data_9"}) as through:
        with pytest.raises(errors.LabError, match=r"the database has no table 'public\.data_9'"):
            await through.inject("eu", faults.DropTable())
    assert nothing_left(journal)


@asynccontextmanager
async def command(*words: str, environment: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """`labkit proxy` with these words, killed at the end of the block."""
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labkit", "proxy", *words),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def told(running: asyncio.subprocess.Process, word: str) -> str:
    """Its next line on stdout that holds the word."""
    assert running.stdout is not None
    while word not in (line := (await running.stdout.readline()).decode()):
        assert line, (await running.communicate())[1]
    return line


async def undone(*words: str) -> tuple[int | None, list[str], list[str]]:
    """The exit code of `labkit proxy --undo`, and its lines on stdout and stderr."""
    async with command("--undo", *words) as running:
        out, err = await running.communicate()
        return running.returncode, out.decode().splitlines(), err.decode().splitlines()


async def test_the_command_is_killed_and_another_one_undoes(labs: dict[str, Lab], journal: Journal) -> None:
    """A fault typed at `labkit proxy` acts; after SIGKILL the next one says what is left there, and `--undo` undoes it;
    the password of the administrator may come from a variable.
    """
    lab = labs["redis"]
    before = await snapshot(lab)
    password = lab._backend.access.admin  # type: ignore[attr-defined]
    listen = f"eu=0->{lab.urls[2]}"
    words = ("--listen", listen, "--api", "none", "--admin", f"eu={tcp_url(lab, '${SECRET}')}")
    async with command(*words, "--i-own-this-server", environment={"SECRET": password}) as running:
        assert running.stdin is not None
        running.stdin.write(b"fault eu MasterDown\n")
        await told(running, "shard eu has MasterDown()")
        server = entries(journal)[0].servers
        [outcome] = await undo_left(journal)
        assert outcome.text.endswith(f"MasterDown() left alone: process {running.pid}, which started it, still runs")
        running.kill()
        await running.wait()
    async with command("--listen", listen, "--api", "none") as running:
        await told(running, "Type commands here")
        assert running.stderr is not None
        assert b", which was killed, was not undone on its server" in await running.stderr.readline()
    assert await undone() == (0, [f"eu ({', '.join(server)}): MasterDown() undone"], [])
    await left_as(lab, before)


async def test_toxiproxys_api_has_no_part_in_it(labs: dict[str, Lab], journal: Journal) -> None:
    """Faults inside a server are not toxics: clients of the API neither see nor start nor remove one."""
    async with proxies(labs["redis"]) as through:
        api = await through.api(port=0)
        await through.inject("eu", faults.MasterDown(), faults.Latency(0))
        async with httpx.AsyncClient(base_url=api) as client:
            toxics = (await client.get("/proxies/eu/toxics")).json()
            assert [toxic["type"] for toxic in toxics] == ["latency"]
            assert (await client.post("/proxies/eu/toxics", json={"type": "busy"})).status_code == 400
            assert (await client.post("/reset")).status_code == 204
        assert [type(active.fault) for active in through._started().active] == [faults.MasterDown]
