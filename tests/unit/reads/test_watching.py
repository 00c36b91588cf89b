"""Watching: the merged rows now, and again whenever they change; failures are data, the latest value wins."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from labkit.errors import RangeError, UsageError
from labkit.reader import ShardReader
from labkit.reads.watching import LISTENING, RETRY
from labkit.report import Status
from labkit.router import CLASSIC
from labkit.shards.base import Listens, ShardFailure
from labkit.shards.memory import MemoryShard
from labkit.shards.postgres import PostgresShard
from labkit.shards.redis import RedisShard
from tests.support.mocks import TIMEOUT, classic_reader, classic_shards, eventually, rows_of

pytestmark = pytest.mark.usefixtures("no_task_left")

PATIENCE = 5.0
"""Seconds that a test waits for an event that has to occur."""
HOUR = 3600.0


class Notifying(MemoryShard):
    """Notifies its listener on `change()`, and loses it on `lose(error)`."""

    def __init__(self, rows):
        super().__init__(rows)
        self.notify = None
        self.refusal = None
        self.listened = self.tried = 0
        self.reads = self.reading = 0
        self._lost = None

    async def read(self, ask):
        self.reads += 1
        self.reading += 1
        try:
            return await super().read(ask)
        finally:
            self.reading -= 1

    async def listen(self, notify, beat):
        self.tried += 1
        if self.refusal is not None:
            raise self.refusal
        self.listened += 1
        self.notify, self._lost = notify, asyncio.get_running_loop().create_future()
        notify()
        try:
            await self._lost
        finally:
            self.notify = None

    def change(self, rows, *, tell=True):
        self.rows = rows
        if tell and self.notify is not None:
            self.notify()

    def lose(self, error):
        self._lost.set_exception(error)


def notifying(**replaced):
    return {shard: replaced.get(f"s{shard}", Notifying(rows_of(shard))) for shard in CLASSIC.shards}


@asynccontextmanager
async def watching(reader, **kwargs):
    """A watch that is closed on exit, and its reader after it."""
    async with reader, aclosing(reader.watch(**{"interval": HOUR, **kwargs})) as results:
        yield results


async def next_of(results):
    async with asyncio.timeout(PATIENCE):
        return await anext(results)


async def until(results, condition):
    """The first result that meets the condition."""
    async with asyncio.timeout(PATIENCE):
        async for result in results:
            if condition(result):
                return result
    raise AssertionError("the watch ended")


def names(result):
    return dict(zip(*(result.table.column(c).to_pylist() for c in ("id", "name")), strict=True))


async def test_the_first_result_is_the_table():
    """The first result comes at once and equals a read's."""
    async with watching(ShardReader(CLASSIC, notifying(), timeout=TIMEOUT)) as results:
        first = await next_of(results)
        assert first.complete
        assert first.table.equals((await classic_reader().read()).table)


async def test_a_change_is_a_new_result():
    """Only the shard that changed is read; the rows of the others are kept."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        await next_of(results)
        shards[2].change([(12, "new")])
        second = await until(results, lambda r: r.reports[2].rows == 1)
        assert names(second)[12] == "new"
        assert second.table.num_rows == 41
        assert [shards[s].reads for s in (1, 3)] == [1, 1]


async def test_news_that_change_nothing_are_no_result():
    """A notification that leaves the rows unchanged gives no result."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        await next_of(results)
        following = asyncio.ensure_future(next_of(results))
        shards[1].change(shards[1].rows)
        while shards[1].reads < 2:
            await asyncio.sleep(0.001)
        assert not following.done()
        shards[1].change([])
        assert (await following).table.num_rows == 40


async def test_a_burst_of_changes_is_a_few_reads():
    """A thousand notifications in a row cost one read or two, and the result shows the last rows."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        await next_of(results)
        for number in range(1000):
            shards[1].change([(1, str(number))])
        assert names(await until(results, lambda r: r.table.num_rows == 41))[1] == "999"
        assert shards[1].reads <= 3


async def test_a_slow_consumer_sees_the_latest():
    """Changes made while the consumer slept arrive as one result, not a queue."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        await next_of(results)
        for number in range(5):
            shards[1].change([(1, str(number))])
            reads = shards[1].reads
            while shards[1].reads == reads:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # lets the read that has begun finish
        assert names(await next_of(results))[1] == "4"
        following = asyncio.ensure_future(anext(results))
        await asyncio.wait([following], timeout=0.05)
        assert not following.done()
        following.cancel()
        await asyncio.wait([following])


async def test_a_teller_that_is_lost_is_news():
    """Changes since then are unknown, so the shard is read at once, and listened to again."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        await next_of(results)
        shards[2].change([(12, "told by nobody")], tell=False)
        shards[2].lose(ConnectionResetError("gone"))
        assert names(await next_of(results))[12] == "told by nobody"
        await eventually(lambda: shards[2].notify is not None)
        shards[2].change([(12, "told again")])
        assert names(await next_of(results))[12] == "told again"


async def test_a_teller_is_not_believed():
    """A shard that listens but never notifies is still read every interval, as is one that refuses listeners."""
    shards = notifying()
    shards[1].refusal = ShardFailure(Status.REJECTED, "no listeners here")
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT), interval=0.03) as results:
        assert (await next_of(results)).complete
        for shard in (1, 2):
            shards[shard].change([], tell=False)
        assert (await until(results, lambda r: r.table.num_rows == 20)).complete
        shards[2].error = ConnectionRefusedError()
        assert (await until(results, lambda r: r.missing)).reports[2].status is Status.UNREACHABLE
        shards[2].error = None
        assert (await until(results, lambda r: r.complete)).table.num_rows == 20


async def test_a_listener_that_is_refused_is_not_asked_for_all_the_time():
    """Listening is retried at the interval, not continuously: a server at its client limit has enough to do."""
    shards = notifying()
    shards[2].refusal = ShardFailure(Status.REJECTED, "no listeners here")
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        await next_of(results)
        await asyncio.sleep(2 * RETRY)
        assert (shards[2].tried, shards[1].tried) == (1, 1)


async def test_a_table_that_takes_long_to_read_is_not_read_all_the_time():
    """Under constant change there is one read at a time, followed by a pause as long as the read."""
    shards = notifying()
    shards[1].delay = 0.05
    async with watching(ShardReader(CLASSIC, shards, timeout=5)) as results:
        await next_of(results)
        reads, started = shards[1].reads, asyncio.get_running_loop().time()
        while shards[1].reads < reads + 3:
            shards[1].change([])
            assert shards[1].reading <= 1
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() - started >= 3 * 0.05 + 2 * 0.05


class Deaf(Notifying):
    """Swallows the first cancellations of its listener or reads, as `wait_for` of Python 3.11 may."""

    def __init__(self, rows):
        super().__init__(rows)
        self.swallowed = 0

    async def listen(self, notify, beat):
        notify()
        await self._deaf()

    async def read(self, ask):
        if self.reads:
            self.reads += 1
            await self._deaf()
        return await super().read(ask)

    async def _deaf(self):
        while True:
            try:
                await asyncio.sleep(HOUR)
            except asyncio.CancelledError:
                if self.swallowed >= 4:
                    raise
                self.swallowed += 1


async def test_a_cancel_that_is_swallowed_is_repeated():
    """A driver may swallow the first cancellations, but nothing of a closed watch goes on."""
    shards = notifying(s2=Deaf(rows_of(2)))
    before = asyncio.all_tasks()
    async with ShardReader(CLASSIC, shards, timeout=HOUR) as reader:
        async with aclosing(reader.watch(interval=0.01)) as results:
            assert (await next_of(results)).complete
            await eventually(lambda: shards[2].reads > 1)
        await eventually(lambda: asyncio.all_tasks() <= before, 5)
    assert shards[2].swallowed == 4


class Swallowing(Notifying):
    """Its listener returns normally when it is cancelled."""

    async def listen(self, notify, beat):
        with suppress(asyncio.CancelledError):
            await super().listen(notify, beat)


async def test_loops_end_on_a_flag():
    """A listener that returns when cancelled, instead of raising, is not called again."""
    shards = notifying(s2=Swallowing(rows_of(2)))
    before = asyncio.all_tasks()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        async with aclosing(reader.watch(interval=0.01)) as results:
            await next_of(results)
            await eventually(lambda: shards[2].notify is not None)
        await eventually(lambda: asyncio.all_tasks() <= before)
    assert shards[2].tried == 1


async def test_many_watches_left_at_random_moments_leave_nothing():
    """A watch may end before its first result or during one, by a timeout, a break or a close: nothing is left."""
    draw = random.Random(3)
    shards = notifying()
    before = asyncio.all_tasks()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        for number in range(200):
            results = reader.watch(low=-number, interval=0.01)
            with suppress(TimeoutError):
                async with asyncio.timeout(draw.random() * 0.01):
                    for _ in range(draw.randrange(4)):
                        await anext(results)
                        shards[1].change([(1, str(number))])
            if draw.random() < 0.5:
                await results.aclose()
            del results
        await eventually(lambda: asyncio.all_tasks() <= before)
        assert [shard.notify for shard in shards.values()] == [None] * 3


async def test_a_hanging_shard_delays_nobody_elses_changes():
    """While one read waits for its deadline, the others' changes are seen."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=PATIENCE)) as results:
        await next_of(results)
        shards[2].delay = HOUR
        shards[2].change([])
        shards[1].change([(1, "meanwhile")])
        assert names(await next_of(results))[1] == "meanwhile"


async def test_a_shard_that_hangs_from_the_start_is_missing_from_the_first_result():
    """The first result comes at the deadline, as a read's would."""
    shards = notifying(s2=Notifying(rows_of(2)))
    shards[2].delay = HOUR
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT)) as results:
        first = await next_of(results)
        assert (first.missing, first.reports[2].status) == (((11, 20), (41, 50)), Status.TIMEOUT)
        shards[2].delay = 0.0  # sends no notification: the shard is retried
        assert (await until(results, lambda r: r.complete)).table.num_rows == 60


async def test_a_shard_that_will_not_be_listened_to_is_read():
    """A server that refuses listeners but answers reads is not missing: it is read at the interval."""
    shards = notifying()
    shards[2].refusal = ShardFailure(Status.REJECTED, "no listeners here")
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT), interval=0.02) as results:
        assert (await next_of(results)).complete
        shards[2].rows = []
        assert (await until(results, lambda r: r.table.num_rows == 40)).complete


async def test_shards_that_do_not_listen_are_read_at_the_interval():
    """A source without `listen` is polled, and its failure is a result as well."""
    reader = classic_reader()
    async with watching(reader, interval=0.02) as results:
        assert (await next_of(results)).complete
        reader.shards[3].rows = [(21, "new")]
        assert names(await until(results, lambda r: r.table.num_rows == 41))[21] == "new"
        reader.shards[3].error = ConnectionRefusedError()
        assert (await until(results, lambda r: r.missing)).missing == ((21, 30), (51, 60))
        reader.shards[3].error = None
        assert (await until(results, lambda r: r.complete)).table.num_rows == 41


async def test_a_window_is_watched():
    """Only shards in the window are listened to, and only its rows are in the results."""
    shards = notifying()
    async with watching(ShardReader(CLASSIC, shards, timeout=TIMEOUT), low=8, high=12) as results:
        first = await next_of(results)
        assert list(names(first)) == [8, 9, 10, 11, 12]
        assert first.reports[3].status is Status.SKIPPED
        assert shards[3].listened == 0


async def test_a_window_without_shards_is_one_empty_result():
    """No shard owns an ID in it: nothing is missing, and nothing can change."""
    async with watching(classic_reader(), low=100, high=200) as results:
        first = await next_of(results)
        assert (first.table.num_rows, first.complete) == (0, True)


async def test_consumers_share_one_set_of_connections():
    """Two consumers of the same watch listen once; the last one to leave ends it."""
    shards = notifying()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        async with aclosing(reader.watch(interval=HOUR)) as one, aclosing(reader.watch(interval=HOUR)) as other:
            for results in (one, other):
                assert (await next_of(results)).complete
            assert [shard.listened for shard in shards.values()] == [1, 1, 1]
            await one.aclose()
            shards[1].change([])
            assert (await next_of(other)).table.num_rows == 40
        await asyncio.sleep(0)
        assert [shard.notify for shard in shards.values()] == [None] * 3
        async with aclosing(reader.watch(interval=HOUR)) as later:
            assert (await next_of(later)).table.num_rows == 40
            assert shards[1].listened == 2


async def test_closing_the_reader_ends_the_watch():
    """Consumers' loops end; they are neither cancelled nor fail."""
    reader = ShardReader(CLASSIC, notifying(), timeout=TIMEOUT)
    seen, first = [], asyncio.Event()

    async def consume():
        async for result in reader.watch(interval=HOUR):
            seen.append(result.table.num_rows)
            first.set()

    consuming = asyncio.create_task(consume())
    async with asyncio.timeout(PATIENCE):
        await first.wait()
        await reader.aclose()
        await consuming
    assert seen == [60]


async def test_a_consumer_may_leave_by_break():
    """An iterator that is dropped gives its connections back."""
    shards = notifying()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        async for result in reader.watch(interval=HOUR):
            assert result.complete
            break
        async with asyncio.timeout(PATIENCE):
            while any(shard.notify for shard in shards.values()):
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("interval", [0, -1, "1", True, float("inf")])
async def test_a_bad_interval_is_one_clear_error(interval):
    """`watch` raises when it is called, not at the first result."""
    with pytest.raises(UsageError, match=f"interval must be a positive number of seconds, not {interval!r}"):
        classic_reader().watch(interval=interval)


async def test_a_bad_window_is_one_clear_error():
    """The window is checked as for a read."""
    with pytest.raises(RangeError, match="low must not be above high: got low=9, high=3"):
        classic_reader().watch(low=9, high=3)


def test_who_can_listen():
    """Servers can notify of changes, memory cannot."""
    assert isinstance(PostgresShard("postgresql://u@127.0.0.1:1/d", "t"), Listens)
    assert isinstance(RedisShard("redis://127.0.0.1:1/0", "k"), Listens)
    assert not isinstance(classic_shards()[1], Listens)


async def test_any_number_of_windows_share_a_listener_for_each_shard():
    """120 windows share one listening connection per shard; each sees a change, and the last to leave closes it."""
    shards = notifying()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        windows = [reader.watch(None, 12 + i, interval=HOUR + i % 2) for i in range(120)]
        firsts = await asyncio.gather(*(next_of(results) for results in windows))
        assert all(first.complete for first in firsts)
        assert [shard.tried for shard in shards.values()] == [1, 1, 1]
        shards[1].change([(1, "new")])
        for second in await asyncio.gather(*(next_of(results) for results in windows)):
            assert names(second)[1] == "new"
        for results in windows[1:]:
            await results.aclose()
        assert shards[1].notify is not None
        shards[1].change([(1, "newer")])
        assert names(await next_of(windows[0]))[1] == "newer"
        await windows[0].aclose()
        await eventually(lambda: not any(shard.notify for shard in shards.values()))


async def test_a_window_that_comes_later_is_read_once_and_at_once():
    """If the shard is already listened to, a new window waits neither for a listener to start nor for a second read."""
    shards = notifying()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        first, second = reader.watch(high=5, interval=HOUR), reader.watch(high=6, interval=HOUR)
        await next_of(first)
        reads, began = shards[1].reads, time.monotonic()
        assert (await next_of(second)).complete
        assert time.monotonic() - began < LISTENING
        assert (shards[1].reads - reads, shards[1].tried) == (1, 1)
        await first.aclose()
        await second.aclose()


async def test_windows_hear_again_once_a_lost_listener_is_back():
    """When the shared listener is lost, every window reads again and is notified again."""
    shards = notifying()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        windows = [reader.watch(high=high, interval=HOUR) for high in (3, 4, 5)]
        for results in windows:
            await next_of(results)
        shards[1].change([(1, "untold")], tell=False)
        shards[1].lose(ConnectionResetError())
        for results in windows:
            assert names(await next_of(results)) == {1: "untold"}
        await eventually(lambda: shards[1].listened == 2)
        shards[1].change([(1, "told")])
        for results in windows:
            assert names(await until(results, lambda r: True)) == {1: "told"}
        for results in windows:
            await results.aclose()
