"""One lab, used from several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from labkit import Lab, Status, errors, faults
from labkit.faults import Fault
from tests.support.watching import folders

BACKENDS = ("postgres", "redis", "redis-cluster")


@pytest.fixture(params=BACKENDS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab started in one `asyncio.run` and stopped in another."""
    lab = Lab(request.param, timeout=2.0)
    asyncio.run(lab.start())
    try:
        yield lab
    finally:
        asyncio.run(lab.stop())
    assert lab.leftovers() == []
    assert "labkit-lab" not in [thread.name for thread in threading.enumerate()]


def test_each_asyncio_run_finds_the_lab_as_the_last_one_left_it(lab: Lab) -> None:
    """Reads, writes, faults and events work across event loops: nothing is bound to the loop it began on."""
    for _ in range(3):
        assert asyncio.run(lab.read()).complete
    asyncio.run(lab.put(12, "new"))
    asyncio.run(lab.delete(13))
    asyncio.run(lab.inject(3, faults.Kill()))
    assert asyncio.run(lab.read()).missing == ((21, 30), (51, 60))
    asyncio.run(lab.heal())
    assert asyncio.run(lab.read()).frame.equals(lab.rows)
    assert [event.kind for event in asyncio.run(lab.record())] == ["start", "fired", "stop"]


HOLDING = [
    ("postgres", faults.LockTable(), Status.TIMEOUT),
    ("postgres", faults.ExhaustConnections(), Status.REJECTED),
    ("redis", faults.Busy(), Status.REJECTED),
    ("redis", faults.MaxClients(), Status.REJECTED),
]


@pytest.mark.parametrize(("backend", "fault", "status"), HOLDING)
def test_what_a_fault_holds_outlives_the_loop(backend: str, fault: Fault, status: Status) -> None:
    """A fault keeps its own connection until it is undone in another `asyncio.run`."""
    lab = Lab(backend, timeout=0.5)
    asyncio.run(lab.start())
    try:
        asyncio.run(lab.inject(2, fault))
        assert asyncio.run(lab.read()).reports[2].status is status
        asyncio.run(lab.heal())
        assert asyncio.run(lab.read()).complete
    finally:
        asyncio.run(lab.stop())


def test_threads_with_loops_of_their_own_share_a_lab(lab: Lab) -> None:
    """After concurrent reads and writes, every write is in the lab and in `lab.rows`."""

    async def work(number: int) -> bool:
        await lab.put(number, f"by {number}")
        return (await lab.read()).complete

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda number: asyncio.run(work(number)), range(1, 21)))
    frame = asyncio.run(lab.read()).frame
    assert frame.equals(lab.rows)
    assert frame["name"].head(20).tolist() == [f"by {number}" for number in range(1, 21)]


async def _refused(lab: Lab) -> list[str]:
    """The operations that a child process is allowed."""
    allowed = []
    for name, operation in {
        "start": lab.start,
        "stop": lab.stop,
        "heal": lab.heal,
        "record": lab.record,
        "put": lambda: lab.put(12, "child's"),
        "delete": lambda: lab.delete(12),
        "inject": lambda: lab.inject(2, faults.Kill()),
    }.items():
        try:
            await operation()  # type: ignore[operator]
        except errors.UsageError as error:
            if f"belongs to process {os.getppid()}" in str(error):
                continue
        allowed.append(name)
    return allowed


def test_a_forked_child_reads_and_does_not_drive_the_lab(lab: Lab) -> None:
    """In a forked child, operations are one clear error and reads are right; its exit stops nothing."""

    async def main() -> None:
        async with lab.fault(2, faults.Latency(1)):
            await lab.read()
            child = os.fork()
            if child == 0:
                try:
                    asyncio.run(_child(lab))
                finally:
                    os._exit(1)
            assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
            assert (await lab.read()).complete
            await lab.put(12, "parent's")
        assert (await lab.read()).frame.equals(lab.rows)

    asyncio.run(main())


async def _child(lab: Lab) -> None:
    assert await _refused(lab) == []
    ids = (await lab.reader.read(11, 20)).frame["id"].tolist()
    os._exit(0 if ids == list(range(11, 21)) else 2)


async def test_starts_at_once_are_one_start() -> None:
    """Concurrent start() calls all return the same lab, started once."""
    before = folders()
    lab = Lab("redis")
    try:
        assert await asyncio.gather(*(lab.start() for _ in range(3))) == [lab] * 3
        assert len(folders() - before) == 1
        assert (await lab.read()).complete
    finally:
        await lab.stop()
    assert (lab.leftovers(), folders() <= before) == ([], True)


@pytest.mark.parametrize("backend", ["postgres", "redis"])
@pytest.mark.parametrize("wait", [0.0, 0.05, 0.15, 0.3])
async def test_a_stop_ends_a_start_that_is_under_way(backend: str, wait: float) -> None:
    """After stop() at any moment of a start, start() has returned or raises LabError, and nothing is left."""
    before = folders()
    lab = Lab(backend)
    starts = [asyncio.ensure_future(lab.start()) for _ in range(2)]
    await asyncio.sleep(wait)
    await lab.stop()
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        assert outcome is lab or (isinstance(outcome, errors.LabError) and "was stopped" in str(outcome)), outcome
    assert (lab.leftovers(), folders() <= before) == ([], True)
    with pytest.raises(errors.UsageError, match="not running"):
        await lab.read()
