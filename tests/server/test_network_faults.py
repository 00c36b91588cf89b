"""Network faults on real shards: each fires, reads report it as promised, and it is gone afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from labkit import CLASSIC, Lab, ReadResult, ShardReader, Status, errors, faults
from labkit.faults import ALL, Fault, Flow, Pipe, Sample, Toxic
from labkit.shards import PostgresShard
from tests.support.lateness import MARGIN, starved
from tests.support.own_toxics import Freezes, Renames
from tests.support.watching import PATIENCE, cold, comes_true, footprint, no_more_than

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT = 0.6
SAMPLES = [
    pytest.param(sample, id=repr(sample.fault))
    for entry in ALL.values()
    if entry.layer == "network"
    for sample in entry.samples(TIMEOUT)
]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["postgres", "redis"])
async def one_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """One lab per backend for all tests in this file."""
    async with Lab(request.param, launcher="embedded", timeout=TIMEOUT) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(one_lab: Lab) -> AsyncIterator[Lab]:
    """The shared lab, complete and with warm connections before the test, and complete again after it."""
    await one_lab.heal()
    assert await settles(lambda result: result.complete, one_lab.read)
    yield one_lab
    await one_lab.heal()
    (await one_lab.read()).raise_for_missing()


async def settles(condition: Callable[[Any], bool], ask: Callable[[], Any]) -> bool:
    """Polls `ask` until `condition` holds for its answer."""
    async with asyncio.timeout(PATIENCE):
        while not condition(await ask()):
            await asyncio.sleep(0.01)
    return True


def assert_exact(result: ReadResult, allowed: dict[int, frozenset[Status]]) -> None:
    """Asserts allowed statuses, gaps that are exactly the ranges of the failed shards, and a read in time."""
    statuses = {shard: report.status for shard, report in result.reports.items()}
    for shard, status in statuses.items():
        assert status in allowed.get(shard, {Status.OK}), (shard, status, result.reports[shard].error)
    there = [i for i in range(1, 61) if statuses[CLASSIC.locate(i)] is Status.OK]
    assert result.frame["id"].tolist() == there
    missing = [i for low, high in result.missing for i in range(low, high + 1)]
    assert missing == sorted(set(range(1, 61)) - set(there))
    assert all(low - 1 not in missing and high + 1 not in missing for low, high in result.missing)
    assert result.elapsed < TIMEOUT + MARGIN + starved()


def assert_names_no_address(result: ReadResult) -> None:
    """Asserts that causes name no address or port, so that they are the same in every run."""
    for report in result.reports.values():
        assert not re.search(r"127\.0\.0\.1|localhost|:\d{4,5}\b", report.error or ""), report.error


def fired(lab: Lab, since: int, shard: int, fault: Fault) -> int:
    """How often the fault fired, by the events after the first `since`."""
    return sum((e.kind, e.shard, e.fault) == ("fired", shard, fault) for e in lab.events[since:])


# each fault alone


@pytest.mark.parametrize("sample", SAMPLES)
async def test_each_fault_does_what_it_promises(lab: Lab, sample: Sample) -> None:
    """Each fault fires (otherwise the warning is an error), warm and cold reads have the statuses of its sample and
    exact gaps, and healed, all is as before.
    """
    seen, fault = len(lab.events), sample.fault
    async with lab.fault(2, fault):
        async with cold(lab, TIMEOUT) as reader:
            warm, new = await asyncio.gather(lab.read(), reader.read())
        assert_exact(warm, {2: sample.warm})
        assert_exact(new, {2: sample.cold})
        if lab.backend == "postgres":
            assert_names_no_address(warm)
            assert_names_no_address(new)
        assert [(w.shard, w.label, w.started, w.ended) for w in warm.windows] == [
            (2, type(fault).__name__, 0.0, None),
        ]
        assert await settles(lambda _: fired(lab, seen, 2, fault) > 0, lab.record)
    kinds = [event.kind for event in lab.events[seen:]]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("start", "stop", {"fired"})
    async with cold(lab, TIMEOUT) as reader:
        assert (await reader.read()).complete
    assert (await lab.read()).complete


async def test_causes_name_no_address(lab: Lab) -> None:
    """The cause of a reset connection is the system's message without the port, which differs in every run."""
    async with lab.fault(2, faults.ResetPeer(0, 200)):
        assert_names_no_address(await lab.read())


async def test_every_fault_of_the_network_is_tried(lab: Lab) -> None:
    """The samples tested above cover every network fault."""
    tried = {type(param.values[0].fault).__name__ for param in SAMPLES}  # type: ignore[union-attr]
    assert tried >= {"Down", "Latency", "Bandwidth", "SlowClose", "Timeout", "ResetPeer", "Slicer", "LimitData"}
    assert tried >= {"BlackHole", "HalfClose", "Corrupt", "PacketLoss"}


@pytest.mark.parametrize("fault", [faults.Down(), faults.BlackHole(), faults.Timeout(), faults.Latency(9000)])
async def test_a_read_leaves_nothing_behind(lab: Lab, fault: Fault) -> None:
    """Reads ended by a network fault leave no task, thread or socket, here or in the proxy."""
    before = footprint()
    async with lab.fault(2, fault):
        for _ in range(2):
            async with cold(lab, 0.1) as reader:
                assert 2 not in (await reader.read()).frame["id"].map(CLASSIC.locate).tolist()
    assert await comes_true(no_more_than(before)), (before, footprint())


# several


@pytest.mark.parametrize(
    ("stack", "allowed"),
    [
        ([faults.Latency(20), faults.Slicer(64, 32, 100), faults.Bandwidth(200)], {Status.OK}),
        ([faults.Latency(5), faults.Latency(7, stream="upstream")], {Status.OK}),
        ([faults.Latency(20), faults.LimitData(200)], {Status.DISCONNECTED, Status.UNREACHABLE}),
        ([faults.Slicer(64, 0, 100), faults.ResetPeer(0, 300)], {Status.DISCONNECTED, Status.UNREACHABLE}),
        ([faults.Latency(20), faults.Timeout(0)], {Status.TIMEOUT}),
        ([faults.BlackHole(), faults.Latency(20)], {Status.TIMEOUT}),
        ([faults.Pause(), faults.Down()], {Status.UNREACHABLE}),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set | frozenset) else value),  # sets have no order
)
async def test_faults_of_one_shard_stack(lab: Lab, stack: list[Fault], allowed: set[Status]) -> None:
    """Several faults on one shard act as the strongest of them, and all are undone together."""
    for fault in stack:
        await lab.inject(2, fault)
    async with cold(lab, TIMEOUT) as reader:
        warm, new = await asyncio.gather(lab.read(), reader.read())
    assert_exact(warm, {2: frozenset(allowed)})
    assert_exact(new, {2: frozenset(allowed)})
    if faults.BlackHole() in stack:
        with pytest.warns(errors.NeverFired, match=r"Latency\(20\)"):  # nothing gets that far
            await lab.heal()
    else:
        await lab.heal()
    assert (await lab.read()).complete


async def test_several_shards_at_once(lab: Lab) -> None:
    """Faults of several shards start and end together, and one read tells them apart."""
    wanted = {1: faults.Down(), 2: [faults.Latency(round(TIMEOUT * 3000))], 3: [faults.Latency(20), faults.Slicer(100)]}
    async with lab.fault(wanted):
        starts = [event.at for event in lab.events if event.kind == "start"][-4:]
        assert len(set(starts)) == 1
        result = await lab.read()
        assert_exact(result, {1: frozenset({Status.UNREACHABLE}), 2: frozenset({Status.TIMEOUT})})
        page = await lab.reader.page(10, low=21)  # of shard 3
        for one in (result, await lab.reader.read(), page):
            assert [(w.shard, w.label) for w in one.windows] == [
                (1, "Down"),
                (2, "Latency"),
                (3, "Latency"),
                (3, "Slicer"),
            ]
    assert (await lab.read()).complete


async def test_all_shards_at_once(lab: Lab) -> None:
    """With every address down the result is empty and the whole table is one gap."""
    async with lab.fault(dict.fromkeys((1, 2, 3), faults.Down())):
        result = await lab.read()
        assert (len(result.frame), result.missing) == (0, ((1, 60),))
    assert (await lab.read()).complete


async def test_flapping(lab: Lab) -> None:
    """While a fault starts and ends twenty times, every read is exact, and afterwards the shard is healthy."""
    stop = asyncio.Event()

    async def flap() -> None:
        for _ in range(20):
            async with lab.fault(2, faults.Down()):
                await asyncio.sleep(0)
        stop.set()

    flapping = asyncio.create_task(flap())
    while not stop.is_set():
        allowed = frozenset({Status.OK, Status.UNREACHABLE, Status.DISCONNECTED})
        assert_exact(await lab.read(), {2: allowed})
    await flapping
    assert (await lab.read()).complete


# what never fired


async def test_a_fault_that_no_client_met_is_reported(lab: Lab) -> None:
    """A fault during which nothing was read gives a warning that names it, and an event."""
    with pytest.warns(errors.NeverFired, match=r"Latency\(5\) never fired on shard 2: no client met it"):
        async with lab.fault(2, faults.Latency(5)):
            pass
    assert [event.kind for event in lab.events[-3:]] == ["start", "stop", "unfired"]


async def test_a_read_of_other_shards_is_no_firing(lab: Lab) -> None:
    """A read that skips the shard does not fire its fault."""
    with pytest.warns(errors.NeverFired):
        async with lab.fault(2, faults.Latency(5)):
            assert (await lab.read(1, 10)).complete


# custom toxics


async def test_a_toxic_of_ones_own_works(lab: Lab) -> None:
    """A custom toxic in an importable module is loaded by the proxy, acts, and is undone."""
    async with lab.fault(2, Renames()):
        frame = (await lab.read()).frame
        changed = [i for i, name in zip(frame["id"], frame["name"], strict=True) if name == f"Rest {i}"]
        assert changed == [i for i in range(1, 61) if CLASSIC.locate(i) == 2]
    assert (await lab.read()).frame["name"].str.startswith("Test ").all()


async def test_the_proxy_is_not_held_up_by_what_it_has_loaded(lab: Lab) -> None:
    """The proxy freezes what it has loaded, so that its garbage collector skips it."""
    async with lab.fault(2, Freezes()):
        assert (await lab.read(12, 12)).frame["name"].tolist() == ["9999 12"]


async def test_a_toxic_that_the_proxy_cannot_load_is_one_clear_error(lab: Lab) -> None:
    """A toxic class inside a function, which the proxy cannot import, is one clear error, and nothing is started."""

    @dataclass(frozen=True)
    class Local(Toxic):
        def pipe(self, flow: Flow) -> Pipe:
            return Pipe()

        @classmethod
        def samples(cls, timeout: float) -> list[Sample]:
            return []

    seen = len(lab.events)
    with pytest.raises(errors.LabError) as caught:
        await lab.inject({3: faults.Down(), 2: Local()})
    assert str(caught.value).startswith("the proxy cannot load ")
    assert str(caught.value).endswith(f"from {__name__}: put it into a separate module")
    assert len(lab.events) == seen
    assert (await lab.read()).complete


# interrupted starts


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80, 160])
async def test_an_interrupted_start_leaves_nothing(lab: Lab, turns: int) -> None:
    """A start cancelled after any number of loop iterations leaves no toxic that the next fault would arm."""
    seen = len(lab.events)
    task = asyncio.create_task(lab.inject({2: [faults.Latency(9000), faults.Latency(8000)], 3: faults.BlackHole()}))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if outcome is None:  # it was done by then
        assert_exact(await lab.read(), {2: frozenset({Status.TIMEOUT}), 3: frozenset({Status.TIMEOUT})})
        await lab.heal()
    else:
        assert isinstance(outcome, asyncio.CancelledError)
        assert len(lab.events) == seen
    async with lab.fault(1, faults.Down()):
        assert_exact(await lab.read(), {1: frozenset({Status.UNREACHABLE})})


# conditions


async def statuses(read: Callable[[], Any], times: int) -> list[Status]:
    """What several reads say of shard 2, one after the other; the other shards always answer."""
    results = [await read() for _ in range(times)]
    assert all(result.reports[shard].status is Status.OK for result in results for shard in (1, 3))
    return [result.reports[2].status for result in results]


async def test_latency_by_statement_hits_bulk_reads_only() -> None:
    """With `when="COPY"` a bulk read is late, cold and warm, and a read by SELECT is not."""
    async with Lab("postgres", launcher="embedded", timeout=TIMEOUT) as lab:
        shards = {n: PostgresShard(lab.urls[n], lab.tables[n], bulk=True) for n in (1, 2, 3)}
        async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as bulk:
            assert (await bulk.read()).complete
            async with lab.fault(2, faults.Latency(round(TIMEOUT * 1500), when="COPY")):
                assert await statuses(lab.read, 2) == [Status.OK, Status.OK]
                assert await statuses(bulk.read, 2) == [Status.TIMEOUT, Status.TIMEOUT]
            assert (await bulk.read()).complete


async def test_the_second_question_is_hit(lab: Lab) -> None:
    """With `nth=2` the second read is cut off, and no other; warm connections count too."""
    async with lab.fault(2, faults.ResetPeer(nth=2)):
        assert await statuses(lab.read, 4) == [Status.OK, Status.DISCONNECTED, Status.OK, Status.OK]


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
async def test_questions_are_told_apart_by_what_they_say(lab: Lab, stream: str) -> None:
    """A read names the shard's table, so `when` finds it, in questions as well as in answers; another name never."""
    async with lab.fault(2, faults.Timeout(when=lab.tables[2].upper(), stream=stream)):
        assert await statuses(lab.read, 2) == [Status.TIMEOUT, Status.TIMEOUT]
    with pytest.warns(errors.NeverFired, match="never fired on shard 2: no question met its conditions"):
        async with lab.fault(2, faults.Timeout(when="data_22", stream=stream)):
            assert await statuses(lab.read, 2) == [Status.OK, Status.OK]


@pytest.mark.parametrize("one_lab", ["postgres"], indirect=True)
async def test_prepared_statements_are_known_by_their_text(lab: Lab) -> None:
    """A statement prepared before the fault is found by its text; COPY is one question with the data that it takes."""
    connection = await asyncpg.connect(lab.dsn(2, "asyncpg"))
    try:
        hit = await connection.prepare("SELECT 'Test a' || $1")
        other = await connection.prepare("SELECT 'Test b' || $1")
        async with lab.fault(2, Renames(when="test A")):
            for _ in range(2):
                assert (await hit.fetchval("x"), await other.fetchval("x")) == ("Rest ax", "Test bx")
            async with connection.transaction():
                await connection.execute("CREATE TEMPORARY TABLE copied (name text) ON COMMIT DROP")
                await connection.copy_records_to_table("copied", records=[("Test a",)])
                assert await connection.fetchval("SELECT name FROM copied") == "Test a"
                assert await connection.fetchval("SELECT 'Test a'") == "Rest a"
        async with lab.fault(2, Renames(when="copy", stream="upstream")), connection.transaction():
            await connection.execute("CREATE TEMPORARY TABLE copied (name text) ON COMMIT DROP")
            await connection.copy_records_to_table("copied", records=[("Test a",), ("Test b",)])
            assert await connection.fetchval("SELECT string_agg(name, ',') FROM copied") == "Rest a,Rest b"
            assert await connection.fetchval("SELECT 'Test'") == "Test"
    finally:
        connection.terminate()


@pytest.mark.parametrize("one_lab", ["redis"], indirect=True)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_each_command_of_a_pipeline_is_a_question(lab: Lab, protocol: int) -> None:
    """In pipelines and transactions, of both versions of the protocol, exactly the chosen replies are changed."""
    async with Redis.from_url(lab.urls[2], protocol=protocol) as client:
        async with lab.fault(2, Renames(when="echo", nth=(2, 4))):
            pipeline = client.pipeline(transaction=False)
            for i in range(5):
                pipeline.echo(f"Test {i}").get("none")
            heard = (await pipeline.execute())[::2]
        assert heard == [b"Test 0", b"Rest 1", b"Test 2", b"Rest 3", b"Test 4"]
        async with lab.fault(2, Renames(when="EXEC")):
            pipeline = client.pipeline(transaction=True).echo("Test 0").get("none")
            assert await pipeline.execute() == [b"Rest 0", None]
            assert await client.echo("Test 1") == b"Test 1"


async def test_the_lab_answers_the_same_when_nothing_matches(lab: Lab) -> None:
    """Reads of every kind pass a toxic that waits for another question, and are complete."""
    await lab.inject(2, faults.Corrupt(when="nobody asks this"))
    async with cold(lab, TIMEOUT) as reader:
        assert (await reader.read()).complete
        assert [page.complete async for page in reader.pages(size=7)] == [True] * 9
        assert (await reader.get(12)) == {"id": 12, "name": "Test 12"}
    assert (await lab.read()).complete
    with pytest.warns(errors.NeverFired, match="on shard 2: no question"):
        await lab.heal()


# the same seed, the same faults


async def greeted(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the password has been sent."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(f"AUTH {place.password}\r\n".encode())
    return reader, writer


async def pings(url: str, connections: int = 24) -> list[bool]:
    """Which of several connections, one after the other, are answered."""
    answered = []
    for _ in range(connections):
        reader, writer = await greeted(url)
        try:
            writer.write(b"PING\r\n")
            answered.append(await reader.readexactly(12) == b"+OK\r\n+PONG\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            answered.append(False)
        finally:
            writer.close()
    return answered


async def echoes(url: str, connections: int = 4) -> list[bytes]:
    """What several connections, one after the other, receive for the same command."""
    heard = []
    for _ in range(connections):
        reader, writer = await greeted(url)
        writer.write(b"ECHO " + b"0123456789" * 30 + b"\r\n")
        heard.append(await reader.readexactly(5 + 6 + 300 + 2))
        writer.close()
    return heard


async def renamed(url: str, commands: int = 24) -> list[bool]:
    """Which replies on one connection are changed by `Renames`."""
    reader, writer = await greeted(url)
    writer.write(b"ECHO Test\r\n" * commands)
    heard = await reader.readexactly(5 + 10 * commands)
    writer.close()
    return [reply == b"Rest" for reply in heard[5:].split()[1::2]]


async def hit(seed: int) -> tuple[list[list[bool]], list[bytes]]:
    """What raw connections to shards 2 (twice) and 3 of a lab with this seed receive: which of several connections are
    answered, then which of several commands on one, then their bytes.
    """
    async with Lab("redis", launcher="embedded", seed=seed) as lab:
        answers = []
        for shard in (2, 2, 3):
            async with lab.fault(shard, faults.LimitData(0, toxicity=0.5)):
                answers.append(await pings(lab.urls[shard]))
        for shard in (2, 2, 3):
            async with lab.fault(shard, Renames(when="echo", share=0.5)):
                answers.append(await renamed(lab.urls[shard]))
        async with lab.fault(2, faults.Corrupt(50)):
            heard = await echoes(lab.urls[2])
    return answers, heard


async def test_the_same_seed_hits_the_same_connections_and_bytes() -> None:
    """Two labs with one seed hit the same connections at toxicity 0.5, the same commands at share 0.5, and flip the
    same bits; another seed hits and flips others, as do other shards and other connections.
    """
    (answers, heard), (answers_again, heard_again), (other_answers, other_heard) = [
        await hit(seed) for seed in (0, 0, 1)
    ]
    assert (answers, heard) == (answers_again, heard_again)
    assert answers[0] == answers[1] != answers[2]
    assert answers[3] == answers[4] != answers[5]
    assert all({True, False} == set(answer) for answer in answers)
    assert answers[0] != other_answers[0]
    assert answers[3] != other_answers[3]
    assert len(set(heard)) == len(heard)
    assert set(heard).isdisjoint(other_heard)
