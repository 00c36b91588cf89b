"""The access point and strangers: their requests cost little, their resources are bounded, and refusals say why."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit.api.acceptor
from labkit.api import Server, create_app
from labkit.api.accept import choose
from labkit.api.connection import _LingeringTransport
from labkit.api.limits import SPARE_FILES, Limits, RateLimitedLogger, UnsentBytes
from labkit.api.ndjson import MEDIA_TYPE as NDJSON
from labkit.cli.group import cli
from labkit.cli.serve import _served
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.router import RangeRouter
from labkit.shards.memory import MemoryShard
from labkit.topology import ShardPlace, Topology
from tests.support.events import watching
from tests.support.mocks import classic_reader, eventually

pytestmark = pytest.mark.usefixtures("no_task_left")

PROBLEM = b"application/problem+json"
HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"
PATIENCE = 10.0
LARGE = 20_000
"""Rows in a table whose answer exceeds every connection's buffer."""


class Raw:
    """A client that sends raw bytes, with no library to correct them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def rest(self) -> bytes:
        """All bytes until the server ends the connection."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of an answer with a Content-Length."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, headers = parsed(head)
            return status, headers, await self.reader.readexactly(int(headers[b"content-length"]))


def parsed(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The status and the headers, with lower-case names."""
    start, *lines = head.strip().split(b"\r\n")
    pairs = (line.split(b": ", 1) for line in lines)
    return int(start.split()[1]), {name.lower(): value for name, value in pairs}


def refused(answer: bytes) -> tuple[int, str]:
    """Status and detail of an answer that must be a problem document and the last of its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, headers = parsed(head)
    assert headers[b"content-type"] == PROBLEM
    assert headers[b"connection"] == b"close"
    assert headers[b"cache-control"] == b"no-store"
    assert int(headers[b"content-length"]) == len(body)
    assert (headers.get(b"retry-after") is not None) == (status == 503)
    said = json.loads(body)
    assert said["status"] == status
    return status, said["detail"]


@asynccontextmanager
async def raw(server: Server) -> AsyncIterator[Raw]:
    """A connection to the server."""
    host, port = server.url.removeprefix("http://").split(":")
    client = Raw(*await asyncio.open_connection(host, int(port), limit=1 << 16))
    try:
        yield client
    finally:
        client.writer.transport.abort()


async def sent(server: Server, *pieces: bytes) -> bytes:
    """All bytes received until the end of the connection."""
    async with raw(server) as client:
        await client.send(*pieces)
        return await client.rest()


def get(path: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    return b"GET %b HTTP/%b\r\n%b\r\n" % (path, version, b"".join(headers))


def large(rows: int = LARGE) -> ShardReader:
    """A reader of one shard with 20 MB of long rows."""
    return ShardReader(RangeRouter({1: [(0, 10**9)]}), {1: MemoryShard([(i, "x" * 1000) for i in range(rows)])}, 5)


# What a client sends costs little


ACCEPTS = ['"' + '\\"' * 500_000, '"a' * 300_000, "a/b;" * 250_000, "," * 1_000_000, "a/b, " * 200_000, " " * 1_000_000]


@pytest.mark.parametrize("accept", ACCEPTS, ids=lambda text: repr(text[:6]))
def test_accept_is_weighed_in_no_time_whatever_it_is(accept: str) -> None:
    """A megabyte of quotes, commas or blanks takes milliseconds (twenty on a busy machine), not minutes."""
    began = time.process_time()
    choose(accept, ("application/json", NDJSON))
    assert time.process_time() - began < 0.1


HEADS = st.sampled_from([b"Accept", b"Host", b"Cookie", b"X", b"Range", b"Connection", b"Content-Length", b"Expect"])
STUFF = st.sampled_from([b"a", b'"', b'\\"', b",", b";", b" ", b"=", b"a/b, ", b"\xff", b"%", b"&", b"a&b=", b"\t"])
REQUESTS = st.tuples(
    st.sampled_from([b"/data", b"/data/watch", b"/data/1", b"/readyz/x", b"/nope", b"/"]),
    st.tuples(STUFF.filter(lambda stuff: stuff not in (b" ", b"\t")), st.integers(0, 12)),
    st.lists(st.tuples(HEADS, STUFF, st.integers(0, 16)), max_size=4),
)


def test_any_request_up_to_a_megabyte_takes_less_than_fifty_milliseconds() -> None:
    """Any repetition in target and headers, 1 byte to 1 MB, costs little and never gives a 5xx.

    The cost is the processor time of this process, which includes the client.
    """
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        reader = runner.run(stack.enter_async_context(classic_reader()))
        server = runner.run(stack.enter_async_context(Server(reader)))
        runner.run(sent(server, get(b"/data", HOST, CLOSE)))  # keeps one-time work off the clock

        async def asked(*pieces: bytes) -> tuple[bytes, float]:
            async with raw(server) as client:
                began = time.process_time()
                await client.send(*pieces)
                async with asyncio.timeout(PATIENCE):
                    start = await client.reader.read(13)
                return start, time.process_time() - began

        @settings(max_examples=60, derandomize=True, database=None, deadline=None)
        @given(request=REQUESTS)
        def is_cheap(request: Any) -> None:
            path, (stuff, size), headers = request
            target = path + b"?" + stuff * (2**size)
            lines = [name + b": " + (piece * 2**number)[:250_000] + b"\r\n" for name, piece, number in headers]
            start, seconds = runner.run(asked(get(target, HOST, CLOSE, *lines)))
            assert start[:9] in (b"HTTP/1.1 ", b"")
            assert start[9:10] in (b"2", b"4", b"")
            assert seconds < 0.05

        try:
            is_cheap()
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (get(b"/data", HOST, b"X: " + b"a" * 20_000 + b"\r\n"), 431, "16,384 bytes"),
        (get(b"/data", HOST, b"X: " + b"a" * 1_000_000 + b"\r\n"), 431, "16,384 bytes"),
        (get(b"/data?" + b"a&" * 500_000, HOST), 431, "16,384 bytes"),
        (get(b"/data", HOST, b"a:b\r\n" * 5_000), 431, "16,384 bytes"),
        (b"\r\n" * 20_000, 431, "16,384 bytes"),
        (b"\x16\x03\x01\x02\x00\x01\x00" + b"\x00" * 200, 400, "not a valid"),
        (get(b"/data", b"Host : a\r\n"), 400, "not a valid"),
        (get(b"/\xff", HOST), 400, "not a valid"),
        (get(b"/data", HOST, b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "not a valid"),
        (get(b"/data", HOST, b"Content-Length: x\r\n"), 400, "not a valid"),
        (get(b"/data"), 400, "Host"),
        (b"GET /data\r\n\r\n", 505, "0.9"),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
async def test_what_is_too_large_or_no_request_is_told_so(request_: bytes, status: int, said: str) -> None:
    """431, 400 or 505 as a problem document, complete though not all input was read; others are still served."""
    async with classic_reader() as reader, Server(reader) as server:
        assert refused(await sent(server, request_)) == (status, _has(said))
        assert b" 200 OK\r\n" in await sent(server, get(b"/healthz", HOST, CLOSE))


class _has(str):  # noqa: N801 - it is used as a matcher
    """Equal to any text that contains it."""

    def __eq__(self, other: object) -> bool:
        return str(self) in str(other)

    __hash__ = None  # type: ignore[assignment]


async def test_the_limits_are_options() -> None:
    """A request at the limit is served; one with a byte or a parameter more is refused."""
    async with classic_reader() as reader, Server(reader, limits=Limits(head=200, parameters=2)) as server:
        padding = 200 - len(get(b"/data", HOST, CLOSE, b"X: \r\n"))
        fits = get(b"/data", HOST, CLOSE, b"X: " + b"a" * padding + b"\r\n")
        assert len(fits) == 200
        assert b" 200 OK\r\n" in await sent(server, fits)
        assert refused(await sent(server, fits.replace(b"X: ", b"X: a"))) == (431, _has("200 bytes"))
        assert b" 200 OK\r\n" in await sent(server, get(b"/data?low=1&high=2", HOST, CLOSE))
        assert refused(await sent(server, get(b"/data?low=1&high=2&x", HOST, CLOSE))) == (422, _has("3 parameters"))


@pytest.mark.parametrize("count", [101, 13_000, 60_000])
async def test_too_many_parameters_are_counted_and_no_more(count: int) -> None:
    """13,000 parameters give one line, not 13,000; also without labkit's server."""
    reader = classic_reader()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(reader)), base_url="http://labkit") as client:
        for path in ("/data", "/data/watch"):
            began = time.process_time()
            answer = await client.get(f"{path}?{'&' * (count - 1)}")
            assert time.process_time() - began < 0.1
            assert answer.status_code == 422
            assert len(answer.content) < 500
            assert answer.json()["detail"] == f"{count} parameters; at most 100"


async def test_a_head_that_comes_byte_by_byte_is_a_head() -> None:
    """Wherever it is cut the request is answered, also after leading blank lines (RFC 9112, section 2.2)."""
    async with classic_reader() as reader, Server(reader) as server:
        request = b"\r\n\r\n" + get(b"/healthz", HOST, CLOSE)
        assert b" 200 OK\r\n" in await sent(server, *(request[i : i + 1] for i in range(len(request))))
        for cut in range(len(request) - 5, len(request)):
            async with raw(server) as client:
                await client.send(request[:cut])
                await asyncio.sleep(0.01)
                await client.send(request[cut:])
                assert b" 200 OK\r\n" in await client.rest()


# Pipelined requests


async def test_requests_that_come_at_once_are_answered_in_order() -> None:
    """Pipelined requests are answered in order; more buffered bytes than a head may have end the connection."""
    async with classic_reader() as reader, Server(reader) as server:
        paths = [b"/data/%d" % i for i in range(1, 9)]
        together = b"".join(get(path, HOST) for path in paths) + get(b"/healthz", HOST, CLOSE)
        answer = await sent(server, together[:55], together[55:])
        places = [answer.index(b'{"id":%d,' % i) for i in range(1, 9)]
        assert places == sorted(places)
        assert answer.count(b"HTTP/1.1 200") == 9
        flood = await sent(server, get(b"/healthz", HOST) * 5_000)
        assert flood.count(b"HTTP/1.1 200") == 1


async def test_a_body_is_passed_over_and_ends_the_connection() -> None:
    """No request here needs a body: the answer does not wait for it, and arrives while it is being sent."""
    async with classic_reader() as reader, Server(reader) as server:
        head = get(b"/healthz", HOST, b"Content-Length: 3000000\r\n")
        answer = await sent(server, head, *[b"x" * 100_000] * 20)
        assert b" 200 OK\r\n" in answer
        assert b"connection: close" in answer
        chunked = get(b"/healthz", HOST, b"Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\n\r\n"
        assert (await sent(server, chunked + get(b"/healthz", HOST))).count(b"HTTP/1.1 200") == 1


async def test_an_upgrade_that_is_asked_for_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """The upgrade is ignored (RFC 9110); the next request on the connection is answered, and nothing is logged."""
    async with classic_reader() as reader, Server(reader) as server, raw(server) as client:
        await client.send(get(b"/healthz", HOST, b"Connection: Upgrade\r\nUpgrade: h2c\r\n"))
        assert (await client.answer())[0] == 200
        await client.send(get(b"/healthz", HOST))
        assert (await client.answer())[0] == 200
    assert not caplog.records


# HTTP/1.0 and HEAD


@pytest.mark.parametrize("path", [b"/data", b"/data/1", b"/healthz", b"/nope"])
async def test_http_1_0_gets_a_whole_answer_and_the_end_of_the_connection(path: bytes) -> None:
    """HTTP/1.0 needs no Host, and its connection is closed even if keep-alive is requested."""
    async with classic_reader() as reader, Server(reader) as server:
        for headers in (b"", b"Connection: keep-alive\r\n"):
            head, _, body = (await sent(server, get(path, headers, version=b"1.0"))).partition(b"\r\n\r\n")
            status, found = parsed(head)
            assert status == (404 if path == b"/nope" else 200)
            assert (int(found[b"content-length"]), found[b"connection"]) == (len(body), b"close")


async def test_http_1_0_gets_streams_without_chunks() -> None:
    """HTTP/1.0 has no chunks: a stream of rows ends with the connection, and a watch is sent unchunked."""
    async with classic_reader() as reader, Server(reader) as server:
        accept = b"Accept: application/x-ndjson\r\n"
        head, _, body = (await sent(server, get(b"/data", accept, version=b"1.0"))).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert [json.loads(line)["id"] for line in body.splitlines()[:-1]] == list(range(1, 61))
        async with raw(server) as client:
            await client.send(get(b"/data/watch?high=2", version=b"1.0"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"transfer-encoding" not in head.lower()
            assert await client.reader.readline() == b"event: result\n"


@pytest.mark.parametrize(
    "path", ["/", "/data", "/data/1", "/data/61", "/healthz", "/readyz", "/docs", "/nope", "/data?x=1"]
)
async def test_head_is_get_without_a_body(path: str) -> None:
    """Status and headers are the same, the length included, with no body: the connection remains usable."""
    async with classic_reader() as reader, Server(reader) as server, raw(server) as client:
        request = get(path.encode(), HOST)
        await client.send(request)
        status, headers, _ = await client.answer()
        await client.send(request.replace(b"GET", b"HEAD"))
        same = parsed(await client.reader.readuntil(b"\r\n\r\n"))
        headers.pop(b"date")
        same[1].pop(b"date")
        if path not in ("/data", "/readyz"):  # whose bodies contain times
            assert same == (status, headers)
        assert (same[0], set(same[1])) == (status, set(headers))
        await client.send(get(b"/healthz", HOST))
        assert (await client.answer())[2] == b'{"status":"ok"}'


@pytest.mark.parametrize("accept", [NDJSON, "text/event-stream"])
async def test_head_of_a_stream_ends(accept: str) -> None:
    """HEAD gives the headers of a watch or stream at once and starts nothing that keeps running."""
    path = b"/data" if accept == NDJSON else b"/data/watch"
    async with classic_reader() as reader, Server(reader) as server:
        answer = await sent(server, get(path, HOST, CLOSE, f"Accept: {accept}\r\n".encode()).replace(b"GET", b"HEAD"))
        status, headers = parsed(answer)
        assert (status, headers[b"content-type"].partition(b";")[0]) == (200, accept.encode())
        await eventually(lambda: not server._server.server_state.tasks)


# Which Hosts are served


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8000", 200),
        ("192.0.2.7", 200),
        ("[::1]", 200),
        ("[::1]:8000", 200),
        ("localhost", 200),
        ("LOCALHOST.:80", 200),
        ("labkit.localhost", 200),
        ("known.example", 200),
        ("Known.Example.:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil-localhost", 421),
        ("2130706433", 421),
        ("other.known.example", 421),
        ("", 400),
        ("evil.example/localhost", 400),
        ("localhost:80:80", 400),
        ("user@localhost", 400),
        ("[::1]evil", 400),
        ("[evil]", 400),
        ("a" * 5000, 400),
    ],
)
async def test_only_who_means_this_service_is_served(host: str, status: int) -> None:
    """Addresses, localhost and allowed names are served; for any other name the error has the option that allows it."""
    reader = classic_reader()
    async with reader, Server(reader, allow_hosts=["known.example"]) as server:
        for path in (b"/healthz", b"/data", b"/", b"/data/watch", b"/openapi.json", b"/docs/assets/favicon.png"):
            async with raw(server) as client:
                await client.send(get(path, f"Host: {host}\r\n".encode()))
                start = await client.reader.readuntil(b"\r\n\r\n")
                assert parsed(start)[0] == status
        if status == 421:
            answer = await sent(server, get(b"/", f"Host: {host}\r\n".encode(), CLOSE))
            assert f"--allow-host {host}" in refused(answer)[1]


async def test_two_hosts_are_none() -> None:
    """400 even if both are right: a proxy may have checked the other one."""
    async with classic_reader() as reader, Server(reader) as server:
        assert refused(await sent(server, get(b"/data", HOST, HOST, CLOSE)))[0] == 400


async def test_any_host_is_served_where_that_is_asked_for() -> None:
    """`*` is for a service behind a proxy that has checked the name."""
    async with classic_reader() as reader, Server(reader, allow_hosts="*") as server:
        assert b" 200 OK" in await sent(server, get(b"/healthz", b"Host: evil.example\r\n", CLOSE))


async def test_the_name_it_is_served_at_is_served() -> None:
    """`Server(reader, "localhost")` is served under its own name, and an application under its server's name."""
    async with classic_reader() as reader:
        async with Server(reader, "localhost") as server, httpx.AsyncClient() as client:
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
        transport = httpx.ASGITransport(create_app(reader))
        async with httpx.AsyncClient(transport=transport, base_url="http://inside") as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/healthz", headers={"Host": "outside"})).status_code == 421


@pytest.mark.parametrize("host", ["http://known.example", "a b", "", "[evil]", "*.example.org"])
def test_a_host_that_is_none_is_one_clear_error(host: str) -> None:
    """The error names the value."""
    for make in (create_app, Server):
        with pytest.raises(UsageError, match="is not a host name") as raised:
            make(classic_reader(), allow_hosts=[host])
        assert repr(host) in str(raised.value)


# Idle connections


async def test_who_says_nothing_or_not_enough_is_not_waited_for() -> None:
    """408 for half a head, also for the second on a connection; one that sent nothing is just closed."""
    async with classic_reader() as reader, Server(reader, limits=Limits(head_timeout=0.2)) as server:
        began = time.monotonic()
        silent, half, drops, second = await asyncio.gather(
            sent(server), sent(server, b"GET /data HT"), _dripping(server), _half_after_a_whole(server)
        )
        assert time.monotonic() - began < 2
        assert silent == b""
        for answer in (half, drops, second):
            assert refused(answer) == (408, _has("0.2 seconds"))


async def _dripping(server: Server) -> bytes:
    """An occasional byte does not restart the clock."""
    async with raw(server) as client:
        for byte in get(b"/data", HOST):
            if client.reader.at_eof() or client.reader._buffer:  # type: ignore[attr-defined]
                break
            await client.send(bytes([byte]))
            await asyncio.sleep(0.02)
        return await client.rest()


async def _half_after_a_whole(server: Server) -> bytes:
    async with raw(server) as client:
        await client.send(get(b"/healthz", HOST))
        assert (await client.answer())[0] == 200
        await client.send(b"GET /data HT")
        return await client.rest()


async def test_one_connection_too_many_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the limit 503, Retry-After and few log lines; open connections work on, and closing one makes room."""
    async with (
        classic_reader() as reader,
        Server(reader, limits=Limits(connections=3)) as server,
        raw(server) as first,
        raw(server) as second,
    ):
        async with raw(server) as third:
            for client in (first, second, third):
                await client.send(get(b"/healthz", HOST))
                assert (await client.answer())[0] == 200
            for _ in range(200):
                assert refused(await sent(server)) == (503, "all 3 connections are in use")
            await third.send(get(b"/data/1", HOST))
            assert (await third.answer())[0] == 200
        await eventually(lambda: server._server._acceptor._count["served"] == 2)  # type: ignore[union-attr]
        assert b" 200 OK" in await sent(server, get(b"/healthz", HOST, CLOSE))
    assert 1 <= len(caplog.records) <= 4


async def test_who_is_refused_and_does_not_leave_is_left() -> None:
    """Of a hundred surplus clients that stay, none is kept longer than it takes to read the refusal."""
    async with classic_reader() as reader, Server(reader, limits=Limits(connections=1)) as server, raw(server):
        await asyncio.sleep(0)
        host, port = server.url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(100)]
        acceptor = server._server._acceptor
        assert acceptor is not None
        await eventually(lambda: acceptor._count["refused"] > 0)
        assert acceptor._count["refused"] <= labkit.api.acceptor._MAX_REFUSED
        await eventually(lambda: acceptor._count["refused"] == 0, seconds=5)
        for one in held:
            one.close()


def test_connections_stay_below_the_files_that_may_be_open() -> None:
    """The default is half of the file limit, at most 1,000; an impossible number is one clear error at the start."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for files, connections in ((256, 128), (1024, 512), (before[0], min(1000, before[0] // 2))):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
            assert Limits().clients() == connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert Limits(connections=256 - SPARE_FILES).clients() == 256 - SPARE_FILES
        with pytest.raises(UsageError, match=r"connections=500.*256 files.*ulimit -n"):
            Limits(connections=500).clients()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Exhausted(socket.socket):
    """A socket whose first `times` calls of `accept` fail for want of a file descriptor."""

    times = 0

    def accept(self) -> Any:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_where_no_file_is_left_it_waits_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line, no traceback, no busy loop; waiting clients are served once descriptors are free again."""
    monkeypatch.setattr(labkit.api.acceptor, "_PAUSE", 0.02)
    async with classic_reader() as reader, Server(reader) as server:
        listening = server._socket
        exhausted = Exhausted(fileno=listening.detach())
        exhausted.times = 10
        server._socket = server._server._acceptor._listening = exhausted  # type: ignore[union-attr]
        assert b" 200 OK" in await sent(server, get(b"/healthz", HOST, CLOSE))
        assert exhausted.times == 0
    [record] = caplog.records
    assert (record.getMessage(), record.exc_info) == ("cannot accept connections: Too many open files", None)


def test_a_log_has_one_line_a_second_for_a_cause(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand messages the first is written; a second later the next one counts the rest, for each cause."""
    now = 100.0
    monkeypatch.setattr("labkit.api.limits.time.monotonic", lambda: now)
    log = RateLimitedLogger(logging.getLogger("seldom"))
    for _ in range(1000):
        log.warning("refused %d", 1)
        log.error("failed", exc_info=ValueError())
        log.error("failed", exc_info=KeyError())
    now += 1
    log.warning("refused %d", 2)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["refused 1", "failed", "failed", "refused 2 (999 more suppressed)"]


# Clients that do not read


@pytest.mark.slow
async def test_who_takes_nothing_is_cut_off_and_no_more_is_kept_for_it() -> None:
    """Clients that never read get one buffer of a large answer, and are cut off within the send timeout."""
    reader = large()
    async with (
        reader,
        Server(reader, limits=Limits(send_timeout=3)) as server,  # longer than two answers take on a busy machine
        raw(server) as deaf,
        raw(server) as streamed,
    ):
        await deaf.send(get(b"/data", HOST))
        await streamed.send(get(b"/data", HOST, b"Accept: application/x-ndjson\r\n"))
        connections = server._server.server_state.connections
        await eventually(lambda: len(connections) == 2 and all(c.flow.write_paused for c in connections))
        for connection in connections:
            assert connection.transport.get_write_buffer_size() <= 2 * 65_536 + 1000
        await eventually(lambda: not connections, seconds=8)
        await eventually(lambda: not server._app.state.unsent._reserved)
        for client in (deaf, streamed):
            with pytest.raises(ConnectionResetError):
                await client.reader.read()


class _Lost(asyncio.Transport):
    """A transport whose client reset the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.lost, self.written = False, 0

    def is_closing(self) -> bool:
        return self.lost

    def write(self, data: Any) -> None:
        self.written += 1


async def test_nothing_is_written_to_a_connection_that_is_lost() -> None:
    """asyncio logs a line for each such write, and an answer in pieces has hundreds."""
    lost = _Lost()
    transport = _LingeringTransport(lost, lambda: False)
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    transport.write(b"a piece")
    assert lost.written == 1
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    lost.lost = True
    for _ in range(10):
        transport.write(b"a piece")
    await asyncio.sleep(0)  # lets a head that waits for its body be sent alone
    assert lost.written == 1


async def test_who_reads_slowly_gets_all_of_it() -> None:
    """An answer that takes many times the send timeout arrives whole: only clients that read nothing are cut off."""
    reader = large(3_000)
    async with reader, Server(reader, limits=Limits(send_timeout=0.5)) as server, raw(server) as slow:
        await slow.send(get(b"/data", HOST))
        head = await slow.reader.readuntil(b"\r\n\r\n")
        size, taken = int(parsed(head)[1][b"content-length"]), 0
        began = time.monotonic()
        while taken < size:
            taken += len(await slow.reader.read(1 << 17))
            await asyncio.sleep(0.05)
        assert taken == size
        assert time.monotonic() - began > 1


async def test_large_answers_that_wait_are_bounded_together() -> None:
    """Beyond the bound 503, Retry-After; a single answer may be larger, small ones always pass, and room is freed."""
    reader = large()
    async with (
        reader,
        httpx.AsyncClient(timeout=PATIENCE) as client,
        Server(reader, limits=Limits(unsent=1 << 20)) as server,
        raw(server) as deaf,
    ):
        client.base_url = server.url
        await deaf.send(get(b"/data", HOST))
        await deaf.reader.readuntil(b"\r\n\r\n")
        for accept in ("application/json", NDJSON):
            refusal = await client.get("/data?require=complete", headers={"Accept": accept})
            assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
            assert refusal.json()["type"] == "urn:labkit:problem:too-much-unsent"
        for path in ("/data/1", "/data?high=9", "/healthz"):
            assert (await client.get(path)).status_code == 200
        deaf.writer.transport.abort()
        await eventually(lambda: not server._app.state.unsent._reserved)
        assert len((await client.get("/data")).content) > 20_000_000


async def test_what_is_too_much_costs_no_shard_a_read() -> None:
    """Once such an answer's size is known, it is refused before the read; requests for few rows never are."""
    rows = [(i, "x" * 1000) for i in range(LARGE)]
    shard = MemoryShard(rows)
    reader = ShardReader(RangeRouter({1: [(0, 10**9)]}), {1: shard}, 5)
    async with (
        reader,
        httpx.AsyncClient(timeout=PATIENCE) as client,
        Server(reader, limits=Limits(unsent=1 << 20)) as server,
        raw(server) as deaf,
    ):
        client.base_url = server.url
        await deaf.send(get(b"/data", HOST))
        await deaf.reader.readuntil(b"\r\n\r\n")
        asked = len(shard.asks)
        for query in ("", "?low=3", "?high=5000", "?low=1&high=2001", "?limit=2001"):
            assert (await client.get(f"/data{query}")).status_code == 503
        assert len(shard.asks) == asked
        for query in ("?low=1&high=9", "?limit=9"):
            assert (await client.get(f"/data{query}")).status_code == 200


def test_what_waits_is_counted() -> None:
    """Small answers always have room, as does a single large one; what is released is available again."""
    unsent = UnsentBytes(1_000_000)
    assert unsent.reserve(5_000_000)
    assert not unsent.reserve(100_000)
    assert unsent.reserve(1000)
    unsent.release(5_000_000)
    assert unsent.reserve(900_000)
    assert not unsent.reserve(100_000)


# Watches


async def test_windows_are_bounded_and_not_those_who_watch_them() -> None:
    """One window too many: 503, Retry-After; a watched window takes any number of clients; leaving makes room."""
    async with (
        classic_reader() as reader,
        Server(reader, limits=Limits(windows=2)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client,
    ):
        async with watching(client, "?high=1") as first, watching(client, "?high=1&deltas=true") as same:
            async with watching(client, "?high=2") as second:
                for events in (first, same, second):
                    await events.next()
                refusal = await client.get("/data/watch?high=3")
                assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
                assert refusal.json()["type"] == "urn:labkit:problem:too-many-windows"
                assert (await client.get("/data?high=3")).status_code == 200
            await eventually(lambda: len(server._app.state.windows._watchers) == 1)
            async with watching(client, "?high=3") as third:
                await third.next()
        await eventually(lambda: not server._app.state.windows._watchers)


# A closed reader


@pytest.mark.parametrize("path", ["/data", "/data?limit=2", "/data/1", "/data/watch", "/readyz", "/readyz/2"])
async def test_a_reader_that_was_closed_is_503(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A clear problem with Retry-After, no 500 and no traceback; /healthz reports that the service itself runs."""
    reader = classic_reader()
    async with Server(reader) as server, httpx.AsyncClient(base_url=server.url) as client:
        await reader.aclose()
        for accept in ("*/*", NDJSON):
            answer = await client.get(path, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["type"] == "urn:labkit:problem:closed"
        assert (await client.get("/healthz")).status_code == 200
    assert not caplog.records


# The options


def test_each_limit_is_an_option_of_the_command_with_the_same_default() -> None:
    """`labkit serve` has an option for every limit."""
    options = {option.name: option for option in cli.commands["serve"].params}
    for field in fields(Limits):
        assert options[field.name].default == field.default or field.default is None
    assert "allow_host" in options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-connections", "0"], "connections must be a positive integer, not 0"),
        (["--max-windows", "-1"], "windows must be a positive integer, not -1"),
        (["--max-head", "0"], "head must be a positive integer, not 0"),
        (["--head-timeout", "0"], "head_timeout must be a positive number of seconds, not 0.0"),
        (["--send-timeout", "nan"], "send_timeout must be a positive number of seconds, not nan"),
        (["--allow-host", "a b"], "'a b' is not a host name"),
    ],
)
def test_an_option_that_is_no_limit_is_one_line(words: list[str], said: str) -> None:
    """Exit 2, before a file is read or a port is taken."""
    done = CliRunner().invoke(cli, ["serve", "--topology", "no.toml", *words])
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "10", None])
def test_what_is_no_limit_is_refused(value: Any) -> None:
    """The error names the limit and the value."""
    with pytest.raises(UsageError, match="head must be a positive integer, not "):
        Limits(head=value)


async def test_the_command_freezes_its_heap_and_the_library_does_not() -> None:
    """`labkit serve` owns its process; a `Server` is a guest in another's."""
    gc.unfreeze()
    async with classic_reader() as reader, Server(reader):
        assert gc.get_freeze_count() == 0
    frozen = 0

    async def serve(_reader: ShardReader, host: str, port: int, on_start: Any) -> None:
        nonlocal frozen
        on_start(f"http://{host}:{port}")
        frozen = gc.get_freeze_count()

    places = {1: ShardPlace("redis://127.0.0.1:1", "data")}
    try:
        await _served(Topology(1.0, RangeRouter({1: [(1, 9)]}), places), serve, "127.0.0.1", 1, True, {})
        assert frozen > 10_000
    finally:
        gc.unfreeze()
