"""The proxy in the test's own loop, in front of plain sockets; then real clients through the proxies of real labs.

The test holds both ends of a connection, so it waits only for conditions that must become true.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from urllib.parse import urlsplit

import psutil
import pytest

from labkit import Lab, faults
from labkit.faults import Toxic
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.lab.launchers.binaries import postgres_home
from labkit.lab.proxy import link, stream
from labkit.lab.proxy.dial import Upstream
from labkit.lab.proxy.proxy import Proxy
from tests.support.watching import comes_true, refuses

KERNEL = 32 * 1024 * 1024
"""The most bytes that all sockets on the way may hold (Linux: 6 MB per socket and direction)."""
AGES = 3600_000
"""More milliseconds than any test waits."""


class End:
    """One end of a connection, on a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        """`size` bytes, or fewer if the stream ends first."""
        data = b""
        while len(data) < size and (more := await self._loop.sock_recv(self.sock, size - len(data))):
            data += more
        return data

    async def rest(self) -> bytes:
        """Everything until the end."""
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._loop.sock_recv(self.sock, 65536):
            yield piece

    def waiting(self) -> bytes:
        """Peeks at data that has arrived but was not read."""
        try:
            return self.sock.recv(65536, socket.MSG_PEEK)
        except BlockingIOError:
            return b""

    def finish(self) -> None:
        """Ends its sending direction."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class Bench:
    """A proxy, the listener of a server behind it, and pairs of ends."""

    def __init__(self, listener: socket.socket, upstream: Upstream, listen: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.fired: list[int] = []
        self.upstream = upstream
        self.proxy = Proxy(upstream, lambda number, at: self.fired.append(number), listen)
        self.listener = listener
        self._ends: list[End] = []
        self._one_by_one = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def client(self, receives: int = 0) -> End:
        """A client of the proxy; `receives` is the size of its receive buffer."""
        sock = socket.socket(socket.AF_INET6 if ":" in self.proxy.address[0] else socket.AF_INET)
        if receives:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        end = self._kept(End(sock))
        await asyncio.get_running_loop().sock_connect(end.sock, self.proxy.address)
        return end

    async def accepted(self) -> End:
        """The server's end of the next connection."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return self._kept(End(sock))

    async def pair(self, receives: int = 0) -> tuple[End, End]:
        """Both ends of a new connection."""
        async with self._one_by_one:
            client = await self.client(receives)
            server = await self.accepted()
            while self.proxy._dialling:
                await asyncio.sleep(0)
        return client, server

    def install(self, *toxics: Toxic) -> list[int]:
        """Adds toxics and arms them; returns their numbers."""
        numbers = [next(self._numbers) for _ in toxics]
        for number, toxic in zip(numbers, toxics, strict=True):
            self.proxy.add(number, toxic, "0|2")
        self.proxy.arm()
        return numbers

    async def silence(self, on: bool) -> None:
        await self.proxy.blackhole(on)
        self.proxy.arm()
        await self.proxy.settle()

    async def take_down(self, on: bool) -> None:
        await self.proxy.down(on)
        self.proxy.arm()
        await self.proxy.settle()

    @property
    def links(self) -> list[Any]:
        return list(self.proxy._links)

    async def aclose(self) -> None:
        await self.proxy.aclose()
        self.listener.close()
        for end in self._ends:
            end.sock.close()

    def _kept(self, end: End) -> End:
        self._ends.append(end)
        return end


def listening(path: Path | None) -> tuple[socket.socket, Upstream]:
    """A server's socket on 127.0.0.1 or at `path`."""
    listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(("127.0.0.1", 0) if path is None else str(path))
    listener.listen(2048)
    return listener, listener.getsockname() if path is None else str(path)


@pytest.fixture(params=["tcp", "unix"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """An accepting proxy in front of a server on 127.0.0.1 or a unix socket; asserts that it leaves nothing behind."""
    before = opened(), timers()
    made = Bench(*listening(tmp_path / "s" if request.param == "unix" else None))
    await made.proxy.accept()
    yield made
    await made.aclose()
    assert await comes_true(lambda: asyncio.all_tasks() == {asyncio.current_task()}), asyncio.all_tasks()
    # There may be fewer if leftovers of an earlier test were closed meanwhile.
    assert await comes_true(lambda: all(now <= then for now, then in zip((opened(), timers()), before, strict=True)))
    assert made.links == []


def opened() -> int:
    """The number of open files of this process."""
    return psutil.Process().num_fds()


def timers() -> int:
    """The number of pending timers of the loop."""
    return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


def watched() -> int:
    """The number of sockets that the loop polls."""
    return len(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]


async def echo(end: End) -> None:
    """Sends back everything it receives, until the end."""
    async for piece in end.pieces():
        await end.send(piece)
    end.finish()


# transparent


@dataclass(frozen=True)
class Talk:
    """What one end sends in a storm: the data, its chunks, and after which chunks it waits until all has arrived."""

    data: bytes
    chunks: tuple[int, ...]
    waits: frozenset[int]

    @classmethod
    def drawn(cls, random: Random, most: int) -> Talk:
        size = random.choice([0, 1, random.randrange(most), random.randrange(most)])
        chunks: list[int] = []
        while sum(chunks) < size:
            chunks.append(random.choice([1, 7, 100, 4096, 65536, 300_000]))
        waits = frozenset(i for i in range(len(chunks)) if random.random() < 0.3)
        return cls(random.randbytes(size), tuple(chunks), waits)


class Direction:
    """Sends a `Talk` and receives it at the other end."""

    def __init__(self, talk: Talk, source: End, sink: End) -> None:
        self.talk, self.source, self.sink = talk, source, sink
        self.heard = bytearray()
        self._news = asyncio.Event()

    async def say(self) -> None:
        start = 0
        for i, size in enumerate(self.talk.chunks):
            await self.source.send(self.talk.data[start : start + size])
            start += size
            while i in self.talk.waits and len(self.heard) < min(start, len(self.talk.data)):
                self._news.clear()
                await self._news.wait()
        self.source.finish()

    async def hear(self) -> None:
        async for piece in self.sink.pieces():
            self.heard += piece
            self._news.set()


async def storm(bench: Bench, random: Random, most: int) -> None:
    """Both ends send at once; asserts that each receives exactly what the other sent."""
    client, server = await bench.pair(receives=random.choice([0, 4096]))
    directions = [
        Direction(Talk.drawn(random, most), client, server),
        Direction(Talk.drawn(random, most), server, client),
    ]
    async with asyncio.TaskGroup() as group:
        for direction in directions:
            group.create_task(direction.say())
            group.create_task(direction.hear())
    for direction in directions:
        assert direction.heard == direction.talk.data


@pytest.mark.parametrize("seed", range(12))
async def test_what_arrives_is_what_was_sent(bench: Bench, seed: int) -> None:
    """Bytes sent both ways at once, in any chunks, with pauses and with one end finishing first, all arrive in order,
    followed by the end; on several connections at once.
    """
    await asyncio.gather(*(storm(bench, Random(f"{seed} {i}"), 2_000_000) for i in range(4)))


@pytest.mark.parametrize("seed", range(4))
async def test_toxics_that_only_slow_down_lose_nothing(bench: Bench, seed: int) -> None:
    """The same storm loses nothing through changing stacks of slowing toxics on both streams."""
    stack = [
        faults.Latency(3, 3),
        faults.Slicer(3000, 2999, 10),
        faults.Bandwidth(50_000),
        faults.Latency(2, stream="upstream"),
        faults.SlowClose(5, stream="upstream"),
        faults.Slicer(700, 600, stream="upstream"),
    ]
    random = Random(seed)
    storms = asyncio.gather(*(storm(bench, Random(f"{seed} {i}"), 300_000) for i in range(3)))
    numbers: list[int] = []
    while not storms.done():
        random.shuffle(stack)
        numbers += bench.install(*stack[: random.randrange(4)])
        await asyncio.wait([storms], timeout=0.005)
        random.shuffle(numbers)
        while len(numbers) > random.randrange(4):
            bench.proxy.remove(numbers.pop())
    await storms


async def test_a_server_that_answers_a_client_that_is_done_is_heard_out(bench: Bench) -> None:
    """A client that has finished sending still receives the whole answer for as long as the server keeps sending."""
    client, server = await bench.pair()
    await client.send(b"all of it?")
    client.finish()
    assert await server.rest() == b"all of it?"
    lasted = asyncio.get_running_loop().time() + 0.6  # more than twice the time allowed for silence
    said = 0
    while asyncio.get_running_loop().time() < lasted:
        await server.send(b"x")
        said += 1
        assert await client.receive(1) == b"x"
        await asyncio.sleep(0.02)
    server.sock.close()
    assert await client.rest() == b""
    assert said > 5


async def test_a_client_that_left_is_not_served_for_ever(bench: Bench) -> None:
    """A client that hung up leaves no link, even if the server then sends nothing and stays open."""
    client, server = await bench.pair()
    client.sock.close()
    assert await server.rest() == b""
    assert await comes_true(lambda: bench.links == [])


async def test_a_link_that_is_over_is_gone_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link is removed as soon as both ends have finished, without waiting for silence."""
    monkeypatch.setattr(link, "LINGER", AGES)
    client, server = await bench.pair()
    client.finish()
    server.finish()
    assert (await client.rest(), await server.rest()) == (b"", b"")
    assert await comes_true(lambda: bench.links == [])


async def test_a_servers_goodbye_arrives(bench: Bench) -> None:
    """What a server sent before it closed arrives, even if the client was just sending to it."""
    for _ in range(20):
        client, server = await bench.pair()
        await server.send(b"-ERR max number of clients reached")
        server.sock.close()
        await client.send(b"PING")  # the proxy meets all three at once
        heard = b""
        with contextlib.suppress(ConnectionError):
            async for piece in client.pieces():
                heard += piece
        assert heard == b"-ERR max number of clients reached"
        client.sock.close()
    assert await comes_true(lambda: bench.links == [])


async def test_a_reset_comes_after_what_was_said(bench: Bench) -> None:
    """Behind a latency, data sent before a server's reset arrives first, then the end."""
    bench.install(faults.Latency(30))
    client, server = await bench.pair()
    await client.send(b"never read")
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["upstream"].passed == 20)
    await server.send(b"last words")
    server.reset()
    assert await client.receive(10) == b"last words"
    with contextlib.suppress(ConnectionError):
        assert await client.receive(1) == b""
    assert await comes_true(lambda: bench.links == [])


@pytest.mark.parametrize("seed", range(3))
async def test_garbage_does_not_kill_it(bench: Bench, seed: int) -> None:
    """After random bytes both ways and ends that break off at any moment, the proxy works and holds nothing."""
    random = Random(seed)

    async def babble(end: End) -> None:
        with contextlib.suppress(OSError):
            for _ in range(random.randrange(1, 20)):
                await end.send(random.randbytes(random.choice([1, 50, 100_000])))
                await asyncio.sleep(0)
        random.choice([end.reset, end.sock.close])()

    async def listen(end: End) -> None:
        with contextlib.suppress(OSError):
            await end.rest()

    for _ in range(10):
        pairs = [await bench.pair() for _ in range(5)]
        ends = [end for pair in pairs for end in pair]
        hearing = [asyncio.create_task(listen(end)) for end in random.sample(ends, 4)]
        await asyncio.gather(*(babble(end) for end in ends))
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
    assert await comes_true(lambda: bench.links == [])
    client, server = await bench.pair()
    await client.send(b"still there?")
    assert await server.receive(12) == b"still there?"


async def test_a_thousand_connections_at_once(bench: Bench, room_for_files: None) -> None:
    """A thousand connections open at the same time each get their own data echoed back."""
    serving: list[asyncio.Task[None]] = []

    async def serve() -> None:
        while True:
            serving.append(asyncio.create_task(echo(await bench.accepted())))

    together = asyncio.Barrier(1000)

    async def talk(i: int) -> bytes:
        client = await bench.client()
        await together.wait()
        await client.send(f"I am {i}".encode())
        client.finish()
        return await client.rest()

    accepting = asyncio.create_task(serve())
    heard = await asyncio.gather(*(talk(i) for i in range(1000)))
    accepting.cancel()
    await asyncio.gather(accepting, *serving, return_exceptions=True)
    assert heard == [f"I am {i}".encode() for i in range(1000)]
    assert await comes_true(lambda: bench.links == [])


@pytest.fixture
def room_for_files() -> Iterator[None]:
    """Raises the limit on open files: with both ends and the proxy in this process, a connection takes four sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# memory


@pytest.mark.parametrize("toxic", [None, faults.Latency(AGES), faults.Slicer(1, 0, AGES * 1000), faults.Bandwidth(1)])
async def test_a_client_that_never_reads_stalls_the_server(bench: Bench, toxic: Toxic | None) -> None:
    """However much the server sends, the proxy holds at most one chunk (64 KB), or 4 MB that a toxic keeps back; once
    the client reads, everything arrives.
    """
    numbers = bench.install(toxic) if toxic else []
    client, server = await bench.pair(receives=4096)
    (living,) = bench.links
    downstream = living.streams["downstream"]
    pattern = bytes(range(256)) * 256
    sent = 0

    def stalled() -> bool:
        """Sends as much as possible; whether both the server and the proxy are stuck."""
        nonlocal sent
        while True:
            try:
                sent += server.sock.send(pattern[sent % 256 :])
            except BlockingIOError:
                return not downstream._reads
            assert sent < KERNEL

    for _ in range(20):  # and it stays stalled
        assert await comes_true(stalled)
    held = sum(len(piece.data) for piece, _ in downstream._waiting)
    assert held == downstream._bytes <= (stream.MOST_BYTES if toxic else 0) + stream.CHUNK
    assert len(downstream._waiting) <= stream.MOST_PIECES + stream.PLANNED
    server.finish()
    for number in numbers:
        bench.proxy.remove(number)
    heard = await client.rest()
    assert len(heard) == sent
    assert heard == (bytes(range(256)) * (sent // 256 + 1))[:sent]


async def test_latency_does_not_narrow_the_line(bench: Bench) -> None:
    """Under latency megabytes are in flight at once: it delays data without limiting bandwidth."""
    bench.install(faults.Latency(AGES))
    _, server = await bench.pair()
    (living,) = bench.links
    sending = asyncio.create_task(server.send(bytes(3_000_000)))
    assert await comes_true(lambda: living.streams["downstream"]._bytes == 3_000_000)
    await sending


# ends


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_while_data_is_held_leaves_no_link(bench: Bench, leave: str) -> None:
    """When a client leaves, data held for it is dropped and the server sees the end."""
    bench.install(faults.Latency(AGES))
    client, server = await bench.pair()
    await server.send(b"too late")
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["downstream"]._bytes == 8)
    client.sock.close() if leave == "close" else client.reset()
    with contextlib.suppress(ConnectionError):
        assert await server.rest() == b""
    assert await comes_true(lambda: bench.links == [])


async def test_a_client_that_leaves_while_it_is_connected_through_is_let_go(tmp_path: Path) -> None:
    """The proxy stops dialling a server whose queue is full once the client has left."""
    listener, upstream = listening(tmp_path / "s")
    listener.listen(0)
    bench = Bench(listener, upstream)
    await bench.proxy.accept()
    try:
        clients = [await bench.client() for _ in range(5)]
        assert await comes_true(lambda: len(bench.links) + len(bench.proxy._dialling) == 5)
        dialling = len(bench.proxy._dialling)
        assert dialling > 0
        for client in clients:
            await client.send(b"hello?")
            client.sock.close()
        assert await comes_true(lambda: not bench.proxy._dialling)
        for _ in range(5 - dialling):
            (await bench.accepted()).sock.close()
        assert await comes_true(lambda: bench.links == [])
    finally:
        await bench.aclose()


# toxics on open connections


async def test_held_bytes_leave_when_latency_is_removed(bench: Bench) -> None:
    """A latency added to an open connection holds later data; removed, all of it arrives at once."""
    client, server = await bench.pair()
    await server.send(b"before ")
    assert await client.receive(7) == b"before "
    (number,) = bench.install(faults.Latency(AGES))
    await server.send(b"during ")
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["downstream"]._bytes == 7)
    assert client.waiting() == b""
    bench.proxy.remove(number)
    await server.send(b"after")
    assert await client.receive(12) == b"during after"
    assert bench.fired == [number]


async def test_a_toxic_has_its_way_with_what_others_hold(bench: Bench) -> None:
    """A toxic added behind a latency acts on the held bytes, and its end comes once they are released."""
    client, server = await bench.pair()
    (late,) = bench.install(faults.Latency(AGES))
    await server.send(b"0123456789")
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["downstream"]._bytes == 10)
    bench.install(faults.LimitData(4))
    assert client.waiting() == b""
    bench.proxy.remove(late)
    assert await client.rest() == b"0123"
    assert await comes_true(lambda: bench.links == [])


async def test_removing_one_toxic_leaves_the_others_as_they_are(bench: Bench) -> None:
    """Removing a Latency does not bring forward the end that a Timeout has planned."""
    client, server = await bench.pair()
    late, silent = bench.install(faults.Latency(AGES), faults.Timeout(AGES))
    bench.proxy.remove(late)
    await server.send(b"swallowed")
    assert await comes_true(lambda: silent in bench.fired)
    assert (len(bench.links), client.waiting()) == (1, b"")
    bench.proxy.remove(silent)
    assert await client.rest() == b""


async def test_closing_a_silent_connection_is_firing(bench: Bench) -> None:
    """A Timeout that closes a connection has acted on it, though not a byte was lost."""
    client, _ = await bench.pair()
    (silent,) = bench.install(faults.Timeout(20))
    assert await client.rest() == b""
    assert await comes_true(lambda: silent in bench.fired)


async def test_an_end_is_called_off_with_its_toxic(bench: Bench) -> None:
    """A Timeout removed before its end closes no connection that lost no data."""
    client, server = await bench.pair()
    (silent,) = bench.install(faults.Timeout(AGES))
    bench.proxy.remove(silent)
    await server.send(b"well")
    assert await client.receive(4) == b"well"


async def test_a_reset_that_is_undone_in_time_still_ends_what_lost_bytes(bench: Bench) -> None:
    """A connection that lost bytes to ResetPeer is still reset when the toxic is removed early."""
    client, server = await bench.pair()
    quiet, _ = await bench.pair()
    (number,) = bench.install(faults.ResetPeer(AGES))
    await server.send(b"swallowed")
    (living, _) = bench.links
    assert await comes_true(lambda: living.streams["downstream"].passed == 9)
    bench.proxy.remove(number)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert len(bench.links) == 1
    assert quiet.waiting() == b""


async def test_a_connection_is_closed_in_time_though_its_client_reads_nothing(bench: Bench) -> None:
    """A Timeout closes a connection in time even if the client does not read the pending bytes."""
    client, server = await bench.pair(receives=4096)
    sending = asyncio.create_task(server.send(bytes(KERNEL)))
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["downstream"]._writes)
    bench.install(faults.Timeout(1))
    assert await comes_true(lambda: bench.links == [])
    with pytest.raises(ConnectionError):
        await sending
    assert client.sock.fileno() >= 0


async def test_reset_peer_is_a_reset(bench: Bench) -> None:
    """ResetPeer gives the client ECONNRESET, on open and on new connections."""
    client, _ = await bench.pair()
    bench.install(faults.ResetPeer())
    for end in (client, await bench.client()):
        with pytest.raises(ConnectionResetError) as caught:
            await end.receive(1)
        assert caught.value.errno == errno.ECONNRESET
    assert await comes_true(lambda: bench.links == [])


async def test_reset_peer_lets_its_bytes_pass_first(bench: Bench) -> None:
    """ResetPeer lets exactly `after_bytes` bytes arrive before the reset."""
    bench.install(faults.ResetPeer(0, 5))
    client, server = await bench.pair()
    await server.send(b"0123456789")
    assert await client.receive(5) == b"01234"
    with pytest.raises(ConnectionResetError):
        await client.receive(1)


async def test_half_close_is_an_end_to_one_side_only(bench: Bench) -> None:
    """HalfClose ends the client's stream after its bytes; the server still receives, but what it sends is lost."""
    (number,) = bench.install(faults.HalfClose(2))
    client, server = await bench.pair()
    await server.send(b"ok, and more")
    assert await client.rest() == b"ok"
    for question in (b"are", b"you", b"there"):
        await client.send(question)
        assert await server.receive(len(question)) == question
        await server.send(b"yes!")
    assert len(bench.links) == 1
    bench.proxy.remove(number)
    assert bench.links == []
    with contextlib.suppress(ConnectionResetError):  # if its last data was not read yet
        assert await server.rest() == b""


async def test_half_close_upstream(bench: Bench) -> None:
    """HalfClose upstream ends the server's incoming stream, while the client still receives."""
    client, server = await bench.pair()
    bench.install(faults.HalfClose(stream="upstream"))
    assert await server.rest() == b""
    await client.send(b"nobody hears this")
    await server.send(b"a long time later")
    assert await client.receive(17) == b"a long time later"


async def test_limit_data_closes_after_its_bytes(bench: Bench) -> None:
    """LimitData lets exactly its number of bytes arrive before the end."""
    bench.install(faults.LimitData(3))
    client, server = await bench.pair()
    await server.send(b"abcdef")
    assert await client.rest() == b"abc"
    assert await comes_true(lambda: bench.links == [])


async def test_slow_close_holds_the_end_back(bench: Bench) -> None:
    """SlowClose delays the server's end, at most until it is removed, but not its data."""
    (number,) = bench.install(faults.SlowClose(AGES))
    client, server = await bench.pair()
    await server.send(b"done")
    server.sock.close()
    assert await client.receive(4) == b"done"
    assert await comes_true(lambda: bench.fired == [number])
    with pytest.raises(BlockingIOError):
        client.sock.recv(1)
    bench.proxy.remove(number)
    assert await client.rest() == b""


# refused and silent addresses


async def test_down_ends_connections_and_refuses_new_ones(bench: Bench) -> None:
    """Down acts only once armed: it ends connections and refuses new ones; undone, the same address works again."""
    client, server = await bench.pair()
    port = bench.proxy.port
    await bench.proxy.down(True)
    await client.send(b"?")
    assert await server.receive(1) == b"?"
    bench.proxy.arm()
    await bench.proxy.settle()
    assert await client.rest() == b""
    assert await server.rest() == b""
    assert (bench.links, refuses(port)) == ([], True)
    await bench.take_down(False)
    assert bench.proxy.port == port
    client, server = await bench.pair()
    await client.send(b"!")
    assert await server.receive(1) == b"!"


async def test_a_black_hole_holds_what_is_said_until_it_ends(bench: Bench) -> None:
    """In a black hole open connections are silent and new ones hang; undone, all go on and nothing is lost."""
    client, server = await bench.pair()
    await bench.silence(True)
    await client.send(b"anybody?")
    await server.send(b"nobody.")
    connecting = asyncio.create_task(bench.client())
    await asyncio.wait([connecting], timeout=0.1)
    assert (connecting.done(), server.waiting(), client.waiting()) == (False, b"", b"")
    assert len(bench.links) == 1
    await bench.silence(False)
    assert await server.receive(8) == b"anybody?"
    assert await client.receive(7) == b"nobody."
    new = await connecting
    await new.send(b"me too")
    assert await (await bench.accepted()).receive(6) == b"me too"


async def test_a_connection_that_is_just_being_made_is_silent_too(bench: Bench) -> None:
    """A client accepted before the black hole and connected to the server after it starts is silent too."""
    theirs, accepted = socket.socketpair()
    with theirs:
        client = End(theirs)
        await client.send(b"hello?")
        bench.proxy._accepted(accepted)
        await bench.proxy.blackhole(True)
        bench.proxy.arm()
        server = await bench.accepted()
        await bench.proxy.settle()
        assert (len(bench.links), server.waiting()) == (1, b"")
        await bench.silence(False)
        assert await server.receive(6) == b"hello?"


async def test_what_was_due_in_the_black_hole_leaves_after_it(bench: Bench) -> None:
    """Bytes whose latency ran out during a black hole arrive when it ends."""
    bench.install(faults.Latency(20))
    client, server = await bench.pair()
    await server.send(b"late")
    (living,) = bench.links
    downstream = living.streams["downstream"]
    assert await comes_true(lambda: downstream._bytes == 4)
    await bench.silence(True)
    assert await comes_true(lambda: timers() == 0)
    assert client.waiting() == b""
    await bench.silence(False)
    assert await client.receive(4) == b"late"


async def test_a_black_hole_leaves_no_connection_of_its_own(bench: Bench) -> None:
    """The connections that fill a black hole's queue reach neither the server nor a toxic when it ends."""
    (number,) = bench.install(faults.Latency(1))
    for _ in range(3):
        await bench.silence(True)
        await bench.silence(False)
    client, server = await bench.pair()
    assert bench.proxy._toxics._installed[number].met.total() == 1
    await server.send(b"x")
    assert await client.receive(1) == b"x"
    with pytest.raises(BlockingIOError):
        bench.listener.accept()


async def test_connections_that_came_before_the_hole_was_full_are_served_after_it(bench: Bench) -> None:
    """A client that got into the kernel's queue is accepted when the black hole ends."""
    await bench.proxy.blackhole(True)
    bench.proxy.arm()
    client = await bench.client()  # before the queue is filled
    await bench.proxy.settle()
    await client.send(b"patience")
    await bench.silence(False)
    assert await (await bench.accepted()).receive(8) == b"patience"


async def test_a_server_that_dies_while_the_hole_opens_refuses(bench: Bench) -> None:
    """If the server dies while a black hole starts, its address refuses, and is silent once the server is back."""
    await bench.proxy.blackhole(True)
    bench.proxy.arm()
    settling = asyncio.create_task(bench.proxy.settle())
    await asyncio.sleep(0.001)
    await bench.proxy.refuse()
    await settling
    assert refuses(bench.proxy.port)
    await bench.proxy.accept()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await bench.client()
    await bench.silence(False)
    await bench.pair()


async def test_down_and_black_hole_together(bench: Bench) -> None:
    """Down takes precedence over a black hole: the address refuses, then is silent, then works, as each is undone."""
    await bench.silence(True)
    await bench.take_down(True)
    assert refuses(bench.proxy.port)
    await bench.take_down(False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await bench.client()
    await bench.silence(False)
    await bench.pair()


async def test_a_client_that_was_just_accepted_when_the_server_died_is_closed(bench: Bench) -> None:
    """A client not yet connected to a dying server is closed with the others (a leaked socket would be a warning)."""
    client, accepted = socket.socketpair()
    with client:
        bench.proxy._accepted(accepted)
        await bench.proxy.refuse()
        assert await comes_true(lambda: accepted.fileno() < 0)
        assert client.recv(1) == b""


# the death of the server


@dataclass(frozen=True)
class Holding(Toxic):
    """Holds everything back forever."""

    backends: ClassVar[tuple[str, ...]] = ()

    def pipe(self, flow: Flow) -> Pipe:
        return _Holding()

    @classmethod
    def samples(cls, timeout: float) -> list[Any]:
        return []


class _Holding(Pipe):
    def data(self, piece: Piece) -> list[Piece]:
        return [piece.later(AGES)]

    def ended(self, piece: Piece) -> list[Piece]:
        return [piece.later(AGES)]


STATES: dict[str, Callable[[Bench], Awaitable[Any]]] = {
    "nothing": lambda bench: asyncio.sleep(0),
    "down": lambda bench: bench.take_down(True),
    "black hole": lambda bench: bench.silence(True),
}
TOXICS = [
    faults.Latency(AGES),
    faults.Latency(5, 5),
    faults.Bandwidth(0.001),
    faults.Slicer(1, 0, 1000),
    faults.SlowClose(AGES),
    faults.Timeout(0),
    faults.Timeout(AGES),
    faults.ResetPeer(AGES),
    faults.ResetPeer(0, 100),
    faults.LimitData(100),
    faults.HalfClose(),
    faults.Corrupt(),
    faults.PacketLoss(0.5),
    faults.Latency(AGES, when="nobody asks this"),
    Holding(),
]


@pytest.mark.parametrize("toxic", TOXICS, ids=repr)
async def test_the_death_of_a_server_leaves_nothing(bench: Bench, toxic: Toxic) -> None:
    """When a server dies, whatever toxics hold or have planned on both streams, no open file, timer or task is left;
    the address refuses, and works again once the server is back.
    """
    await _dies(bench, lambda: asyncio.sleep(0, bench.install(toxic, _turned(toxic))))


@pytest.mark.parametrize("state", STATES)
async def test_the_death_of_a_server_leaves_nothing_whatever_the_door(bench: Bench, state: str) -> None:
    """The same holds whether the address is open, refuses, or is a black hole."""
    await _dies(bench, lambda: STATES[state](bench))


def _turned(toxic: Toxic) -> Toxic:
    return type(toxic)(**{**vars(toxic), "stream": "upstream"})


async def _dies(bench: Bench, disturb: Callable[[], Awaitable[Any]]) -> None:
    before = timers()
    pairs = [await bench.pair() for _ in range(5)]
    assert await comes_true(lambda: len(bench.links) == 5)
    asked = opened(), watched()
    await disturb()
    for client, server in pairs:
        with contextlib.suppress(OSError):
            await client.send(bytes(5000))
            await server.send(bytes(5000))
    pairs[0][0].sock.close()
    pairs[1][1].sock.close()
    for _ in range(20):  # so that bytes are held somewhere
        await asyncio.sleep(0)
    await bench.proxy.refuse()
    assert bench.links == []
    assert refuses(bench.proxy.port)
    assert timers() == before
    for client, server in pairs:
        for end in (client, server):
            with contextlib.suppress(OSError):
                await end.rest()
            end.sock.close()
    # Per connection, two ends of ours and two of the proxy's are closed, and the proxy's two are no longer polled.
    assert (opened(), watched()) <= (asked[0] - 4 * 5, asked[1] - 2 * 5)
    await bench.take_down(False)
    await bench.silence(False)
    for number in list(bench.proxy._toxics._installed):
        bench.proxy.remove(number)
    await bench.proxy.accept()
    client, server = await bench.pair()
    await server.send(b"back")
    assert await client.receive(4) == b"back"


# real clients through the proxies of real labs


async def ran(*command: str, **variables: str) -> str:
    """The output of a program; asserts that it succeeded."""
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text
    return text


def pgbench(port: int, *options: str) -> list[str]:
    """A command line of pgbench."""
    return [str(postgres_home() / "bin/pgbench"), "-h", "127.0.0.1", "-p", str(port), "-U", "labkit", *options]


async def test_pgbench_through_the_proxy() -> None:
    """pgbench, with the simple protocol and with prepared statements, meets no error."""
    async with Lab("postgres") as lab:
        port, password = lab._shards[1].port, urlsplit(lab.urls[1]).password or ""
        await ran(*pgbench(port, "-i", "-q", "-s", "1", "postgres"), PGPASSWORD=password)
        for protocol in ("simple", "prepared"):
            told = pgbench(port, "-n", "-S", "-M", protocol, "-c", "8", "-t", "250", "postgres")
            said = await ran(*told, PGPASSWORD=password)
            assert "number of transactions actually processed: 2000/2000" in said
            assert "number of failed transactions: 0 (0.000%)" in said
        assert (await lab.read()).complete


@pytest.mark.redis_benchmark
async def test_redis_benchmark_through_the_proxy() -> None:
    """redis-benchmark, plain, pipelined, with large values and with many clients, meets no error."""
    async with Lab("redis") as lab:
        password = urlsplit(lab.urls[1]).password or ""
        for options in ("-n 2000", "-n 4000 -P 32", "-n 200 -d 65536", "-n 1000 -c 400"):
            command = ["redis-benchmark", "-p", str(lab._shards[1].port), "--csv", *options.split()]
            said = await ran(*command, "-a", password, "-t", "set,get,incr,lrange_100")
            assert "error" not in said.lower()
            assert {'"SET"', '"GET"', '"INCR"'} <= {line.split(",")[0] for line in said.splitlines()}
        assert (await lab.read()).complete


# updated where they act


async def test_an_updated_toxic_acts_at_once_in_its_place(bench: Bench) -> None:
    """What it held back is sent at once, what comes later is treated as updated, and toxics keep their order: data cut
    to four bytes by the second toxic arrives late by the first.
    """
    late, cut = bench.install(faults.Latency(AGES), faults.LimitData(4))
    client, server = await bench.pair()
    await server.send(b"01")
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["downstream"]._bytes == 2)
    bench.proxy.change(late, faults.Latency(1))
    assert await client.receive(2) == b"01"
    bench.proxy.change(late, faults.Latency(AGES))
    assert list(living.streams["downstream"]._chain) == [late, cut]
    await server.send(b"2345")
    assert await comes_true(lambda: living.streams["downstream"]._bytes == 2)
    assert (client.waiting(), living.closed) == (b"", False)
    bench.proxy.remove(late)
    assert await client.rest() == b"23"


async def test_an_updated_limit_counts_what_has_passed(bench: Bench) -> None:
    """A limit of data or of bytes before a half close goes on counting; one that is reached ends the connection."""
    for before, after in (
        (faults.LimitData(100), faults.LimitData(5)),
        (faults.HalfClose(100), faults.HalfClose(5)),
    ):
        (number,) = bench.install(before)
        client, server = await bench.pair()
        await server.send(b"abc")
        assert await client.receive(3) == b"abc"
        bench.proxy.change(number, after)
        await server.send(b"defg")
        assert await client.rest() == b"de"
        bench.proxy.remove(number)
        assert await comes_true(lambda: bench.links == [])
    (number,) = bench.install(faults.LimitData(100))
    client, server = await bench.pair()
    await server.send(b"abc")
    assert await client.receive(3) == b"abc"
    bench.proxy.change(number, faults.LimitData(3))
    assert await client.rest() == b""


async def test_an_updated_timeout_closes_only_what_is_removed(bench: Bench) -> None:
    """A connection that lost data stays silent through updates, the time of its end changes, and removing the toxic
    closes it.
    """
    (number,) = bench.install(faults.Timeout(AGES))
    client, server = await bench.pair()
    await server.send(b"lost")
    (living,) = bench.links
    assert await comes_true(lambda: living.streams["downstream"].received == 4)
    bench.proxy.change(number, faults.Timeout(0))
    await server.send(b"lost too")
    assert await comes_true(lambda: living.streams["downstream"].received == 12)
    assert (client.waiting(), living.closed) == (b"", False)
    bench.proxy.remove(number)
    assert await client.rest() == b""
    (number,) = bench.install(faults.Timeout(AGES))
    client, _ = await bench.pair()
    bench.proxy.change(number, faults.Timeout(1))
    assert await client.rest() == b""


async def test_an_updated_share_of_connections_is_drawn_anew(bench: Bench) -> None:
    """Connections that a toxic no longer hits pass everything, those that it hits now do not; and it counts anew which
    of them it fired on.
    """
    (number,) = bench.install(faults.Timeout(0))
    pairs = [await bench.pair() for _ in range(4)]
    bench.proxy.change(number, faults.Timeout(0, toxicity=0))
    for client, server in pairs:
        await server.send(b"passes")
        assert await client.receive(6) == b"passes"
    assert bench.fired == []
    bench.proxy.change(number, faults.Timeout(0, toxicity=1))
    for _, server in pairs:
        await server.send(b"lost")
    assert await comes_true(lambda: bench.fired == [number] * 4)
    with pytest.raises(KeyError):
        bench.proxy.change(number + 1, faults.Timeout(0))


# addresses, and what passed


async def test_a_chosen_port_is_held_by_one_door_and_free_at_once_after_it() -> None:
    """A second door at the port is refused while the first one listens, refuses or is a black hole, though both belong
    to one user; once it is closed, the port can be taken again, though the kernel remembers its connections.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = probe.getsockname()
    for _ in range(2):
        made = Bench(*listening(None), listen=where)
        await made.proxy.accept()
        for state in STATES.values():
            await state(made)
            with pytest.raises(OSError, match="in use"):
                Proxy("", listen=where)
        await made.take_down(False)
        await made.silence(False)
        client, server = await made.pair()
        server.sock.close()
        assert await client.rest() == b""
        await made.aclose()


@pytest.mark.parametrize("listen", [("::1", 0), ("127.0.0.1", 0)], ids=repr)
async def test_it_is_at_either_family_and_dials_names(listen: tuple[str, int]) -> None:
    """A proxy listens at IPv4 or IPv6, where a black hole and a reset are what they should be, and looks up the name of
    its server.
    """
    listener, where = listening(None)
    made = Bench(listener, ("localhost", where[1]), listen=listen)  # type: ignore[arg-type]
    await made.proxy.accept()
    client, server = await made.pair()
    await client.send(b"?")
    assert await server.receive(1) == b"?"
    made.install(faults.ResetPeer())
    with pytest.raises(ConnectionResetError):
        await client.receive(1)
    await made.silence(True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await made.client()
    await made.aclose()
    assert made.proxy.address[0] == listen[0]


async def test_it_moves_and_turns_to_another_server(bench: Bench) -> None:
    """Both end its connections; it stays where it is if it cannot move."""
    client, _ = await bench.pair()
    old, taken = bench.proxy.address, Proxy("")
    with pytest.raises(OSError, match="in use"):
        await bench.proxy.move(taken.address)
    assert (await client.rest(), bench.proxy.address) == (b"", old)
    await taken.aclose()
    client, _ = await bench.pair()
    await bench.proxy.move(taken.address)
    assert (await client.rest(), bench.proxy.address, refuses(old[1])) == (b"", taken.address, True)
    client, _ = await bench.pair()
    other, upstream = listening(None)
    await bench.proxy.redirect(upstream)
    assert await client.rest() == b""
    await bench.client()
    (await asyncio.get_running_loop().sock_accept(other))[0].close()
    other.close()


async def test_it_counts_the_bytes_that_pass(bench: Bench) -> None:
    """Bytes received and sent in each direction, of living and of ended connections; a limit makes the difference."""
    bench.install(faults.LimitData(2))
    client, server = await bench.pair()
    await client.send(b"four")
    assert await server.receive(4) == b"four"
    assert bench.proxy.traffic() == {"upstream": (4, 4), "downstream": (0, 0)}
    await server.send(b"three")
    assert await client.rest() == b"th"
    assert await comes_true(lambda: bench.links == [])
    assert bench.proxy.traffic() == {"upstream": (4, 4), "downstream": (5, 2)}
