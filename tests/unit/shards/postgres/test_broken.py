"""Messages that no server sends but a corrupting network can produce: asyncpg would hang or crash on them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import RangeRouter
from labkit.shards import MemoryShard
from labkit.shards.base import ShardFailure
from labkit.shards.postgres import PostgresShard
from tests.support.mocks import TIMEOUT, copy_binary, eventually, in_time, read_alone, report_of, serving
from tests.support.scenes import quick
from tests.unit.shards.postgres.test_wire import (
    ANSWERS,
    FEW,
    FIRST,
    LET_IN,
    LOGGED_IN,
    READY,
    RECORD,
    SELECTED,
    Server,
    columns,
    heard,
    message,
    row,
    shard_of,
)

pytestmark = pytest.mark.usefixtures("no_task_left")

BEGUN = message(b"H", b"\1\0\2\0\1\0\1") + message(b"d", b"PGCOPY\n\xff\r\n\0" + bytes(8))
DONE = message(b"d", b"\xff\xff") + message(b"c", b"") + message(b"C", b"COPY 7\0") + READY
"""The beginning and end of a COPY."""
ROWS = b"".join(row(row_id.to_bytes(4), b"Test %d" % row_id) for row_id in range(1, 8))
COPIED = b"".join(message(b"d", text) for text in list(copy_binary([(i, f"Test {i}") for i in range(1, 8)]))[1:-1])
NOTICE = message(b"N", b"SNOTICE\0C00000\0Mhello\0\0")
BROKEN = {
    "kind 0": message(b"\0", b""),
    "another kind": message(b"X", b"Test 7"),
    "zeros": bytes(100),
    "no length": b"d" + bytes(4),
    "a length of 3": b"d\0\0\0\3",
    "a negative length": b"d\xff\xff\xff\xff",
    "a row of no length": b"D" + bytes(4),
    "an end of no length": b"C" + bytes(4),
    "an empty piece of a copy": message(b"d", b""),
    "an empty row": message(b"D", b""),
    "a ready without a state": message(b"Z", b""),
    "a command without an end": message(b"C", b"SELECT 1"),
    "an error without an end": message(b"E", b"SERROR\0C42P01\0Mx"),
    "a notice without an end": message(b"N", b"SNOTICE\0C00000\0Mx"),
    "a parameter without a value": message(b"S", b"name\0"),
    "a notification without a payload": message(b"A", b"\0\0\0\1channel\0"),
}
"""Messages that no server sends. On some asyncpg would loop for ever; others it would read beyond their end."""
STATES = ("logging in", "logged in", "columns", "rows", "a copy")


def breaking(server: Server, state: str, bad: bytes) -> Server:
    """The server, sending `bad` when it is in that state."""
    first = {"columns": {b"P": ANSWERS[b"P"] + bad}, "rows": {b"E": RECORD + bad + RECORD + SELECTED}}
    server.special |= {b"NULL::bytea": FIRST | first.get(state, {})}
    server.answers = ANSWERS | ({b"Q": BEGUN + COPIED + bad + COPIED + DONE} if state == "a copy" else {})
    server.session = {"logging in": LET_IN + bad + READY, "logged in": LOGGED_IN + bad}.get(state, LOGGED_IN)
    return server


FAR = 10.0
"""Seconds to a deadline that even a busy machine does not reach: what is sent must end the read."""


@pytest.mark.parametrize("piece", [FEW, 1])
@pytest.mark.parametrize("bad", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("state", STATES)
async def test_what_is_no_message_is_refused(state: str, bad: bytes, piece: int) -> None:
    """A malformed message is INVALID in every state, however it is cut; the other shard's rows arrive."""
    server = breaking(Server(), state, bad)
    server.piece = piece
    async with shard_of(server) as shard:
        shard._bulk = state == "a copy"
        shards = {1: shard, 2: MemoryShard([(11, "a")])}
        reader = ShardReader(RangeRouter({1: [(1, 10)], 2: [(11, 20)]}), shards, timeout=FAR)
        result = await in_time(reader.read())
        assert result.table.to_pylist() == [{"id": 11, "name": "a"}]
        assert result.reports[1].status is Status.INVALID
        assert result.reports[1].error.startswith("the answer cannot be understood: a message of kind ")
        await eventually(lambda: not shard._server.pool()._lines)


async def test_an_idle_connection_on_which_that_comes_is_replaced() -> None:
    """A malformed message on an idle connection costs no read: the next one uses another connection."""
    server = Server()
    async with shard_of(server) as shard:
        for _ in range(2):
            assert (await read_alone(shard)).table.to_pylist() == [{"id": 7, "name": "Test 7"}]
            server.writer.write(BROKEN["kind 0"])
            await eventually(lambda: not shard._server.pool()._lines)


async def test_who_listens_is_told_of_that() -> None:
    """A malformed message ends a listening connection with the same error."""
    server = Server()
    state = message(b"t", b"\0\1" + (25).to_bytes(4)) + columns(26, 16)[7:]
    server.answers = ANSWERS | {b"D": state, b"E": row((7).to_bytes(4), b"\1") + SELECTED}
    server.special |= {b"LISTEN": ANSWERS | {b"D": message(b"n", b""), b"E": message(b"C", b"LISTEN\0")}}
    async with shard_of(server) as shard:
        with pytest.raises(ShardFailure, match="a message of kind") as caught:
            await in_time(shard.listen(lambda: server.writer.write(BROKEN["kind 0"]), 60))
    assert caught.value.status is Status.INVALID


async def test_a_message_of_kind_0_is_refused_before_the_password() -> None:
    """A message of kind 0 is refused even as the server's first."""

    async def zeros(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        writer.write(bytes(100))
        await reader.read(-1)

    async with serving(zeros) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t")
        report = await report_of(shard)
        await shard.aclose()
    assert report.status is Status.INVALID
    assert report.error == "the answer cannot be understood: a message of kind '\\x00' and 0 bytes"


@settings(quick, max_examples=60)
@given(st.booleans(), st.integers(0, 1 << 16), st.integers(0, 255), st.sampled_from([1, 7, FEW]))
def test_a_byte_that_was_changed_on_the_way_stops_nobody(bulk: bool, place: int, byte: int, piece: int) -> None:
    """Whichever byte of an answer is changed, and to whatever value, the read ends in time."""

    async def read() -> None:
        server = Server(session=LOGGED_IN)
        kind, answer = (b"Q", BEGUN + COPIED + DONE) if bulk else (b"E", NOTICE + ROWS + SELECTED)
        at = place % len(answer)
        server.answers = ANSWERS | {kind: answer[:at] + bytes([byte]) + answer[at + 1 :]}
        server.piece = piece
        async with shard_of(server) as shard:
            shard._bulk = bulk
            await read_alone(shard, seconds=TIMEOUT)

    asyncio.run(read())
