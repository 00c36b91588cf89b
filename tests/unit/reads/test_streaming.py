"""`reader.stream`: all rows in batches by global ID; after a shard fails, exactly the rest of its ranges is missing."""

from __future__ import annotations

import asyncio
import gc
import pickle
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import IncompleteRead, RangeError, UsageError
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import CLASSIC, RangeRouter
from labkit.shards.memory import MemoryShard
from labkit.tables import SCHEMA
from tests.support.mocks import TIMEOUT, classic_reader, classic_shards, eventually, in_time, rows_of

pytestmark = pytest.mark.usefixtures("no_task_left")

BROKEN = ConnectionRefusedError(111, "refused")


async def batches_of(stream):
    """All batches of the stream, each checked for type and schema."""
    found = []
    async for batch in stream:
        assert isinstance(batch, pa.RecordBatch)
        assert batch.schema == SCHEMA
        assert batch.num_rows
        found.append(batch)
    return found


def ids_of(batches):
    return [row_id for batch in batches for row_id in batch.column(0).to_pylist()]


@pytest.mark.parametrize("size", [1, 7, 10, 59, 60, 61, 65_536])
async def test_batches_are_the_whole_table_in_order(size):
    """Every row comes once, ascending over all shards; every batch but the last has the requested size."""
    async with classic_reader() as reader:
        stream = reader.stream(batch=size)
        batches = await batches_of(stream)
    assert ids_of(batches) == list(range(1, 61))
    assert {batch.num_rows for batch in batches[:-1]} <= {size}
    assert (stream.missing, stream.complete) == ((), True)
    assert [report.rows for report in stream.reports.values()] == [20, 20, 20]
    stream.raise_for_missing()


@given(st.data())
def test_a_stream_is_a_read_in_pieces(data):
    """For random tables, windows, batches and failures: the same rows and gaps as one read."""
    cuts = sorted(data.draw(st.sets(st.integers(-100, 100), min_size=2, max_size=9)))
    spans = [(low, high - 1) for low, high in pairwise(cuts)]
    owners = {i: data.draw(st.integers(0, 2)) for i in range(len(spans))}
    ranges = {owner: [spans[i] for i in owners if owners[i] == owner] for owner in sorted(set(owners.values()))}
    held = data.draw(st.sets(st.integers(-100, 100)))
    rows = {key: sorted((i, f"n{i}") for i in held if any(a <= i <= b for a, b in ranges[key])) for key in ranges}
    failing = data.draw(st.sampled_from([None, *ranges]))
    shards = {key: MemoryShard(rows[key], error=BROKEN if key == failing else None) for key in ranges}
    low, high = sorted((data.draw(st.integers(-110, 110)), data.draw(st.integers(-110, 110))))

    async def both():
        async with ShardReader(RangeRouter(ranges), shards, timeout=5.0) as reader:
            whole = await reader.read(low, high)
            stream = reader.stream(data.draw(st.integers(1, 30)), low, high)
            return whole, ids_of(await batches_of(stream)), stream

    whole, ids, stream = asyncio.run(both())
    assert ids == whole.table.column("id").to_pylist()
    assert stream.missing == whole.missing
    assert {key: r.rows for key, r in stream.reports.items()} == {key: r.rows for key, r in whole.reports.items()}


async def test_a_shard_that_fails_is_asked_once():
    """All its ranges are missing, no later batch waits for it, and the rows of the others keep coming."""
    silent = MemoryShard(rows_of(2), delay=60)
    async with classic_reader(s2=silent) as reader:
        stream = reader.stream(batch=5)
        batches = await batches_of(stream)
    assert ids_of(batches) == [*range(1, 11), *range(21, 41), *range(51, 61)]
    assert stream.missing == ((11, 20), (41, 50))
    assert len(silent.asks) == 1
    report = stream.reports[2]
    assert (report.status, report.rows, report.ranges) == (Status.TIMEOUT, 0, ((11, 20), (41, 50)))


async def test_a_shard_that_fails_on_the_way_has_given_its_first_rows():
    """Rows it delivered before count; the gap begins after the last of them."""
    shards = classic_shards()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        stream = reader.stream(batch=4)
        first = [await anext(stream) for _ in range(4)]
        assert ids_of(first) == list(range(1, 17)), "a batch that meets the end of a range is filled from the next"
        shards[2].error = BROKEN
        rest = await batches_of(stream)
    ids = ids_of([*first, *rest])
    missing = [i for low, high in stream.missing for i in range(low, high + 1)]
    assert sorted(ids + missing) == list(range(1, 61))
    assert 50 in missing
    with pytest.raises(IncompleteRead, match="shard 2 is unreachable: connection refused") as caught:
        stream.raise_for_missing()
    assert pickle.loads(pickle.dumps(caught.value)).result.missing == stream.missing


async def test_the_next_batch_is_read_meanwhile_and_no_more():
    """The stream reads one batch ahead: memory is bounded by the batch, and no shard waits for the consumer."""
    shards = classic_shards()
    async with ShardReader(CLASSIC, shards, timeout=TIMEOUT) as reader:
        stream = reader.stream(batch=10)
        await anext(stream)
        await eventually(lambda: len(shards[2].asks) == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert [len(shard.asks) for shard in shards.values()] == [1, 1, 0]
        await stream.aclose()


@pytest.mark.parametrize("how", ["aclose", "with", "reader"])
async def test_a_stream_that_is_left_leaves_nothing(how):
    """Closed directly, by `async with`, or with its reader: the read under way is abandoned, and the stream ends."""
    reader = classic_reader(timeout=5.0, s2=MemoryShard(rows_of(2), delay=60))
    async with reader:
        stream = reader.stream(batch=10)
        if how == "with":
            async with stream:
                await anext(stream)
        else:
            await anext(stream)
            await (stream if how == "aclose" else reader).aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize("how", ["stream", "reader"])
async def test_who_waits_for_a_batch_is_told_that_the_stream_was_closed(how):
    """The closing task sees no exception; the waiting one sees the end of the stream."""
    async with classic_reader(timeout=5.0, s2=MemoryShard(rows_of(2), delay=60)) as reader:
        stream = reader.stream(batch=10)
        waiting = asyncio.create_task(batches_of(stream))
        await eventually(lambda: bool(reader.shards[2].asks))
        await (stream if how == "stream" else reader).aclose()
        assert ids_of(await in_time(waiting)) == list(range(1, 11))
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_stream_that_is_forgotten_is_not_read_on():
    """After a `break` the stream need not be closed: its read ends when nothing refers to the stream any more."""
    async with classic_reader(timeout=5.0, s2=MemoryShard(rows_of(2), delay=60)) as reader:
        async for batch in reader.stream(batch=10):
            assert batch.num_rows == 10
            break
        gc.collect()
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_consumer_that_is_cancelled_ends_the_read():
    """The read no longer waits for its shard."""
    async with classic_reader(timeout=5.0, s1=MemoryShard(delay=60)) as reader:
        reading = asyncio.create_task(batches_of(reader.stream()))
        await eventually(lambda: bool(reader.shards[1].asks))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "many"])
async def test_a_batch_that_is_no_size_is_refused(size):
    """UsageError is raised when `stream` is called, not at the first batch."""
    async with classic_reader() as reader:
        with pytest.raises(UsageError, match="the size of a batch must be a positive integer, not"):
            reader.stream(batch=size)


async def test_a_window_is_checked_at_once():
    """The window is checked as for a read; a window without ranges has no batch."""
    async with classic_reader() as reader:
        with pytest.raises(RangeError, match="low must not be above high"):
            reader.stream(low=9, high=3)
        assert await batches_of(reader.stream(low=100)) == []
