"""Each fault of the network on real shards: it fires, reads report it as promised, and it is gone afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from labkit import CLASSIC, Lab, ReadResult, Status, errors, faults
from labkit.faults import ALL, Fault, Flow, Pipe, Sample, Toxic
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
    """One lab a kind of server for all tests of this file."""
    async with Lab(request.param, launcher="embedded", timeout=TIMEOUT) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(one_lab: Lab) -> AsyncIterator[Lab]:
    """Complete, and with warm connections, before the test; complete again after it."""
    await one_lab.heal()
    assert await settles(lambda result: result.complete, one_lab.read)
    yield one_lab
    await one_lab.heal()
    (await one_lab.read()).raise_for_missing()


async def settles(condition: Callable[[Any], bool], ask: Callable[[], Any]) -> bool:
    """Whether the answer to `ask` becomes one of which `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition(await ask()):
            await asyncio.sleep(0.01)
    return True


def assert_exact(result: ReadResult, allowed: dict[int, frozenset[Status]]) -> None:
    """Statuses are among the allowed ones, gaps are exactly the ranges of what did not answer, and it is in time."""
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
    """Causes are the same in every run: they name no port."""
    for report in result.reports.values():
        assert not re.search(r"127\.0\.0\.1|localhost|:\d{4,5}\b", report.error or ""), report.error


def fired(lab: Lab, since: int, shard: int, fault: Fault) -> int:
    """How often it did, by the events after the first `since`."""
    return sum((e.kind, e.shard, e.fault) == ("fired", shard, fault) for e in lab.events[since:])


# each fault by itself


@pytest.mark.parametrize("sample", SAMPLES)
async def test_each_fault_does_what_it_promises(lab: Lab, sample: Sample) -> None:
    """It fires; warm and cold reads have the statuses of its samples and exact gaps; healed, all is as before. One
    that never fired would warn, and warnings are errors.
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
    """A reset connection is told in the system's words, without the port that is another one in each run."""
    async with lab.fault(2, faults.ResetPeer(0, 200)):
        assert_names_no_address(await lab.read())


async def test_every_fault_of_the_network_is_tried(lab: Lab) -> None:
    """The list that is gone through above has every network fault there is, by the same name."""
    tried = {type(param.values[0].fault).__name__ for param in SAMPLES}  # type: ignore[union-attr]
    assert tried >= {"Down", "Latency", "Bandwidth", "SlowClose", "Timeout", "ResetPeer", "Slicer", "LimitData"}
    assert tried >= {"BlackHole", "HalfClose", "Corrupt"}


@pytest.mark.parametrize("fault", [faults.Down(), faults.BlackHole(), faults.Timeout(), faults.Latency(9000)])
async def test_a_read_leaves_nothing_behind(lab: Lab, fault: Fault) -> None:
    """Reads that a fault of the network ended leave no task, thread or socket, of ours or of the proxy's."""
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
    """Several act at once on one shard, as the strongest of them does; all are undone together."""
    for fault in stack:
        await lab.inject(2, fault)
    async with cold(lab, TIMEOUT) as reader:
        warm, new = await asyncio.gather(lab.read(), reader.read())
    assert_exact(warm, {2: frozenset(allowed)})
    assert_exact(new, {2: frozenset(allowed)})
    if faults.BlackHole() in stack:
        with pytest.warns(errors.NeverFired, match=r"Latency\(20\)"):  # nothing gets as far as that
            await lab.heal()
    else:
        await lab.heal()
    assert (await lab.read()).complete


async def test_several_shards_at_once(lab: Lab) -> None:
    """Each shard has its own fault, all start and end together, and one read tells them apart."""
    wanted = {1: faults.Down(), 2: [faults.Latency(round(TIMEOUT * 3000))], 3: [faults.Latency(20), faults.Slicer(100)]}
    async with lab.fault(wanted):
        starts = [event.at for event in lab.events if event.kind == "start"][-4:]
        assert len(set(starts)) == 1
        result = await lab.read()
        assert_exact(result, {1: frozenset({Status.UNREACHABLE}), 2: frozenset({Status.TIMEOUT})})
        assert [(w.shard, w.label) for w in result.windows] == [
            (1, "Down"),
            (2, "Latency"),
            (3, "Latency"),
            (3, "Slicer"),
        ]
    assert (await lab.read()).complete


async def test_all_shards_at_once(lab: Lab) -> None:
    """With every address down the result is empty and the whole table one gap."""
    async with lab.fault(dict.fromkeys((1, 2, 3), faults.Down())):
        result = await lab.read()
        assert (len(result.frame), result.missing) == (0, ((1, 60),))
    assert (await lab.read()).complete


async def test_flapping(lab: Lab) -> None:
    """A fault that comes and goes twenty times while reads go on leaves every read exact and the shard well."""
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
    """Without a read while it lasted there is a warning that names it, and an event."""
    with pytest.warns(errors.NeverFired, match=r"Latency\(5\) never fired on shard 2: no client met it"):
        async with lab.fault(2, faults.Latency(5)):
            pass
    assert [event.kind for event in lab.events[-3:]] == ["start", "stop", "unfired"]


async def test_a_read_of_other_shards_is_no_firing(lab: Lab) -> None:
    """Only who meets the shard meets its fault."""
    with pytest.warns(errors.NeverFired):
        async with lab.fault(2, faults.Latency(5)):
            assert (await lab.read(1, 10)).complete


# toxics of one's own


async def test_a_toxic_of_ones_own_works(lab: Lab) -> None:
    """A class in a module that can be imported is loaded by the proxy, acts, fires, and is undone."""
    async with lab.fault(2, Renames()):
        frame = (await lab.read()).frame
        changed = [i for i, name in zip(frame["id"], frame["name"], strict=True) if name == f"Rest {i}"]
        assert changed == [i for i in range(1, 61) if CLASSIC.locate(i) == 2]
    assert (await lab.read()).frame["name"].str.startswith("Test ").all()


async def test_the_proxy_is_not_held_up_by_what_it_has_loaded(lab: Lab) -> None:
    """The garbage collector of its process leaves all of that alone."""
    async with lab.fault(2, Freezes()):
        assert (await lab.read(12, 12)).frame["name"].tolist() == ["9999 12"]


async def test_a_toxic_that_the_proxy_cannot_load_is_one_clear_error(lab: Lab) -> None:
    """A class inside a function cannot be imported by another process; nothing is started then."""

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


# whoever is interrupted


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80, 160])
async def test_an_interrupted_start_leaves_nothing(lab: Lab, turns: int) -> None:
    """Cancelled after any number of turns of the loop, no toxic is left that the next fault would arm."""
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


# the same seed, the same faults


async def greeted(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, on which the password is on its way."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(f"AUTH {place.password}\r\n".encode())
    return reader, writer


async def pings(url: str, connections: int = 24) -> list[bool]:
    """Which of so many connections, one after the other, are answered."""
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
    """What so many connections, one after the other, get for the same question."""
    heard = []
    for _ in range(connections):
        reader, writer = await greeted(url)
        writer.write(b"ECHO " + b"0123456789" * 30 + b"\r\n")
        heard.append(await reader.readexactly(5 + 6 + 300 + 2))
        writer.close()
    return heard


async def hit(seed: int) -> tuple[list[list[bool]], list[bytes]]:
    """What raw connections to shards 2 and 3 of a lab with that seed meet, the first one twice."""
    async with Lab("redis", launcher="embedded", seed=seed) as lab:
        answers = []
        for shard in (2, 2, 3):
            async with lab.fault(shard, faults.LimitData(0, toxicity=0.5)):
                answers.append(await pings(lab.urls[shard]))
        async with lab.fault(2, faults.Corrupt(50)):
            heard = await echoes(lab.urls[2])
    return answers, heard


async def test_the_same_seed_hits_the_same_connections_and_bytes() -> None:
    """Two labs of one seed hit the same connections with toxicity 0.5 and flip the same bits; another seed hits and
    flips others; so does another shard, and another connection.
    """
    (answers, heard), (answers_again, heard_again), (other_answers, other_heard) = [
        await hit(seed) for seed in (0, 0, 1)
    ]
    assert (answers, heard) == (answers_again, heard_again)
    assert answers[0] == answers[1] != answers[2]
    assert all({True, False} == set(answer) for answer in answers)
    assert answers[0] != other_answers[0]
    assert len(set(heard)) == len(heard)
    assert set(heard).isdisjoint(other_heard)
