"""The reader on shards in memory: concurrent, on time, exact about what is missing."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing, suppress
from enum import IntEnum
from fractions import Fraction

import numpy as np
import pytest

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import IncompleteRead, RangeError, ShardUnavailable, UsageError
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import CLASSIC, RangeRouter
from labkit.shards.base import ShardFailure
from labkit.shards.memory import MemoryShard
from tests.support.mocks import (
    AMPLE,
    TIMEOUT,
    Answering,
    Blocking,
    Custodian,
    Meeting,
    Stubborn,
    classic_reader,
    classic_shards,
    in_time,
    rows_of,
    turn_until,
)

pytestmark = pytest.mark.usefixtures("no_task_left")

GAPS = {1: ((1, 10), (31, 40)), 2: ((11, 20), (41, 50)), 3: ((21, 30), (51, 60))}


def ids(result):
    return result.table.column("id").to_pylist()


def statuses(result):
    return {shard: report.status for shard, report in result.reports.items()}


def only_2(status):
    return {1: Status.OK, 2: status, 3: Status.OK}


async def test_a_healthy_read_returns_every_row_in_order():
    """A healthy read holds every row of every shard, ascending by ID; it is complete and every shard is OK."""
    result = await classic_reader().read()
    assert result.table.to_pylist() == [{"id": i, "name": f"Test {i}"} for i in range(1, 61)]
    assert result.complete
    assert result.missing == ()
    assert {s: (r.shard, r.status, r.rows, r.error, r.ranges) for s, r in result.reports.items()} == {
        s: (s, Status.OK, 20, None, GAPS[s]) for s in (1, 2, 3)
    }


async def test_shards_are_asked_at_the_same_time():
    """All three shards are queried before any of them answers; querying them in turn would never end."""
    barrier = asyncio.Barrier(3)
    meeting = {f"s{s}": Meeting(rows_of(s), barrier) for s in CLASSIC.shards}
    assert (await classic_reader(timeout=5, **meeting).read()).complete


async def test_reads_of_one_reader_run_side_by_side():
    """Two concurrent reads on one reader do not wait for each other."""
    barrier = asyncio.Barrier(6)
    reader = classic_reader(timeout=5, **{f"s{s}": Meeting(rows_of(s), barrier) for s in CLASSIC.shards})
    first, second = await asyncio.gather(reader.read(), reader.read())
    assert first.complete
    assert second.complete


async def test_every_shard_gets_the_same_deadline_its_ranges_and_the_window():
    """One absolute deadline, `timeout` from the start; the window as given; ranges cut to it."""
    reader = classic_reader()
    clock = asyncio.get_running_loop().time
    before = clock()
    await reader.read(15, None)
    asks = {shard: source.asks[0] for shard, source in reader.shards.items()}
    assert {ask.deadline for ask in asks.values()} == {asks[1].deadline}
    assert before + TIMEOUT <= asks[1].deadline <= clock() + TIMEOUT
    assert {(ask.low, ask.high) for ask in asks.values()} == {(15, None)}
    assert {shard: ask.ranges for shard, ask in asks.items()} == CLASSIC.prune(15, None)


FAILURES = {
    "hang": (MemoryShard(delay=math.inf), Status.TIMEOUT, "no answer before the deadline"),
    "early time-out": (MemoryShard(error=TimeoutError()), Status.TIMEOUT, "no answer before the deadline"),
    "refused": (MemoryShard(error=ConnectionRefusedError("connection refused")), Status.UNREACHABLE, "refused"),
    "no such host": (MemoryShard(error=OSError("no such host")), Status.UNREACHABLE, "no such host"),
    "reset": (MemoryShard(error=ConnectionResetError("reset by peer")), Status.DISCONNECTED, "reset by peer"),
    "broken pipe": (MemoryShard(error=BrokenPipeError("broken pipe")), Status.DISCONNECTED, "broken pipe"),
    "end of file": (MemoryShard(error=EOFError()), Status.DISCONNECTED, "EOFError"),
    "half a reply": (
        MemoryShard(error=asyncio.IncompleteReadError(b"abc", 9)),
        Status.DISCONNECTED,
        "3 bytes read on a total of 9",
    ),
    "an error of ours": (
        MemoryShard(error=RuntimeError("no such\n  thing")),
        Status.ERROR,
        "RuntimeError: no such thing",
    ),
    "an error without text": (MemoryShard(error=KeyError()), Status.ERROR, "KeyError"),
    "a failure of its own kind": (MemoryShard(error=Exception("odd")), Status.ERROR, "Exception: odd"),
    "a failure that knows": (
        MemoryShard(error=ShardFailure(Status.UNREACHABLE, "starting up")),
        Status.UNREACHABLE,
        "starting up",
    ),
    "duplicate rows": (MemoryShard([(11, "a"), (11, "a")]), Status.INVALID, "id 11 is there twice"),
    "unsorted rows": (MemoryShard([(12, "a"), (11, "a")]), Status.INVALID, "id 11 comes after 12"),
    "foreign rows": (MemoryShard([(1, "a")]), Status.INVALID, "id 1 is outside"),
    "null id": (MemoryShard([(None, "a")]), Status.INVALID, "NULL"),
    "bytes for names": (MemoryShard([(11, b"a")]), Status.INVALID, "b'a' is not text"),
    "no rows at all": (Answering(7), Status.INVALID, "not a sequence of rows"),
}


@pytest.mark.parametrize(("source", "status", "cause"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_failure_of_one_shard_is_data(source, status, cause):
    """When shard 2 fails, the rows of the others are there, its ranges are missing, and its report says why."""
    result = await in_time(classic_reader(s2=source).read())
    assert ids(result) == rows_ids(1, 3)
    assert statuses(result) == only_2(status)
    assert result.missing == GAPS[2]
    assert not result.complete
    report = result.reports[2]
    assert cause in report.error
    assert "\n" not in report.error
    assert (report.rows, report.ranges, report.failed) == (0, GAPS[2], True)


def rows_ids(*shards):
    return sorted(row_id for shard in shards for row_id, _ in rows_of(shard))


async def test_an_invalid_answer_is_dropped_whole():
    """One bad row among good ones drops every row of that shard."""
    good = rows_of(2)
    result = await classic_reader(s2=MemoryShard([*good[:5], good[4], *good[5:]])).read()
    assert ids(result) == rows_ids(1, 3)
    assert result.reports[2].rows == 0


async def test_an_answer_after_the_deadline_is_no_answer():
    """A source that blocks the event loop and answers too late is TIMEOUT; those that answered in time are OK."""
    result = await in_time(classic_reader(s3=Blocking(rows_of(3))).read())
    assert statuses(result) == {1: Status.OK, 2: Status.OK, 3: Status.TIMEOUT}
    assert ids(result) == rows_ids(1, 2)
    assert result.missing == GAPS[3]
    assert result.reports[3].error == "no answer before the deadline"


async def test_a_shard_that_ignores_its_cancellation_does_not_delay_the_read():
    """The read returns on time; the source is cancelled once and abandoned."""
    source = Stubborn(rows_of(2))
    result = await in_time(classic_reader(s2=source).read())
    assert statuses(result) == only_2(Status.TIMEOUT)
    assert result.missing == GAPS[2]
    assert result.reports[2].elapsed >= TIMEOUT
    await turn_until(lambda: source.cancellations > 0)
    assert source.cancellations == 1
    source.released.set()


async def test_a_late_answer_never_reaches_a_later_read():
    """What an abandoned source returns after its read is dropped, not merged into the next read."""
    source = Stubborn([(11, "late")])
    reader = classic_reader(s2=source)
    await reader.read()
    source.released.set()
    source.rows = rows_of(2)
    result = await reader.read()
    assert result.complete
    assert ids(result) == list(range(1, 61))


async def test_a_shard_that_takes_its_own_cancellation_for_an_answer_is_missing():
    """A source that raises CancelledError on its own is a failed shard, not a cancelled read."""
    result = await in_time(classic_reader(s2=MemoryShard(error=asyncio.CancelledError())).read())
    assert result.missing == GAPS[2]
    assert result.reports[2].failed


async def test_all_hanging_shards_share_one_deadline():
    """Three hanging shards take one timeout, not three."""
    hanging = {f"s{s}": MemoryShard(delay=math.inf) for s in CLASSIC.shards}
    result = await in_time(classic_reader(**hanging).read())
    assert set(statuses(result).values()) == {Status.TIMEOUT}


async def test_all_shards_down_is_an_empty_incomplete_result():
    """With all shards down there are no rows, everything is missing as one range, and nothing is raised."""
    down = {f"s{s}": MemoryShard(error=ConnectionRefusedError("refused")) for s in CLASSIC.shards}
    result = await classic_reader(**down).read()
    assert ids(result) == []
    assert not result.complete
    assert result.missing == ((1, 60),)
    assert list(result.frame.columns) == ["id", "name"]


async def test_shards_without_the_window_are_not_asked():
    """A skipped shard is not queried, has no ranges and no error, and is neither failed nor missing."""
    reader = classic_reader(s1=MemoryShard(error=ConnectionRefusedError("refused")))
    result = await reader.read(11, 25)
    assert reader.shards[1].asks == []
    assert statuses(result) == {1: Status.SKIPPED, 2: Status.OK, 3: Status.OK}
    skipped = result.reports[1]
    assert (skipped.rows, skipped.ranges, skipped.error, skipped.failed) == (0, (), None, False)
    assert ids(result) == list(range(11, 26))
    assert result.complete


async def test_a_window_nobody_owns_is_a_complete_empty_read():
    """Outside all ranges no shard is queried, so nothing is missing."""
    reader = classic_reader()
    result = await reader.read(100, 200)
    assert result.complete
    assert ids(result) == []
    assert set(statuses(result).values()) == {Status.SKIPPED}
    assert [source.asks for source in reader.shards.values()] == [[], [], []]


@pytest.mark.parametrize(("low", "high"), [(None, None), (5, 45), (40, None), (None, 12), (20, 20), (INT64_MIN, 31)])
async def test_answered_and_missing_make_up_asked(low, high):
    """With shard 2 down, every requested ID is either answered or missing, never both."""
    result = await classic_reader(s2=MemoryShard(error=EOFError())).read(low, high)
    asked = {i for i in range(1, 61) if (low is None or i >= low) and (high is None or i <= high)}
    missing = {i for first, last in result.missing for i in range(first, last + 1)}
    assert missing == {i for i in asked if CLASSIC.locate(i) == 2}
    assert set(ids(result)) == asked - missing


@pytest.mark.parametrize(("low", "high"), [(2, 1), (1.0, None), (None, "5"), (True, None), (0, 2**63)])
async def test_a_window_that_cannot_be_meant_is_refused_before_asking(low, high):
    """A RangeError is raised before any shard is queried."""
    reader = classic_reader()
    with pytest.raises(RangeError):
        await reader.read(low, high)
    assert [source.asks for source in reader.shards.values()] == [[], [], []]


async def test_raise_for_missing_names_ranges_shards_and_causes():
    """The text holds every gap and every failed shard with status and cause; the error carries the partial result."""
    result = await classic_reader(
        s2=MemoryShard(error=ConnectionRefusedError("refused")), s3=MemoryShard([(12, "a")])
    ).read(5, 45)
    with pytest.raises(IncompleteRead) as caught:
        result.raise_for_missing()
    for text in ("11-30", "41-45", "shard 2 is unreachable: refused", "shard 3 is invalid: id 12 is outside"):
        assert text in str(caught.value)
    assert "shard 1" not in str(caught.value)
    assert caught.value.result is result


async def test_raise_for_missing_returns_a_complete_result():
    """With nothing missing, the result itself is returned, for chaining."""
    result = await classic_reader().read()
    assert result.raise_for_missing() is result


async def test_get_returns_the_row_and_asks_its_owner_only():
    """`get` returns a dict and queries only the shard that owns the ID."""
    reader = classic_reader()
    assert await reader.get(12) == {"id": 12, "name": "Test 12"}
    assert [len(source.asks) for source in reader.shards.values()] == [0, 1, 0]
    assert reader.shards[2].asks[0].ranges == ((12, 12),)


@pytest.mark.parametrize("row_id", [np.int64(12), np.uint8(12)])
async def test_get_takes_numpy_integers(row_id):
    """An ID taken from a DataFrame works like an int."""
    assert await classic_reader().get(row_id) == {"id": 12, "name": "Test 12"}


async def test_complete_and_none_are_exact_under_the_map_that_was_given():
    """Rows on a shard other than the one the router names are neither found nor missing."""
    outdated = RangeRouter({1: [(1, 10), (31, 40)], 2: [(41, 50)], 3: [(11, 30), (51, 60)]})
    reader = ShardReader(outdated, classic_shards())
    result = await reader.read(11, 20)
    assert (ids(result), result.complete, result.missing) == ([], True, ())
    assert await reader.get(12) is None


async def test_get_of_a_null_name_is_a_row():
    """A row without a name is still a row, unlike an ID without one."""
    reader = classic_reader(s1=MemoryShard([(1, None)]))
    assert await reader.get(1) == {"id": 1, "name": None}
    assert await reader.get(2) is None


@pytest.mark.parametrize("row_id", [0, 61, -5, INT64_MAX])
async def test_get_of_an_unowned_id_asks_nobody(row_id):
    """No shard owns the ID: `get` returns None without querying any."""
    reader = classic_reader()
    assert await reader.get(row_id) is None
    assert [source.asks for source in reader.shards.values()] == [[], [], []]


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (MemoryShard(error=ConnectionRefusedError("refused")), Status.UNREACHABLE),
        (MemoryShard(delay=math.inf), Status.TIMEOUT),
        (MemoryShard([(12, "a"), (12, "b")]), Status.INVALID),
    ],
)
async def test_get_from_a_failed_shard_says_the_row_is_unknown(source, status):
    """ShardUnavailable carries row and report: nothing can be said about the row's existence."""
    with pytest.raises(ShardUnavailable, match="row 12 is unknown: shard 2") as caught:
        await in_time(classic_reader(s2=source).get(12))
    assert caught.value.row_id == 12
    assert caught.value.report.status is status


async def test_get_does_not_care_about_other_shards():
    """A row of a healthy shard is read while the others are down."""
    down = MemoryShard(error=ConnectionRefusedError("refused"))
    assert await classic_reader(s1=down, s3=down).get(12) == {"id": 12, "name": "Test 12"}


@pytest.mark.parametrize("row_id", [1.0, "1", None, True, 2**63])
async def test_get_refuses_what_is_no_id(row_id):
    """RangeError names the value."""
    with pytest.raises(RangeError) as caught:
        await classic_reader().get(row_id)
    assert repr(row_id) in str(caught.value)


@pytest.mark.parametrize("delay", [0.0, math.inf])
async def test_cancelling_a_read_leaves_no_task(delay):
    """Cancellation takes effect at once and ends the shards' tasks."""
    sources = {f"s{s}": MemoryShard(rows_of(s), delay=math.inf) for s in (1, 2, 3)} | {"s1": MemoryShard(delay=delay)}
    reader = classic_reader(timeout=60, **sources)
    task = asyncio.create_task(reader.read())
    await turn_until(lambda: all(source.asks for source in reader.shards.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turn_until(lambda: len(asyncio.all_tasks()) == 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_a_read_does_not_wait_for_a_stubborn_source():
    """A source that ignores its cancellation does not delay the cancelled caller."""
    source = Stubborn()
    task = asyncio.create_task(classic_reader(timeout=60, s2=source).read())
    await turn_until(lambda: len(asyncio.all_tasks()) > 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await in_time(task, within=0)
    source.released.set()


async def test_a_callers_own_shorter_timeout_works():
    """`asyncio.timeout` around a read ends it like any awaitable."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await classic_reader(timeout=60, s2=MemoryShard(delay=math.inf)).read()


@pytest.mark.parametrize("timeout", [0, -1, 0.0, math.nan, math.inf, -math.inf, True, "2", None, 1j])
def test_a_timeout_that_cannot_be_meant_is_refused(timeout):
    """UsageError (a ValueError) names the value."""
    with pytest.raises(UsageError, match="timeout must be a positive number of seconds") as caught:
        classic_reader(timeout=timeout)
    assert repr(timeout) in str(caught.value)


@pytest.mark.parametrize("timeout", [1, 0.5, np.float64(0.5), np.float32(0.5), np.int64(3), Fraction(1, 2), 2_147_483])
def test_a_timeout_may_be_any_positive_number(timeout):
    """Whole and fractional numbers of any type are accepted and stored as float."""
    reader = classic_reader(timeout=timeout)
    assert (reader.timeout, type(reader.timeout)) == (timeout, float)


@pytest.mark.parametrize("make", [lambda s: classic_reader(timeout=s), lambda s: classic_reader().watch(interval=s)])
@pytest.mark.parametrize(
    "seconds", [2_147_484, 1e300, 10**400, np.float32(1e10), Fraction(10**400, 3), Fraction(10**5000)], ids=range(6)
)
def test_more_seconds_than_servers_can_count_are_refused(make, seconds):
    """Too many seconds raise one short UsageError that names the limit, whatever the type of the number."""
    with pytest.raises(UsageError, match=r"must be at most 2,147,483 seconds, not \S+") as caught:
        make(seconds)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("name", ["router", "shards", "timeout"])
def test_what_a_reader_was_made_with_stays(name):
    """Attributes can be neither set nor changed in place: a router that does not match its shards fails obscurely."""
    reader = classic_reader()
    with pytest.raises(AttributeError, match=f"{name}.* no setter"):
        setattr(reader, name, None)
    with pytest.raises(TypeError, match="does not support item assignment"):
        reader.shards[2] = MemoryShard()


class Lookalike:
    """Has everything a reader uses of a router."""

    shards, spans = CLASSIC.shards, CLASSIC.spans
    prune, within, locate_many = CLASSIC.prune, CLASSIC.within, CLASSIC.locate_many


@pytest.mark.parametrize("router", [Lookalike(), None, {1: [(1, 10)]}, RangeRouter])
def test_what_is_no_range_router_is_refused(router):
    """Merging relies on disjoint ranges in order, which only a RangeRouter guarantees."""
    with pytest.raises(UsageError, match=r"a reader needs a RangeRouter\(.*, not "):
        ShardReader(router, classic_shards())


class Index:
    """An integer to anything that calls `__index__`."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


async def drained(results):
    async with aclosing(results):
        return await anext(results)


READS = {
    "read": lambda reader, low, high: reader.read(low, high),
    "page": lambda reader, low, high: reader.page(3, None, low, high),
    "page after": lambda reader, low, high: reader.page(3, low, low, high),
    "pages": lambda reader, low, high: drained(reader.pages(3, None, low, high)),
    "stream": lambda reader, low, high: anext(reader.stream(3, low, high)),
    "watch": lambda reader, low, high: drained(reader.watch(low, high)),
    "get": lambda reader, low, high: reader.get(low),
}


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.int16, Index, IntEnum("Number", {"A": 5, "B": 12})])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_shards_are_asked_with_plain_integers(read, integer):
    """Bounds of any integer type reach the shards as int: drivers serialise other types in their own ways."""
    shards = classic_shards()
    async with ShardReader(CLASSIC, shards, timeout=AMPLE) as reader:
        await read(reader, integer(5), integer(12))
    asks = [ask for shard in shards.values() for ask in shard.asks]
    assert {type(bound) for ask in asks for bound in (ask.low, ask.high, *sum(ask.ranges, ()))} == {int}
    assert {ask.low for ask in asks} <= {5, 6}


def test_a_source_the_router_does_not_know_is_refused():
    """The message names the shard and the router's shards."""
    with pytest.raises(UsageError, match=r"unknown shard 9: the router has \[1, 2, 3\]"):
        ShardReader(CLASSIC, {**classic_shards(), 9: MemoryShard()})


def test_a_shard_without_a_source_is_refused():
    """The message names the shard that has ranges but no source."""
    sources = classic_shards()
    del sources[2]
    with pytest.raises(UsageError, match="shard 2 has ranges but no source"):
        ShardReader(CLASSIC, sources)


@pytest.mark.parametrize("source", [None, "redis://localhost", object(), [(1, "a")]])
def test_what_is_no_source_is_refused(source):
    """The message names the shard and the value given for it."""
    with pytest.raises(UsageError, match=r"shard 2: .* is not a source of rows"):
        ShardReader(CLASSIC, classic_shards(s2=source))


async def test_sources_are_prepared_once_and_closed_by_aclose():
    """Each source gets the timeout when the reader is made, and is closed with the reader."""
    sources = {f"s{s}": Custodian(rows_of(s)) for s in CLASSIC.shards}
    reader = classic_reader(**sources)
    await reader.read()
    await reader.aclose()
    assert {(tuple(source.prepared), source.closed) for source in sources.values()} == {((TIMEOUT,), 1)}


async def test_async_with_closes_whatever_happens_inside():
    """The reader is its own context manager; an exception propagates after closing."""
    source = Custodian()
    reader = classic_reader(s2=source)
    with pytest.raises(RangeError):
        await failing_inside(reader)
    assert source.closed == 1


async def failing_inside(reader):
    async with reader as entered:
        assert entered is reader
        await reader.get("no ID")


async def test_one_source_that_fails_to_close_does_not_keep_the_others_open():
    """All sources are closed by the time `aclose` reports that one failed."""
    sources = {"s1": Custodian(on_close=OSError("no"))} | {f"s{s}": SlowToClose() for s in (2, 3)}
    with suppress(OSError):
        await classic_reader(**sources).aclose()
    assert [source.closed for source in sources.values()] == [1, 1, 1]


class SlowToClose(Custodian):
    """Takes a few more turns of the loop to close."""

    async def aclose(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await super().aclose()


async def test_aclose_does_not_wait_for_an_abandoned_source():
    """A source that never ends does not delay `aclose`; it is cancelled once more."""
    source = Stubborn()
    reader = classic_reader(s2=source)
    await reader.read()
    await turn_until(lambda: source.cancellations == 1)
    await in_time(reader.aclose(), within=0.02)
    assert source.cancellations == 2
    source.released.set()


async def test_elapsed_times_fit_together():
    """No shard starts before the read or ends after it; a timed-out shard took the whole timeout."""
    result = await classic_reader(s2=MemoryShard(delay=math.inf)).read()
    assert result.timeout == TIMEOUT
    assert result.elapsed >= TIMEOUT
    for report in result.reports.values():
        assert 0 <= report.started <= report.started + report.elapsed <= result.elapsed
    assert result.reports[2].elapsed >= TIMEOUT - result.reports[2].started


def test_a_reader_works_in_a_second_event_loop():
    """A reader of in-memory shards is not bound to the loop of its first read."""
    reader = classic_reader()
    assert asyncio.run(reader.read()).complete
    assert asyncio.run(reader.read()).complete


async def test_a_source_that_never_closes_does_not_hold_up_the_others():
    """`aclose()` gives up on it after the timeout."""

    class Clings(Custodian):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    others = {f"s{s}": Custodian() for s in (2, 3)}
    await in_time(classic_reader(s1=Clings(), **others).aclose(), within=TIMEOUT)
    assert [source.closed for source in others.values()] == [1, 1]
