"""What a Redis server can make a read cost: bounded memory, and no more time than its deadline, whatever it sends."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.redis import RedisShard
from labkit.shards.redis.arrays import LONGEST_TEXT, NESTED
from labkit.shards.redis.cluster.shard import RedisClusterShard
from labkit.shards.redis.layouts import member
from labkit.shards.redis.layouts.base import KNOWN
from tests.support.lateness import MARGIN
from tests.support.mocks import TIMEOUT, Script, read_alone, report_of, resp, resp_command, serving

pytestmark = pytest.mark.usefixtures("no_task_left")

LIMIT = 4 << 20
PIECE = 1 << 17


def endless(begin: bytes, again: bytes) -> Script:
    """A server whose answer starts with `begin` and then repeats `again` until the client hangs up."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await resp_command(reader)
        writer.write(begin)
        pieces = again * (PIECE // len(again) + 1)
        while True:
            writer.write(pieces)
            await writer.drain()
            await asyncio.sleep(0)

    return script


ENDLESS = {
    "strings": (b"*1000000\r\n", b"$5\r\nhello\r\n"),
    "rows": (b"*1000000\r\n", b'$7\r\n[1,"a"]\r\n'),
    "nulls": (b"*1000000\r\n", b"$-1\r\n"),
    "arrays of nothing": (b"*1000000\r\n", b"*0\r\n"),
    "arrays in arrays": (b"", b"*1\r\n"),
    "a few arrays in arrays": (b"", b"*3\r\n$1\r\na\r\n"),
    "numbers": (b"*1000000\r\n", b":1\r\n"),
    "one number": (b":", b"1"),
    "a line": (b"+", b"a"),
    "an error": (b"-", b"ERR "),
    "a line in an array": (b"*2\r\n+", b"a"),
    "a line among many": (b"*1000000\r\n$1\r\na\r\n+", b"a"),
    "a text": (b"$16000000\r\n", b"x"),
    "a text in an array": (b"*2\r\n$16000000\r\n", b"x"),
    "a text among many": (b"*1000000\r\n$1\r\na\r\n$16000000\r\n", b"x"),
    "the number of elements": (b"*", b"1"),
    "the length of a text": (b"$", b"1"),
}


@pytest.mark.parametrize(("begin", "again"), ENDLESS.values(), ids=ENDLESS)
async def test_an_endless_answer_ends_at_the_limit(begin: bytes, again: bytes) -> None:
    """The answer is `invalid`; the error names the limit, or an earlier flaw; the connection is closed."""
    async with serving(endless(begin, again)) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "k", answer_limit=LIMIT)
        report = await report_of(shard, seconds=10.0)
        await shard.aclose()
    assert report.status in (Status.INVALID, Status.DISCONNECTED)  # hiredis rejects some of them as malformed
    if report.status is Status.INVALID:
        assert str(LIMIT) in report.error or str(NESTED) in report.error


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "again"), ENDLESS.values(), ids=ENDLESS)
async def test_an_endless_answer_ends_at_the_deadline(begin: bytes, again: bytes) -> None:
    """Below the limit the deadline ends the answer, and the event loop is not blocked meanwhile."""
    worst = [0.0]
    gc.collect()
    gc.freeze()  # otherwise a collection scans everything other tests have left

    async def beat() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            worst[0] = max(worst[0], time.thread_time() - began)

    async with serving(endless(begin, again)) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "k", answer_limit=1 << 27)
        beating = asyncio.create_task(beat())
        assert (await report_of(shard, seconds=TIMEOUT)).failed  # in time
        beating.cancel()
        await shard.aclose()
    assert worst[0] <= MARGIN


ANNOUNCED = {
    "elements": (b"*1000000000\r\n", str(LIMIT)),
    "elements, more than there are numbers for": (b"*99999999999999999\r\n", str(LIMIT)),
    "elements of an array in an array": (b"*2\r\n*1000000000\r\n", str(NESTED)),
    "elements of arrays in an array": (b"*9\r\n" + b"*150000\r\n" * 3, str(NESTED)),
    "a text": (b"$10000000000\r\n", str(LONGEST_TEXT)),
    "a text in an array": (b"*1\r\n$10000000000\r\n", str(LONGEST_TEXT)),
}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("begin", "number"), ANNOUNCED.values(), ids=ANNOUNCED)
async def test_what_is_announced_is_not_waited_for(begin: bytes, number: str, cut: bool) -> None:
    """An announced length over the limit is invalid at once and allocates no memory, wherever it is cut."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await resp_command(reader)
        for piece in [bytes([byte]) for byte in begin] if cut else [begin]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read(-1)

    async with serving(script) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "k", answer_limit=LIMIT)
        report = await report_of(shard, seconds=5.0)
        await shard.aclose()
    assert report.status is Status.INVALID
    assert number in report.error
    assert report.elapsed < 4.0


@pytest.mark.parametrize("layout", ["sorted-set", "strings"])
async def test_the_limit_is_of_all_answers_to_one_read(layout: str) -> None:
    """The limit covers all answers to one read: splitting an endless table into small answers does not evade it."""
    rows = [member(i, "x" * 900) for i in range(1, 1001)]

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            words = await resp_command(reader)
            writer.write(_said(words, rows))
            await writer.drain()

    async with serving(script) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "k", layout=layout, answer_limit=LIMIT)
        report = await report_of(shard, seconds=5.0)
        await shard.aclose()
    assert (report.status, str(LIMIT) in report.error) == (Status.INVALID, True), report


def _said(words: list[bytes], rows: list[bytes]) -> bytes:
    match words[0]:
        case b"SCAN":
            return _array([b"1", [b"k:%d" % i for i in range(1, 1001)]])
        case b"ZCOUNT":
            return b":1000000\r\n"
        case b"ZRANGEBYSCORE" | b"ZRANGE":
            return _array((rows * 17)[: 4096 if words[0] == b"ZRANGEBYSCORE" else 16_384])
        case _:
            return b"+OK\r\n"


def _array(elements: list[object]) -> bytes:
    said = b"".join(_array(one) if isinstance(one, list) else b"$%d\r\n%s\r\n" % (len(one), one) for one in elements)
    return b"*%d\r\n" % len(elements) + said


async def test_each_read_has_the_whole_limit() -> None:
    """Each read has the full limit, whatever earlier reads received on the same connection."""
    answer = _array([member(i, "x" * 500) for i in range(1, 10)])
    async with serving(resp(*[answer] * 5)) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "k", answer_limit=len(answer))
        for _ in range(5):
            assert (await read_alone(shard, 1, 10)).complete
        await shard.aclose()


async def test_a_row_may_be_long() -> None:
    """A name of one megabyte is accepted, also among many rows."""
    rows = [member(i, "x" * (1 << 20) if i == 500 else "x") for i in range(1, 1001)]
    async with serving(resp(_array(rows))) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "k")
        result = await read_alone(shard, 1, KNOWN, owned=(1, KNOWN), seconds=2.0)
        await shard.aclose()
    assert result.complete, result.reports
    assert len(result.frame["name"][499]) == 1 << 20


def trickling(answer: bytes) -> Script:
    """A server that sends its answer a byte at a time, for ever."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(TIMEOUT / 10)

    return script


@pytest.mark.parametrize(
    ("url", "answer", "timeouts"),
    [
        ("redis://:secret@127.0.0.1:{}/0", b"+" + b"O" * 100, 1),
        ("redis://:secret@127.0.0.1:{}/0", b"*1\r\n" * 30, 1),
        ("redis://127.0.0.1:{}/2", b"-LOADING " * 9, 1),
        ("rediss://127.0.0.1:{}", b"+" + b"O" * 100, 4),  # certificates are loaded first
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_handshake_that_trickles_ends_at_the_deadline(url: str, answer: bytes, timeouts: int) -> None:
    """AUTH, SELECT or TLS sent byte by byte ends at the deadline, though no single byte is late."""
    async with serving(trickling(answer)) as port:
        shard = RedisShard(url.format(port), "k")
        report = await report_of(shard, seconds=timeouts * TIMEOUT)
        await shard.aclose()
    assert report.status in (Status.TIMEOUT, *([Status.UNREACHABLE] if url.startswith("rediss") else []))


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, None, "1"])
@pytest.mark.parametrize("kind", [RedisShard, RedisClusterShard])
def test_a_limit_is_a_positive_integer(kind: type, limit: object) -> None:
    """A wrong limit is refused when the shard is made."""
    with pytest.raises(UsageError, match="answer_limit must be a positive number of bytes"):
        kind("redis://h:1", "k", answer_limit=limit)
