"""One reader of real servers on several event loops, in threads and after forks: always right, with nothing left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from importlib.util import find_spec
from typing import Any

import psutil
import pytest
import pytest_asyncio

from labkit import Lab, ShardReader, Status, errors
from tests.support.watching import comes_true

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

ROWS = 60
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if find_spec("uvloop"):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["postgres", "redis", "redis-cluster"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A lab that this module mostly only reads, with separate readers."""
    async with Lab(request.param, launcher="embedded", timeout=30.0) as lab:
        await lab.put(1, lab.rows["name"][0])  # opens the lab's own connections before sockets are counted
        yield lab


@pytest.fixture
def reader(lab: Lab) -> Iterator[ShardReader]:
    """A reader without connections; each test must leave no socket."""
    before = sockets()
    yield ShardReader(lab.router, lab.sources(), timeout=30.0)
    assert sockets() <= before


def sockets() -> int:
    """The number of this process's sockets to servers; an event loop's own are unix sockets."""
    return len(psutil.Process().net_connections("inet"))


def run(make: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Any]) -> Any:
    """Like `asyncio.run`, on a loop made by `make`."""
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


async def elsewhere(main: Callable[[], Any], loop: str = "asyncio") -> Any:
    """The result of `main`, run on a new loop in a new thread."""
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.wrap_future(pool.submit(run, LOOPS[loop], main))


async def every_way(reader: ShardReader) -> list[int]:
    """The number of rows found by each way of reading."""
    async with aclosing(reader.watch(interval=0.1)) as watch:
        return [
            (await reader.read()).table.num_rows,
            (await anext(watch)).table.num_rows,
            sum([page.table.num_rows async for page in reader.pages(7)]),
            sum([batch.num_rows async for batch in reader.stream(7)]),
        ]


@contextmanager
def forked(main: Callable[[], Any]) -> Iterator[None]:
    """Runs `main` in a forked child during the block; asserts that it returns something true."""
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = bool(asyncio.run(main()))
        finally:
            os._exit(0 if good else 1)
    try:
        yield
    finally:
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("loop", LOOPS)
async def test_one_loop_after_the_other_finds_every_row(reader: ShardReader, loop: str) -> None:
    """Each of four loops in turn leaves no socket, though the reader is never closed."""
    before = sockets()
    for _ in range(4):
        assert await elsewhere(lambda: every_way(reader), loop) == [ROWS] * 4
        assert sockets() == before


@pytest.mark.parametrize("loop", LOOPS)
async def test_threads_find_every_row(reader: ShardReader, loop: str) -> None:
    """Sixty runs in six threads, each on its own loop, read, watch, page and stream every row."""
    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(run, LOOPS[loop], lambda: every_way(reader)) for _ in range(60)]
        found = await asyncio.gather(*map(asyncio.wrap_future, tasks))
    assert found == [[ROWS] * 4] * 60


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_second_loop_reads_while_the_first_goes_on(lab: Lab, reader: ShardReader, loop: str) -> None:
    """An unfinished watch and stream of the first loop continue while a second loop reads."""
    async with reader, aclosing(reader.watch(interval=0.1)) as watch:
        stream = reader.stream(7)
        assert ((await anext(watch)).table.num_rows, (await anext(stream)).num_rows) == (ROWS, 7)
        assert await elsewhere(lambda: every_way(reader), loop) == [ROWS] * 4
        assert sum([batch.num_rows async for batch in stream]) == ROWS - 7
        name = lab.rows["name"][0]
        await lab.put(1, "while two loops read")
        assert (await anext(watch)).table["name"][0].as_py() == "while two loops read"
        await lab.put(1, name)


async def test_a_child_takes_nothing_from_its_parent(reader: ShardReader) -> None:
    """Child and parent read different windows at the same time, and each gets its own rows."""
    async with reader, aclosing(reader.watch(interval=0.1)) as watch:
        await anext(watch)
        for number in range(10):
            await reader.read(31, 40)
            with forked(lambda: answers(reader, 32, 35)):
                assert await answers(reader, 31, 40), number


async def answers(reader: ShardReader, low: int, high: int) -> bool:
    """Whether eight reads of the window have exactly its rows."""
    results = [await reader.read(low, high) for _ in range(8)]
    return all(result.table["id"].to_pylist() == [*range(low, high + 1)] for result in results)


async def test_loops_threads_and_forks_at_once(reader: ShardReader) -> None:
    """Of some 700 concurrent reads from loops, threads and a fork, each of its own window, none is wrong."""
    async with reader:
        with ThreadPoolExecutor(3) as pool:
            for turn in range(4):
                kinds = list(LOOPS.values())
                threads = [
                    pool.submit(run, kinds[i % len(kinds)], lambda i=i: answers(reader, 1 + i, 50 + i % 9))
                    for i in range(10)
                ]
                with forked(lambda turn=turn: answers(reader, 11 + turn, 29)):
                    assert all(await asyncio.gather(*(answers(reader, 2 + i, 60 - i) for i in range(10))))
                assert all(await asyncio.gather(*map(asyncio.wrap_future, threads)))


@pytest.mark.parametrize("after", [0.0, 0.002, 0.005, 0.01, 0.02, 0.05])
async def test_closing_under_reads_leaves_no_socket(reader: ShardReader, after: float) -> None:
    """aclose() at any stage of a read leaves no socket; the reads return at once and report what is missing."""
    before = sockets()
    reads = [asyncio.create_task(reader.read()) for _ in range(20)]
    await asyncio.sleep(after)
    await reader.aclose()
    for result in await asyncio.wait_for(asyncio.gather(*reads), 1):
        failed = {report.status for report in result.reports.values() if report.failed}
        assert result.table.num_rows == ROWS if result.complete else failed <= {Status.ERROR}
    assert await comes_true(lambda: sockets() <= before)


async def test_a_reader_is_closed_from_another_loop(reader: ShardReader) -> None:
    """aclose() on another loop closes this loop's connections too; a second aclose() changes nothing."""
    before = sockets()
    assert await every_way(reader) == [ROWS] * 4
    assert sockets() > before
    await elsewhere(reader.aclose)
    assert sockets() == before
    await reader.aclose()
    with pytest.raises(errors.UsageError, match="this reader was closed"):
        await reader.read()


async def test_a_source_of_two_readers_outlives_one_of_them(lab: Lab) -> None:
    """Closing one reader does not disturb another with the same sources; after both no socket is left."""
    before, shards = sockets(), lab.sources()
    async with ShardReader(lab.router, shards) as other:
        async with ShardReader(lab.router, shards) as one:
            assert (await one.read()).complete
        for _ in range(3):
            assert (await other.read()).table.num_rows == ROWS
    assert sockets() <= before
