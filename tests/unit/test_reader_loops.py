"""One reader on several event loops, in threads and after a fork; and how closing it affects reads under way."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress

import pytest

from labkit._loops import PerLoop
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import CLASSIC
from labkit.shards.base import ShardFailure
from labkit.shards.circuit import CircuitBreaker
from labkit.shards.limiter import Limiter
from labkit.shards.memory import MemoryShard
from tests.support.mocks import Stubborn, classic_reader, classic_shards, eventually, in_time, rows_of

HOUR = 3600.0
CLOSED = "the reader was closed"


class Limited(MemoryShard):
    """Has a limiter and per-loop state, as shards of real servers do."""

    def __init__(self, rows, limit=2):
        super().__init__(rows)
        self.limiter = Limiter(limit)
        self.loops = PerLoop(asyncio.get_running_loop, self._ended, lambda _: None)
        self.ended = 0

    async def read(self, ask):
        async with self.limiter.one(ask.deadline):
            assert self.loops.here() is asyncio.get_running_loop()
            return await super().read(ask)

    async def listen(self, notify, beat):
        notify()
        await asyncio.get_running_loop().create_future()

    async def aclose(self):
        await self.loops.aclose()

    async def _ended(self, _loop):
        self.ended += 1


def limited_reader(timeout=60.0):
    return ShardReader(CLASSIC, {s: CircuitBreaker(Limited(rows_of(s))) for s in CLASSIC.shards}, timeout=timeout)


async def every_way(reader):
    """The number of rows each way of reading finds, on the running loop."""
    async with aclosing(reader.watch(interval=0.01)) as watch, aclosing(reader.pages(7)) as pages:
        return [
            (await reader.read()).table.num_rows,
            sum([page.table.num_rows async for page in pages]),
            sum([batch.num_rows async for batch in reader.stream(7)]),
            (await anext(watch)).table.num_rows,
        ]


def test_one_reader_serves_one_loop_after_the_other():
    """Each loop in turn finds every row, and per-loop state ends with its loop."""
    reader = limited_reader()
    assert [asyncio.run(every_way(reader)) for _ in range(4)] == [[60] * 4] * 4
    assert [shard._source.ended for shard in reader.shards.values()] == [4, 4, 4]


def test_one_reader_serves_loops_that_were_closed_by_hand():
    """Loops closed without `asyncio.run`'s shutdown leave nothing that disturbs the next."""
    reader = limited_reader()
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(every_way(reader)) == [60] * 4
        loop.close()
    gc.collect()


def test_one_reader_serves_many_threads():
    """Concurrent threads, each with its own loops, always get all rows."""
    reader = limited_reader()
    with ThreadPoolExecutor(6) as pool:
        assert set(map(tuple, pool.map(lambda _: asyncio.run(every_way(reader)), range(60)))) == {(60,) * 4}


async def test_a_second_loop_reads_while_the_first_goes_on():
    """A watch, a stream and pages open on one loop do not disturb reads on another."""
    async with (
        limited_reader() as reader,
        aclosing(reader.watch(interval=0.01)) as watch,
        aclosing(reader.pages(7)) as pages,
    ):
        stream = reader.stream(7)
        first = [await anext(watch), await anext(stream), await anext(pages)]
        assert await asyncio.to_thread(lambda: asyncio.run(every_way(reader))) == [60] * 4
        assert (first[0].table.num_rows, first[1].num_rows) == (60, 7)
        assert sum([batch.num_rows async for batch in stream]) == 53


async def test_a_forked_child_reads_and_the_parent_goes_on():
    """The child has its own watches, streams and limiter slots, and takes nothing from the parent."""
    async with limited_reader() as reader, aclosing(reader.watch(interval=0.01)) as watch:
        stream = reader.stream(7)
        assert ((await anext(watch)).table.num_rows, (await anext(stream)).num_rows) == (60, 7)
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                os._exit(0 if asyncio.run(every_way(reader)) == [60] * 4 else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - it ends soon
        assert sum([batch.num_rows async for batch in stream]) == 53
        assert await every_way(reader) == [60] * 4


def test_what_stays_on_a_loop_says_so():
    """A watch or stream continued on another loop raises one clear error and ends nothing silently."""
    reader = limited_reader()
    watch, stream = reader.watch(), reader.stream(7)
    assert asyncio.run(first_of(watch)).table.num_rows == 60
    assert asyncio.run(first_of(stream)).num_rows == 7
    for kind, results in (("watch", watch), ("stream", stream)):
        with pytest.raises(UsageError, match=f"a {kind} stays on the event loop where it began: call {kind}"):
            asyncio.run(first_of(results))
    asyncio.run(watch.aclose())
    asyncio.run(stream.aclose())


async def first_of(results):
    return await anext(results)


def test_pages_go_on_on_another_loop():
    """Pages hold no per-loop state: each page is a separate read."""
    pages = limited_reader().pages(20)
    assert [asyncio.run(first_of(pages)).table["id"][0].as_py() for _ in range(3)] == [1, 21, 41]
    with pytest.raises(StopAsyncIteration):
        asyncio.run(first_of(pages))


async def test_places_are_for_each_loop():
    """A loop that uses all of its slots does not delay another loop."""
    limiter = Limiter(1)

    async def visit():
        async with limiter.one(asyncio.get_running_loop().time() + 5):
            return True

    async with limiter.one(HOUR * 1e6):
        assert await asyncio.to_thread(lambda: asyncio.run(visit()))


def test_what_a_thread_learns_of_a_shard_all_know():
    """Timeouts on three loops open the circuit; a read on a fourth fails at once."""
    shard = CircuitBreaker(MemoryShard(delay=HOUR), pause=HOUR)
    reader = classic_reader(timeout=0.05, s2=shard)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: asyncio.run(reader.read()), range(3)))
    assert shard.state == "open"
    assert asyncio.run(reader.read()).reports[2].error.startswith("circuit open: ")


def test_reads_of_a_loop_that_was_stopped_do_not_count_for_ever():
    """Reads on a stopped loop no longer count as waiting, though the circuit was never notified of their end."""
    source = MemoryShard([(11, "a")], delay=HOUR)
    shard = CircuitBreaker(source, waiting=2)
    reader = classic_reader(timeout=HOUR, s2=shard)
    stopped = asyncio.new_event_loop()
    reads = [stopped.create_task(reader.read(11, 20)) for _ in range(5)]
    stopped.run_until_complete(asyncio.sleep(0.01))
    shard._silence = 0.0
    source.delay = 0.0
    assert asyncio.run(reader.read(11, 20)).complete
    assert shard.state == "closed"
    for task in (*reads, *asyncio.all_tasks(stopped)):
        task.cancel()
    stopped.run_until_complete(asyncio.sleep(0.01))
    stopped.close()


async def test_a_forked_child_begins_with_a_closed_circuit():
    """Its circuit is closed even if a thread of the parent held the lock; the parent's circuit stays open."""
    shard = CircuitBreaker(MemoryShard(delay=HOUR), timeouts=1, pause=HOUR)
    await classic_reader(timeout=0.02, s2=shard).read()
    held, done = threading.Event(), threading.Event()

    def hold():
        with shard._lock:
            held.set()
            done.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            shard._source.delay = 0.0
            complete = asyncio.run(classic_reader(s2=shard).read(11, 20)).reports[2].status is Status.OK
            os._exit(0 if complete and shard.state == "closed" else 1)
        os._exit(2)
    done.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - it ends at once
    assert shard.state == "open"


async def test_a_failure_of_this_side_says_nothing_of_the_shard():
    """A failure on our side neither opens a circuit nor closes one."""
    source = MemoryShard(delay=HOUR)
    shard = CircuitBreaker(source, timeouts=1, pause=0.01)
    reader = classic_reader(timeout=0.02, s2=shard)
    await reader.read()
    await asyncio.sleep(0.02)
    source.delay, source.error = 0.0, KeyError("a bug")
    assert (await reader.read()).reports[2].error == "KeyError: 'a bug'"
    assert shard.state == "open"
    source.error = None
    assert (await reader.read(14, 14)).reports[2].status is Status.OK
    assert shard.state == "closed"


async def test_closing_ends_reads_under_way_at_once():
    """Reads return what has arrived and report the rest as missing, even if a shard ignores its cancellation."""
    stubborn = Stubborn()
    reader = classic_reader(timeout=HOUR, s2=stubborn, s3=MemoryShard(delay=HOUR))
    read, page = asyncio.create_task(reader.read()), asyncio.create_task(reader.page(60))
    stream = reader.stream(60)
    batch = asyncio.create_task(first_of(stream))
    await eventually(lambda: len(reader.shards[3].asks) == 3)
    await reader.aclose()
    for task in (read, page):
        result = await in_time(task, 0.1)
        assert result.table["id"].to_pylist()[:10] == list(range(1, 11))
        assert {s: (r.status, r.error) for s, r in result.reports.items() if r.failed} == dict.fromkeys(
            (2, 3), (Status.ERROR, CLOSED)
        )
    assert (await batch).num_rows == 20
    assert [batch async for batch in stream] == []
    assert stream.missing == ((11, 30), (41, 60))
    stubborn.released.set()


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.read(),
        lambda reader: reader.get(1),
        lambda reader: reader.page(5),
        lambda reader: first_of(reader.pages(5)),
        lambda reader: first_of(reader.stream(5)),
        lambda reader: first_of(reader.watch()),
    ],
    ids=["read", "get", "page", "pages", "stream", "watch"],
)
async def test_a_closed_reader_is_not_read(read):
    """One clear error, also after closing twice, and no shard is queried."""
    reader = classic_reader()
    await reader.aclose()
    await reader.aclose()
    with pytest.raises(UsageError, match="this reader was closed: make another one"):
        await read(reader)
    assert [shard.asks for shard in reader.shards.values()] == [[], [], []]


async def test_pages_under_way_end_with_an_error():
    """Pages do not end as if there were no more: the remaining ones were never requested."""
    reader = classic_reader()
    pages = reader.pages(20)
    assert (await anext(pages)).table.num_rows == 20
    await reader.aclose()
    with pytest.raises(UsageError, match="this reader was closed"):
        await anext(pages)


async def test_closing_ends_what_other_threads_read():
    """Reads and watches on other loops end there at once and leave nothing behind."""
    reader = classic_reader(timeout=HOUR, s2=MemoryShard(delay=HOUR))
    with ThreadPoolExecutor(3) as pool:
        reads = [pool.submit(lambda: asyncio.run(reader.read())) for _ in range(2)]
        seen: list[int] = []
        watch = pool.submit(lambda: asyncio.run(see(reader.watch(1, 10), seen)))
        await eventually(lambda: len(reader.shards[2].asks) == 2 and bool(seen))
        await in_time(reader.aclose(), 5.0)
        for read in reads:
            report = (await in_time(asyncio.wrap_future(read), 5.0)).reports[2]
            assert (report.status, report.error) == (Status.ERROR, CLOSED)
        await in_time(asyncio.wrap_future(watch), 5.0)
        assert seen == [10]


async def see(results, seen):
    async for result in results:
        seen.append(result.table.num_rows)


def test_a_reader_is_closed_by_another_loop_than_read():
    """The reader can be closed on another loop, as by `asyncio.run(reader.aclose())` at the end of a program."""
    reader = limited_reader()
    assert asyncio.run(every_way(reader)) == [60] * 4
    asyncio.run(reader.aclose())
    with pytest.raises(UsageError, match="this reader was closed"):
        asyncio.run(reader.read())


async def test_a_source_of_two_readers_serves_the_other_one_on():
    """Closing one reader leaves the other reader of the same sources working."""
    shards = classic_shards()
    one, other = ShardReader(CLASSIC, shards), ShardReader(CLASSIC, shards)
    async with other:
        async with one:
            assert (await one.read()).complete
        assert (await other.read()).table.num_rows == 60


def test_a_stream_or_watch_that_is_dropped_after_its_loop_is_no_error(recwarn):
    """The garbage collector may find them in any thread, long after their loop was closed."""
    reader = classic_reader()
    kept = [reader.watch(), reader.stream(7)]

    async def begin():
        for results in kept:
            await anext(results)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    dropping = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
    dropping.start()
    dropping.join()
    assert [str(warning.message) for warning in recwarn] == []


async def test_a_failure_that_a_shard_knows_stays_what_it_is_after_closing():
    """A read that ended before closing keeps the status it saw."""
    reader = classic_reader(s2=MemoryShard(error=ShardFailure(Status.REJECTED, "no")))
    result = await reader.read()
    await reader.aclose()
    assert result.reports[2].status is Status.REJECTED
