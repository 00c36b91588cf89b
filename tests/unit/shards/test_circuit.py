"""The circuit breaker, mostly on scripted shards and a clock that the test sets, so that nothing waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.base import Ask, Listens, Shard, ShardFailure
from labkit.shards.circuit import SILENCE, CircuitBreaker
from labkit.shards.memory import MemoryShard
from labkit.tables import InvalidAnswer
from tests.support.mocks import Custodian, Stubborn, classic_reader, in_time, rows_of, turn_until

SECONDS = 2.0
"""The timeout of scripted reads, on the clock of the test."""
PAUSE = 1.0
QUIET = SILENCE * SECONDS
"""Seconds of silence after which a shard with `waiting` reads in flight gets no more."""
ROWS = [(1, "a")]
LATE = "circuit open: no answer before the deadline (3 times in a row)"
CROWD = "circuit open: 10 reads wait and none was answered"
ANSWERS = {
    "rows": ROWS,
    "refused": ConnectionRefusedError("connection refused"),
    "disconnected": ConnectionResetError("reset by peer"),
    "rejected": ShardFailure(Status.REJECTED, "no such table"),
    "invalid": InvalidAnswer("row 1 is no pair"),
    "a failure that knows": ShardFailure(Status.UNREACHABLE, "starting up"),
}


class Clock:
    """Replaces the clock of the running event loop; in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted(MemoryShard):
    """A shard whose reads wait until the test ends them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[asyncio.Future[Any]] = []

    async def read(self, ask: Ask) -> Any:
        self.calls.append(asyncio.get_running_loop().create_future())
        return await self.calls[-1]


class Read:
    """A read that has been started; `call` is the shard's pending call, None if the breaker refused the read."""

    def __init__(self, task: asyncio.Task[Any], call: asyncio.Future[Any] | None, asked: float, deadline: float):
        self.task, self.call, self.asked, self.deadline = task, call, asked, deadline

    async def end(self, by: Any) -> None:
        """The shard answers with rows, or fails with an exception."""
        if isinstance(by, Exception):
            self.call.set_exception(by)
        else:
            self.call.set_result(by)
        await asyncio.wait([self.task])
        assert self.task.exception() is by or self.task.result() is by

    async def leave(self) -> None:
        """The caller cancels the read."""
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


class Bench:
    """A breaker around a scripted shard."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.clock = clock
        self.shard = Scripted()
        self.breaker = CircuitBreaker(self.shard, **options)
        self.breaker.prepare(SECONDS)

    async def ask(self) -> Read:
        """Starts a read and lets it run until it waits for the shard or is refused."""
        before, now = len(self.shard.calls), self.clock.now
        task = asyncio.create_task(self.breaker.read(Ask(((1, 10),), None, None, now + SECONDS)))
        await turn_until(lambda: task.done() or len(self.shard.calls) > before)
        call = self.shard.calls[-1] if len(self.shard.calls) > before else None
        assert task.done() == (call is None)
        return Read(task, call, now, now + SECONDS)

    async def passes(self) -> Read:
        """Starts a read that must reach the shard."""
        read = await self.ask()
        assert read.call is not None, str(read.task.exception())
        return read

    async def refused(self) -> str:
        """Starts a read that must be refused; returns the error text."""
        read = await self.ask()
        assert read.call is None
        with pytest.raises(ShardFailure) as caught:
            read.task.result()
        assert caught.value.status is Status.UNREACHABLE
        return str(caught.value)

    async def times_out(self, *reads: Read, by: Exception | None = None) -> None:
        """The reads time out at their deadlines."""
        for read in reads:
            self.clock.now = max(self.clock.now, read.deadline)
            await read.end(by or TimeoutError())

    async def open(self) -> None:
        """Three consecutive reads time out."""
        for _ in range(3):
            await self.times_out(await self.passes())
        assert self.breaker.state == "open"


@pytest_asyncio.fixture
async def clock(monkeypatch: pytest.MonkeyPatch, no_task_left: None) -> Clock:
    """This test's loop clock, set by the test; the test must leave no task behind."""
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    return clock


@pytest_asyncio.fixture
async def bench(clock: Clock) -> Bench:
    """A breaker with default options."""
    return Bench(clock)


async def test_reads_pass_while_the_circuit_is_closed(bench):
    """A closed breaker passes the query to the source and returns its answer unchanged."""
    read = await bench.passes()
    await read.end(ROWS)
    assert bench.breaker.state == "closed"


async def test_three_timeouts_in_a_row_open_the_circuit(bench):
    """Two timeouts do not open it, the third does; from then on reads fail at once and say why."""
    for state in ("closed", "closed", "open"):
        await bench.times_out(await bench.passes())
        assert bench.breaker.state == state
    assert await bench.refused() == LATE


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_between_makes_it_no_row(bench, answer):
    """Rows, or any failure but a timeout, reset the count."""
    for _ in range(3):
        for _ in range(2):
            await bench.times_out(await bench.passes())
        await (await bench.passes()).end(answer)
    assert bench.breaker.state == "closed"


async def test_failures_that_cost_no_time_never_open_it(bench):
    """A shard that refuses is queried every time: it fails as fast as the breaker would."""
    for _ in range(20):
        await (await bench.passes()).end(ConnectionRefusedError("connection refused"))
    assert bench.breaker.state == "closed"


async def test_a_server_that_says_timeout_is_late(bench):
    """A `ShardFailure` with status TIMEOUT counts as a timeout, and its text becomes the cause."""
    for _ in range(3):
        await (await bench.passes()).end(ShardFailure(Status.TIMEOUT, "canceled by the server"))
    assert await bench.refused() == "circuit open: canceled by the server (3 times in a row)"


async def test_a_read_that_the_reader_gives_up_is_late(bench):
    """A read cancelled at or after its deadline counts as a timeout: the source did not stop on its own."""
    for _ in range(3):
        read = await bench.passes()
        bench.clock.now = read.deadline
        await read.leave()
    assert await bench.refused() == LATE


async def test_a_caller_that_leaves_proves_nothing(bench):
    """A read cancelled before its deadline is neither a timeout nor an answer: the count stays as it is."""
    for _ in range(5):
        await (await bench.passes()).leave()
    assert bench.breaker.state == "closed"
    for _ in range(3):
        await (await bench.passes()).leave()
        await bench.times_out(await bench.passes())
    assert bench.breaker.state == "open"


async def test_one_timeout_may_be_enough(clock):
    """With `timeouts=1` the first timeout opens the circuit, and the cause has no count."""
    bench = Bench(clock, timeouts=1)
    await bench.times_out(await bench.passes())
    assert await bench.refused() == "circuit open: no answer before the deadline"


async def test_many_reads_that_time_out_together_open_it_once(bench):
    """Of 200 concurrent reads three timeouts are enough; later ones do not postpone the probe."""
    reads = [await bench.passes() for _ in range(200)]
    await bench.times_out(*reads[:3])
    assert bench.breaker.state == "open"
    bench.clock.now += PAUSE / 2
    await bench.times_out(*reads[3:])
    assert await bench.refused() == LATE
    bench.clock.now += PAUSE / 2
    await (await bench.passes()).end(ROWS)
    assert bench.breaker.state == "closed"


async def test_timeouts_beside_answers_are_no_reason(bench):
    """A shard that answers some reads while others time out in its queue is busy, not silent: it is never refused."""
    for _ in range(10):
        reads = [await bench.passes() for _ in range(9)]
        bench.clock.now += SECONDS / 2
        await reads[0].end(ROWS)
        await bench.times_out(*reads[1:])
        assert bench.breaker.state == "closed"


async def test_a_late_answer_of_an_older_read_closes_the_circuit(bench):
    """Any answer closes the circuit, even one to a read that started before it opened."""
    older = await bench.passes()
    bench.clock.now += 0.1
    newer = [await bench.passes() for _ in range(3)]
    for read in newer:
        read.deadline -= 0.5
    await bench.times_out(*newer)
    await bench.refused()
    await older.end(ROWS)
    assert bench.breaker.state == "closed"
    await (await bench.passes()).end(ROWS)


async def test_after_it_closed_old_timeouts_do_not_open_it(bench):
    """Timeouts of reads that started before the last answer do not count."""
    old = [await bench.passes() for _ in range(9)]
    bench.clock.now += QUIET / 2
    await (await bench.passes()).end(ROWS)
    await bench.times_out(*old)
    assert bench.breaker.state == "closed"


async def test_after_the_pause_one_read_is_a_probe(bench):
    """Once the pause is over, exactly one read passes; all others are refused while it waits."""
    await bench.open()
    bench.clock.now += PAUSE - 0.001
    await bench.refused()
    bench.clock.now += 0.001
    probe = await bench.passes()
    assert bench.breaker.state == "half-open"
    for _ in range(5):
        bench.clock.now += SECONDS / 6
        assert await bench.refused() == LATE
    await probe.leave()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_to_the_probe_closes_the_circuit(bench, answer):
    """After rows or a failure other than a timeout, all reads pass and it takes three timeouts to open it again."""
    await bench.open()
    bench.clock.now += PAUSE
    await (await bench.passes()).end(answer)
    assert bench.breaker.state == "closed"
    await bench.open()


async def test_a_timeout_of_the_probe_opens_it_again(bench):
    """A probe's timeout opens it for another pause; the error text stays the same every time."""
    await bench.open()
    for _ in range(4):
        bench.clock.now += PAUSE
        await bench.times_out(await bench.passes())
        assert bench.breaker.state == "open"
        bench.clock.now += PAUSE - 0.001
        assert await bench.refused() == LATE
        bench.clock.now += 0.001


async def test_a_probe_whose_caller_leaves_gives_its_place_to_the_next(bench):
    """A cancelled probe proves nothing: the next read, and only that one, becomes the probe."""
    await bench.open()
    bench.clock.now += PAUSE
    await (await bench.passes()).leave()
    assert bench.breaker.state == "open"
    second = await bench.passes()
    await bench.refused()
    await second.end(ROWS)
    assert bench.breaker.state == "closed"


async def test_only_the_probe_can_give_its_place_away(bench):
    """Cancelling an older read does not let another read in."""
    older = await bench.passes()
    for _ in range(3):
        await (await bench.passes()).end(ShardFailure(Status.TIMEOUT, "canceled by the server"))
    bench.clock.now += PAUSE
    probe = await bench.passes()
    await older.leave()
    await bench.refused()
    await probe.leave()


async def test_a_probe_that_never_ends_holds_its_place_for_a_time_only(bench):
    """If a probe never ends, the next one is sent a pause after its deadline."""
    await bench.open()
    bench.clock.now += PAUSE
    stuck = await bench.passes()
    bench.clock.now = stuck.deadline + PAUSE
    await (await bench.passes()).end(ROWS)
    assert bench.breaker.state == "closed"
    await stuck.leave()
    assert bench.breaker.state == "closed"


async def test_no_more_than_some_wait_on_a_silent_shard(bench):
    """With ten in flight and no answer for a quarter of the timeout, further reads are refused before any times out."""
    reads = [await bench.passes() for _ in range(10)]
    bench.clock.now += QUIET
    assert await bench.refused() == CROWD
    assert bench.breaker.state == "open"
    await reads.pop().end(ROWS)
    assert bench.breaker.state == "closed"
    for read in [*reads, await bench.passes()]:
        await read.end(ROWS)


async def test_fewer_may_wait_as_long_as_they_like(bench):
    """Nine waiting reads refuse nobody until three have timed out."""
    reads = [await bench.passes() for _ in range(9)]
    bench.clock.now += SECONDS - 0.001
    for read in [*reads, await bench.passes()]:
        await read.leave()


async def test_a_crowd_is_patient_for_a_quarter_of_the_timeout(bench):
    """Any number of concurrent reads pass until the first has waited a quarter of the timeout."""
    reads = [await bench.passes() for _ in range(200)]
    bench.clock.now += QUIET - 0.001
    for read in [*reads, await bench.passes()]:
        await read.end(ROWS)
    assert bench.breaker.state == "closed"


async def test_answers_end_a_silence(bench):
    """Each answer gives the waiting reads another full quarter of the timeout."""
    reads = [await bench.passes() for _ in range(20)]
    for read in reads[10:]:
        bench.clock.now += QUIET - 0.001
        await read.end(ROWS)
        await bench.passes()
    assert bench.breaker.state == "closed"
    for call in bench.shard.calls:
        call.cancel()


async def test_a_silence_begins_with_the_oldest_read_that_waits(bench):
    """Neither reads that have ended nor time without reads count as silence."""
    await (await bench.passes()).end(ROWS)
    bench.clock.now += 3600
    gone = await bench.passes()
    bench.clock.now += QUIET
    reads = [await bench.passes() for _ in range(9)]
    await gone.leave()
    reads.append(await bench.passes())
    for read in [*reads, await bench.passes()]:
        await read.end(ROWS)


async def test_a_silence_of_this_process_is_not_the_shards(bench):
    """An answer that arrived while the event loop was blocked is processed before a new read is refused."""
    reads = [await bench.passes() for _ in range(10)]
    bench.clock.now += QUIET
    asyncio.get_running_loop().call_soon(reads[0].call.set_result, ROWS)
    for read in [await bench.passes(), *reads[1:]]:
        await read.end(ROWS)
    assert reads[0].task.result() is ROWS


async def test_the_longest_timeout_says_how_long_a_silence_is_too_long(clock):
    """With several readers the longest timeout counts; without `prepare` silence never opens the circuit."""
    bench = Bench(clock)
    bench.breaker.prepare(SECONDS / 2)
    reads = [await bench.passes() for _ in range(10)]
    bench.clock.now += QUIET - 0.001
    reads.append(await bench.passes())
    bench.clock.now += 0.001
    await bench.refused()
    for read in reads:
        await read.end(ROWS)
    unprepared = CircuitBreaker(Scripted(), waiting=1)
    bench.breaker, bench.shard = unprepared, unprepared._source
    waits = await bench.passes()
    bench.clock.now += 3600
    for read in (waits, await bench.passes()):
        await read.end(ROWS)


async def test_a_crowd_that_left_is_followed_by_a_probe(bench):
    """A circuit opened by silence is probed after the pause as usual, even if no read waits any more."""
    reads = [await bench.passes() for _ in range(10)]
    bench.clock.now += QUIET
    await bench.refused()
    for read in reads:
        await read.leave()
    bench.clock.now += PAUSE
    for cause in (CROWD, CROWD, LATE):  # until enough timeouts give a better cause
        await bench.times_out(await bench.passes())
        assert await bench.refused() == cause
        bench.clock.now += PAUSE
    await (await bench.passes()).end(ROWS)
    assert bench.breaker.state == "closed"


class Slow(MemoryShard):
    """Answers each read after `delay` seconds, ten at a time; the others queue, as in a pool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = asyncio.Semaphore(10)

    async def read(self, ask: Ask) -> Any:
        async with self.places:
            return await super().read(ask)


async def test_a_slow_shard_that_answers_is_never_refused(no_task_left):
    """Three rounds of 200 concurrent reads, ten answers every 10 ms: all are complete."""
    breaker = CircuitBreaker(Slow(rows_of(2), delay=0.01))
    reader = classic_reader(timeout=5.0, s2=breaker)
    for _ in range(3):
        results = await asyncio.gather(*(reader.read() for _ in range(200)))
        assert {report.error for result in results for report in result.reports.values()} == {None}
        assert breaker.state == "closed"


async def test_a_reader_with_a_breaker_is_back_at_once(no_task_left):
    """With an open circuit a read does not wait for the hanging shard; its ranges are missing, its report says why."""
    source = MemoryShard(rows_of(2), delay=math.inf)
    reader = classic_reader(s2=CircuitBreaker(source, pause=0.2))
    for _ in range(3):
        assert (await in_time(reader.read())).reports[2].status is Status.TIMEOUT
    result = await in_time(reader.read(), within=0.0)
    assert result.missing == ((11, 20), (41, 50))
    assert result.table.num_rows == 40
    assert (result.reports[2].status, result.reports[2].error) == (Status.UNREACHABLE, LATE)
    source.delay = 0.0
    await asyncio.sleep(0.2)
    assert (await in_time(reader.read())).complete
    await reader.aclose()


async def test_a_source_that_ignores_its_cancellation_opens_it_too(no_task_left):
    """Reads that the reader abandons one grace period after their deadline count as timeouts."""
    stubborn = Stubborn(rows_of(2))
    breaker = CircuitBreaker(stubborn, waiting=2)
    reader = classic_reader(s2=breaker)
    for _ in range(2):
        assert (await in_time(reader.read())).reports[2].status is Status.TIMEOUT
    assert (await in_time(reader.read(), within=0.0)).reports[2].status is Status.UNREACHABLE
    stubborn.released.set()
    await turn_until(lambda: breaker.state == "closed")
    assert (await in_time(reader.read())).complete
    await reader.aclose()


async def test_it_stands_in_for_the_shard():
    """`prepare` and `aclose` are passed on, `repr` shows the wrapped shard, and no other attribute is exposed."""
    source = Custodian()
    breaker = CircuitBreaker(source)
    assert isinstance(breaker, Shard)
    breaker.prepare(2.0)
    await breaker.aclose()
    assert (source.prepared, source.closed) == ([2.0], 1)
    assert repr(breaker) == f"CircuitBreaker({source!r})"
    assert not hasattr(breaker, "rows")


async def test_its_failure_to_close_is_the_sources():
    """An error that the source raises on closing is not swallowed."""
    with pytest.raises(OSError, match="will not"):
        await CircuitBreaker(Custodian(on_close=OSError("will not"))).aclose()


class Listening(MemoryShard):
    """A shard that can listen for changes."""

    heard: tuple[Callable[[], None], float] | None = None

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        self.heard = (notify, beat)


async def test_it_listens_exactly_where_its_source_does():
    """The breaker has `listen` only if its source has; calls are passed on, whatever the circuit's state."""
    assert not isinstance(CircuitBreaker(MemoryShard()), Listens)
    source = Listening()
    breaker = CircuitBreaker(source)
    assert isinstance(breaker, Listens)
    await breaker.listen(print, 0.5)
    assert source.heard == (print, 0.5)


@pytest.mark.parametrize("option", ["timeouts", "waiting"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "3"])
def test_counts_are_positive_whole_numbers(option, value):
    """The error names the option and the value."""
    with pytest.raises(UsageError, match=f"{option} must be a positive whole number, not {value!r}"):
        CircuitBreaker(MemoryShard(), **{option: value})


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, None, "1"])
def test_the_pause_is_a_positive_number_of_seconds(value):
    """The error names the option and the value."""
    with pytest.raises(UsageError, match=f"pause must be a positive number of seconds, not {value!r}"):
        CircuitBreaker(MemoryShard(), pause=value)


def test_a_pause_is_at_most_as_long_as_any_time():
    """A pause has the same upper limit as a timeout."""
    with pytest.raises(UsageError, match="pause must be at most 2,147,483 seconds, not 3000000"):
        CircuitBreaker(MemoryShard(), pause=3_000_000)


def test_only_a_shard_is_wrapped():
    """Anything that cannot be read is refused when the breaker is made, not at the first read."""
    with pytest.raises(UsageError, match="'postgresql://' is not a source of rows"):
        CircuitBreaker("postgresql://")


class Circuit(RuleBasedStateMachine):
    """Reads, answers, timeouts, cancellations and passing time, in any order, judged by what has been seen."""

    timeouts, waiting = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.runner.get_loop().time = self.clock
        self.bench = Bench(self.clock, timeouts=self.timeouts, waiting=self.waiting)
        self.reads: list[Read] = []
        self.answered = -math.inf
        self.late: list[Read] = []
        """Reads that were started since the last answer and timed out."""
        self.crowded = False
        """Whether, since the last answer, `waiting` reads have waited for `QUIET` seconds."""
        self.probes: list[Read] = []
        """Reads in flight that passed while the circuit was not closed."""

    @rule()
    def ask(self) -> None:
        """A read passes unless there is a reason to refuse it."""
        now, closed = self.clock.now, self.bench.breaker.state == "closed"
        if len(self.reads) >= self.waiting:
            self.crowded |= now - max(self.answered, self.reads[0].asked) >= QUIET
        read = self.runner.run(self.bench.ask())
        if read.call is None:
            assert len(self.late) >= self.timeouts or self.crowded, "a read was refused without a reason"
            assert read.task.exception().status is Status.UNREACHABLE
            return
        self.reads.append(read)
        if closed:
            assert len(self.late) < self.timeouts
            assert not self.crowded
        else:
            self.probes.append(read)

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), answer=st.sampled_from([*ANSWERS.values()]))
    def answer(self, data: st.DataObject, answer: Any) -> None:
        """Any answer to any read closes the circuit."""
        read = self.pick(data)
        self.runner.run(read.end(answer))
        self.answered, self.late, self.crowded, self.probes = self.clock.now, [], False, []
        assert self.bench.breaker.state == "closed"

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), by=st.sampled_from(["itself", "the reader", "the server"]))
    def time_out(self, data: st.DataObject, by: str) -> None:
        """A read times out: on its own, because the reader gives it up, or earlier because the server says so."""
        read = self.pick(data)
        if by == "the server":
            self.runner.run(read.end(ShardFailure(Status.TIMEOUT, "canceled")))
        else:
            self.clock.now = max(self.clock.now, read.deadline)
            self.runner.run(read.leave() if by == "the reader" else read.end(TimeoutError()))
        if read.asked >= self.answered:
            self.late.append(read)

    @precondition(lambda self: any(read.deadline > self.clock.now for read in self.reads))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller cancels its read before the deadline."""
        read = self.pick(data, lambda read: read.deadline > self.clock.now)
        self.runner.run(read.leave())

    @rule(seconds=st.sampled_from([0.001, QUIET / 2, QUIET, PAUSE / 2, PAUSE, SECONDS]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.now += seconds

    @invariant()
    def one_probe(self) -> None:
        """An open circuit has at most one probe whose deadline is still ahead."""
        assert len([read for read in self.probes if read.deadline > self.clock.now]) <= 1

    def teardown(self) -> None:
        """Whatever happened, a shard that answers again is used again after the pause, and stays in use."""
        try:
            self.clock.now = max([self.clock.now, *(read.deadline for read in self.reads)])
            for read in self.reads:
                self.runner.run(read.leave())
            self.clock.now += PAUSE
            for _ in range(5):
                self.runner.run(self.recover())
        finally:
            self.runner.close()

    async def recover(self) -> None:
        await (await self.bench.passes()).end(ROWS)
        assert self.bench.breaker.state == "closed"

    def pick(self, data: st.DataObject, wanted: Callable[[Read], bool] = lambda _: True) -> Read:
        read = data.draw(st.sampled_from([read for read in self.reads if wanted(read)]))
        self.reads.remove(read)
        if read in self.probes:
            self.probes.remove(read)
        return read


TestCircuit = Circuit.TestCase
TestCircuit.settings = settings(
    derandomize=True, database=None, deadline=None, max_examples=150, stateful_step_count=30
)
