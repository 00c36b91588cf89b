"""Large reads from Redis arrive in chunks, yet from one moment, and equal a read with a single command."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import exceptions as rx

from labkit.answer import Answer, check
from labkit.report import Status
from labkit.shards.redis import RedisShard
from labkit.shards.redis.layouts import bulk, member, sorted_set
from labkit.shards.redis.layouts.bulk import MAX_ONE_BY_ONE, decoded
from labkit.shards.redis.layouts.sorted_set import EXACT
from labkit.tables import InvalidAnswer
from tests.support import scenes
from tests.support.mocks import read_alone, report_of, resp, seconds_for, serving
from tests.unit.shards.redis.test_layouts import IDS, KEY, NAMES, Memory, read
from tests.unit.shards.redis.test_shard import array

pytestmark = pytest.mark.usefixtures("no_task_left")


class Watched(Memory):
    """`Memory` with the commands of a chunked read; `between(number)` runs before each command, and may write."""

    def __init__(self, between: Callable[[int], None] = lambda number: None, **replies: Any) -> None:
        super().__init__(**replies)
        self.between = between
        self.watched: dict[bytes, Any] | None = None

    async def __call__(self, command: str, *words: Any) -> Any:
        self.between(len(self.commands))
        await asyncio.sleep(0)
        if words or command in self.replies:
            return await super().__call__(command, *words)
        self.commands.append((command,))
        return getattr(self, command.lower())()

    def unwatch(self) -> bytes:
        self.watched = None
        return b"OK"

    def watch(self, key: bytes) -> bytes:
        self.watched = {key: dict(self.keys.get(key, {}))}
        return b"OK"

    def multi(self) -> bytes:
        return b"OK"

    def exec(self) -> list[Any] | None:
        watched, self.watched = self.watched, None
        return [] if all(self.keys.get(key, {}) == value for key, value in (watched or {}).items()) else None

    def zcount(self, key: bytes, low: bytes, high: bytes) -> int:
        scores = self.keys.get(key, {}).values()
        end = float(high.lstrip(b"("))
        return sum(float(low) <= score and (score < end or (score == end and high[:1] != b"(")) for score in scores)

    def zrange(self, key: bytes, start: bytes, stop: bytes) -> list[bytes]:
        return self.zrangebyscore(key, b"-inf", b"+inf")[int(start) : int(stop) + 1]


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    small = patch.multiple(sorted_set, CHUNK=size, LOOK=size)
    with small, patch.multiple(bulk, CHUNK=size, FIRST=size, MAX_ONE_BY_ONE=1):
        yield


def pairs(answer: Answer) -> list[Any]:
    rows = answer.to_pylist() if isinstance(answer, pa.Table) else answer
    return [tuple(row.values()) if isinstance(row, dict) else row for row in rows]


@settings(scenes.quick, max_examples=100)
@given(st.dictionaries(IDS, NAMES, max_size=20), st.integers(1, 4), st.data())
def test_chunks_are_one_command(rows: dict[int, str | None], size: int, data: st.DataObject) -> None:
    """For any rows (IDs beyond 2**53 share scores), window, limit, chunk size and concurrent write, chunks give what
    one command would have read before or after the write.
    """
    low, high = sorted(data.draw(st.tuples(IDS, IDS)))
    window = (data.draw(st.sampled_from([None, low])), data.draw(st.sampled_from([None, high])))
    limit, at = data.draw(st.none() | st.integers(1, 12)), data.draw(st.none() | st.integers(0, 12))
    after = {max(row_id, -1 - row_id): name for row_id, name in rows.items()}  # mirrored

    def between(number: int) -> None:
        if number == at:
            run.keys.pop(KEY.encode(), None)
            run.fill("sorted-set", after.items())

    run = Watched(between).fill("sorted-set", rows.items())
    with chunks_of(size):
        got = pairs(asyncio.run(read("sorted-set", run, *window, limit)))
    assert got in [asked(state, window, limit) for state in ([rows] if at is None else [rows, after])]


def asked(rows: dict[int, str | None], window: tuple[Any, Any], limit: int | None) -> list[Any]:
    return [row for row in sorted(rows.items()) if scenes.in_window(*window, row[0])][:limit]


async def test_a_table_is_read_in_chunks() -> None:
    """The first command shows that chunks are worth it; after that none requests more than a chunk."""
    run = Watched().fill("sorted-set", [(i, "x") for i in range(20)])
    with chunks_of(8):
        rows = await read("sorted-set", run, 2, None)
    assert [row_id for row_id, _ in pairs(rows)] == list(range(2, 20))
    assert run.commands == [
        ("ZRANGEBYSCORE", KEY, 2, "+inf", "LIMIT", 0, 8),
        *[("UNWATCH",), ("WATCH", KEY), ("ZCOUNT", KEY, 2, "+inf"), ("ZCOUNT", KEY, "-inf", "(2")],
        *[("ZRANGE", KEY, 2, 9), ("ZRANGE", KEY, 10, 17), ("ZRANGE", KEY, 18, 19)],
        *[("MULTI",), ("EXEC",)],
    ]


async def test_chunks_double() -> None:
    """The first chunk is small; each further one is twice as large, up to the size of a chunk."""
    run = Watched().fill("sorted-set", [(i, "x") for i in range(40)])
    with chunks_of(16), patch.object(bulk, "FIRST", 4):
        rows = await read("sorted-set", run)
    assert [row_id for row_id, _ in pairs(rows)] == list(range(40))
    ranks = [(0, 3), (4, 11), (12, 27), (28, 39)]
    assert [words[2:] for words in run.commands if words[0] == "ZRANGE"] == ranks


@pytest.mark.parametrize("window", [(None, None, 8), (3, None, 8), (0, 6), (5, 5)])
async def test_what_fits_in_a_chunk_is_one_command(window: Any) -> None:
    """A page or a narrow window costs no extra round trip."""
    run = Watched().fill("sorted-set", [(i, "x") for i in range(20)])
    with chunks_of(8):
        await read("sorted-set", run, *window)
    assert run.names == ["ZRANGEBYSCORE"]


async def test_a_table_that_was_written_to_is_read_with_one_command() -> None:
    """A concurrent write makes the read start again with a single command, which cannot conflict; the limit holds."""
    rows = [(i, "x") for i in range(20)]
    run = Watched(lambda number: number == 6 and run.fill("sorted-set", [(99, "new")])).fill("sorted-set", rows)
    with chunks_of(8):
        got = await read("sorted-set", run, None, None, 18)
    assert pairs(got) == rows[:18]
    assert run.commands[-1] == ("ZRANGEBYSCORE", KEY, "-inf", "+inf", "LIMIT", 0, 18)


@pytest.mark.parametrize("command", ["UNWATCH", "WATCH", "ZCOUNT", "ZRANGE", "EXEC"])
async def test_a_user_who_may_not_do_that_reads_with_one_command(command: str) -> None:
    """A user who may only read gets the rows with a single command."""
    run = Watched(**{command: rx.NoPermissionError("no permissions")}).fill("sorted-set", [(i, "x") for i in range(20)])
    with chunks_of(8):
        assert len(await read("sorted-set", run)) == 20
    assert run.names[-1] == "ZRANGEBYSCORE"


@pytest.mark.parametrize("error", [rx.MovedError("1 127.0.0.1:7001"), rx.AskError("1 127.0.0.1:7001")])
async def test_a_slot_that_goes_away_between_two_chunks_is_no_answer(error: Exception) -> None:
    """Chunks from two nodes are never combined: the redirection is the error of the whole read."""
    run = Watched(lambda number: number == 6 and run.replies.update(ZRANGE=error, ZRANGEBYSCORE=error))
    run.fill("sorted-set", [(i, "x") for i in range(20)])
    with chunks_of(8), pytest.raises(type(error)):
        await read("sorted-set", run)


@pytest.mark.parametrize(
    ("command", "reply"), [("ZCOUNT", b"7"), ("ZCOUNT", None), ("ZCOUNT", -1), ("ZRANGE", b"OK"), ("EXEC", b"OK")]
)
async def test_a_reply_of_another_shape_is_invalid(command: str, reply: Any) -> None:
    """Corrupt bytes may still be valid RESP: a reply of the wrong shape is invalid."""
    run = Watched(**{command: reply}).fill("sorted-set", [(i, "x") for i in range(20)])
    with chunks_of(8), pytest.raises(InvalidAnswer):
        await read("sorted-set", run)


@pytest.mark.parametrize(
    ("odd", "cause"),
    [
        (b"no row", "member b'no row' is not a row"),
        (b'["7","x"]', "id '7' is not an integer"),
        (b"[7,[]]", "row 15: name [] is not text"),
        (b'[99999999999999999999,"a"]', "id 99999999999999999999 does not fit in 64 bits"),
        (b'[5,"x"]', "id 5 comes after 13"),
    ],
)
async def test_what_is_wrong_in_a_chunk_is_named_as_ever(odd: bytes, cause: str) -> None:
    """A bad row in a chunk has the same error text as in a read with one command."""
    run = Watched().fill("sorted-set", [(i, "x") for i in range(20)])
    run.keys[KEY.encode()][odd] = 13.5
    with chunks_of(8):
        report = await report_of(Reading(run), owned=(0, 20))
    assert report.status is Status.INVALID
    assert cause in report.error


class Reading:
    """A shard that reads the contents of `run`."""

    def __init__(self, run: Watched) -> None:
        self.run = run

    def prepare(self, timeout: float) -> None: ...
    async def aclose(self) -> None: ...
    async def read(self, ask: Any) -> Answer:
        return await sorted_set.SortedSet().read(self.run, KEY, ask)


ROWS = [(EXACT - MAX_ONE_BY_ONE + i, 'a "name"' if i % 3 else f"name {i}") for i in range(2 * MAX_ONE_BY_ONE)]


@pytest.mark.parametrize("limit", [None, MAX_ONE_BY_ONE + 7])
@pytest.mark.parametrize("name", ["sorted-set", "hash"])
async def test_many_rows_are_a_table(name: str, limit: int | None) -> None:
    """Many rows come as a table, in ID order even where they share a score, whether in plain form or not."""
    run = Watched().fill(name, reversed(ROWS))
    got = await read(name, run, EXACT - MAX_ONE_BY_ONE + 3, None, limit)
    assert isinstance(got, pa.Table)
    assert pairs(got)[:limit] == ROWS[3:][:limit]


@pytest.mark.parametrize("limit", [None, MAX_ONE_BY_ONE + 7])
@pytest.mark.parametrize(("field", "stored"), [(b"07", b'[7,"x"]'), (b"7", b'[8,"x"]'), (b"7", b"7"), (b"7", b"[7,8]")])
async def test_many_fields_are_checked_as_few_are(limit: int | None, field: bytes, stored: bytes) -> None:
    """A bad field in a large hash has the same error text as in a small one."""
    errors = []
    for count in (10, MAX_ONE_BY_ONE + 100):
        run = Memory().fill("hash", [(i, "x") for i in range(count) if i != 7])
        run.keys[KEY.encode()][field] = stored
        try:
            check(await read("hash", run, 5, None, limit), ((0, 1000),))
        except InvalidAnswer as error:
            errors.append(re.sub(r"^row \d+: ", "", str(error)))
    assert len(errors) == 2
    assert errors[0] == errors[1]


async def test_others_get_their_turn_while_rows_are_decoded() -> None:
    """Decoding many rows does not block the event loop, even if none is in plain form."""
    members = [member(i, '"') for i in range(10_000)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    rows = await decoded(members)
    counting.cancel()
    await asyncio.wait([counting])
    assert len(rows) == len(members)
    assert turns >= 3


FIRST = [array(member(1, "a"), member(2, "b")), b"+OK\r\n", b"+OK\r\n", b":3\r\n"]
"""The replies of a server with three rows, up to the first chunk of two."""
CHUNKS = [array(member(1, "a"), member(2, "b")), array(member(3, "c"))]
ODD = b"[1,7]"
END = [b"+OK\r\n", b"*0\r\n"]


@pytest.mark.parametrize(
    ("replies", "status"),
    [
        ([*FIRST, None], Status.TIMEOUT),
        ([*FIRST, CHUNKS[0], None], Status.TIMEOUT),
        ([*FIRST, CHUNKS[0], CHUNKS[1][:-4]], Status.DISCONNECTED),
        ([*FIRST, array(member(1, "a"), b"no row"), CHUNKS[1]], Status.INVALID),
        ([*FIRST, *CHUNKS, END[0], None], Status.TIMEOUT),
    ],
)
async def test_a_read_that_ends_in_the_middle_leaves_no_half_answer(replies: list[Any], status: Status) -> None:
    """A read that fails midway ends in time; the next one uses another connection and is correct."""
    scripts = iter([resp(*replies), resp(*FIRST, *CHUNKS, *END)])
    async with serving(lambda *streams: next(scripts)(*streams)) as port:
        await read_twice(port, status)


@pytest.mark.parametrize(
    ("replies", "status"),
    [
        ([*FIRST, *CHUNKS, *END], Status.OK),
        ([*FIRST, array(ODD, ODD), CHUNKS[1], *END, array(ODD)], Status.INVALID),
        ([*FIRST, *CHUNKS, END[0], b"*-1\r\n", CHUNKS[1]], Status.OK),
        ([*FIRST[:2], b"-NOPERM\r\n", FIRST[3], CHUNKS[1]], Status.OK),
    ],
)
async def test_a_connection_whose_replies_were_all_read_is_used_again(replies: list[Any], status: Status) -> None:
    """A connection without pending replies is reused, even if the chunk before the last one proved bad."""
    async with serving(resp(*replies, *FIRST, *CHUNKS, *END)) as port:
        await read_twice(port, status)


async def read_twice(port: int, status: Status) -> None:
    shard = RedisShard(f"redis://127.0.0.1:{port}/0", "data_1")
    with chunks_of(2):
        assert (await report_of(shard, seconds=seconds_for(status))).status is status
        result = await read_alone(shard)
    await shard.aclose()
    assert pairs(result.table) == [(1, "a"), (2, "b"), (3, "c")]
