"""Stand-ins for what the core talks to: misbehaving sources, scripted drivers, tiny servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from asyncpg.exceptions import ConnectionDoesNotExistError

from labkit.reader import ShardReader
from labkit.report import ShardReport, Status
from labkit.result import ReadResult
from labkit.router import CLASSIC, RangeRouter
from labkit.shards.base import Ask, Shard
from labkit.shards.memory import MemoryShard
from labkit.shards.postgres.columns import CATALOGUE
from labkit.shards.postgres.wire import Dialer, Line
from tests.support.lateness import MARGIN, kept, mark

TIMEOUT = 0.3
"""Seconds: short, since reads of a shard that hangs reach it."""
AMPLE = 10.0
"""Seconds, for reads that must not, however busy the machine is."""
SECRET = "s3cr3t"


class _Hang:
    def __repr__(self) -> str:
        return "HANG"  # the same in every process, since test names contain it


HANG = _Hang()
"""In place of a reply: none ever arrives."""


def rows_of(shard: int, router: RangeRouter = CLASSIC) -> list[tuple[int, str]]:
    """One row for every ID that `shard` owns."""
    return [(i, f"Test {i}") for low, high, owner in router.spans if owner == shard for i in range(low, high + 1)]


def classic_shards(**replaced: Any) -> dict[int, Any]:
    """Full `MemoryShard`s for `CLASSIC`; `s2=…` replaces shard 2 with another source."""
    return {shard: replaced.get(f"s{shard}", MemoryShard(rows_of(shard))) for shard in CLASSIC.shards}


def classic_reader(timeout: float = TIMEOUT, **replaced: Any) -> ShardReader:
    """A reader of `classic_shards(**replaced)`."""
    return ShardReader(CLASSIC, classic_shards(**replaced), timeout=timeout)


async def turn_until(condition: Callable[[], bool], turns: int = 200) -> None:
    """Runs the event loop until `condition` holds, at most `turns` times; the caller asserts."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until `condition` holds, across network delays; raises `TimeoutError` if it does not."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def in_time(read: Awaitable[Any], within: float = TIMEOUT) -> Any:
    """The value of `read`, which must not outlive its deadline (seconds) by more than `MARGIN`, not counting time
    without a processor.
    """
    started, before = time.perf_counter(), mark()
    value = await read
    took, lost = time.perf_counter() - started, kept(before)
    assert took - lost <= within + MARGIN, f"took {took:.3f} s, of which {lost:.3f} s without a processor"
    return value


def seconds_for(status: Status) -> float:
    """The deadline of a read that must end with this status: short only if it is to be reached."""
    return TIMEOUT if status is Status.TIMEOUT else AMPLE


async def read_alone(
    shard: Shard,
    low: int | None = None,
    high: int | None = None,
    *,
    owned: tuple[int, int] = (1, 10),
    seconds: float = AMPLE,
) -> ReadResult:
    """One read of `shard` as a reader's only shard, in time; the reader stays open."""
    reader = ShardReader(RangeRouter({1: [owned]}), {1: shard}, timeout=seconds)
    return await in_time(reader.read(low, high), seconds)


async def report_of(shard: Shard, low: int | None = None, high: int | None = None, **kwargs: Any) -> ShardReport:
    """The report of `shard` in a read with `read_alone`."""
    return (await read_alone(shard, low, high, **kwargs)).reports[1]


class Meeting(MemoryShard):
    """Answers only once all parties of `barrier` have been queried."""

    def __init__(self, rows: list[tuple[int, str]], barrier: asyncio.Barrier) -> None:
        super().__init__(rows)
        self.barrier = barrier

    async def read(self, ask: Ask) -> Any:
        await self.barrier.wait()
        return await super().read(ask)


class Stubborn(MemoryShard):
    """Ignores its cancellation until `released`.

    It ends after 2 seconds in any case, so that a failing test does not hang the suite.
    """

    def __init__(self, rows: list[tuple[int, str]] = ()) -> None:
        super().__init__(rows)
        self.released = asyncio.Event()
        self.cancellations = 0

    async def read(self, ask: Ask) -> Any:
        asyncio.get_running_loop().call_later(2, self.released.set)
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
        return self.rows


class Blocking(MemoryShard):
    """Lets the others answer, blocks the event loop until after the deadline, then answers all the same."""

    async def read(self, ask: Ask) -> Any:
        await turn_until(lambda: False, turns=20)
        clock = asyncio.get_running_loop().time
        while clock() <= ask.deadline:
            pass
        return self.rows


class Custodian(MemoryShard):
    """Records `prepare` and `aclose`; `on_close` is raised by `aclose`."""

    def __init__(self, *args: Any, on_close: Exception | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: list[float] = []
        self.closed = 0
        self.on_close = on_close

    def prepare(self, timeout: float) -> None:
        self.prepared.append(timeout)

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1
        if self.on_close is not None:
            raise self.on_close


class Answering(MemoryShard):
    """Returns `answer` unchanged, whatever the query."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    async def read(self, ask: Ask) -> Any:
        return self.answer


class FakePostgres:
    """A scripted Postgres at the level of asyncpg, under a real SQLAlchemy.

    `on_connect` is None, an exception, or `HANG`. `replies` are used one per query, the last one repeatedly: rows, an
    exception, or `HANG`.
    """

    def __init__(self) -> None:
        self.on_connect: Any = None
        self.replies: list[Any] = [[]]
        self.connections: list[FakeConnection] = []
        self.settings: list[dict[str, Any]] = []
        self.types = {"id": 23, "name": 1043}
        """The table's columns, with the OIDs of their types in pg_type: integer and character varying."""
        self.listener_states: list[Any] = []
        """The table's state for a listener, one reply per beat: `{"oid": …, "tells": …}` or an exception."""

    @property
    def width(self) -> int:
        """Bytes per ID."""
        return {21: 2, 23: 4, 20: 8}[self.types["id"]]

    async def connect(self, *_args: Any, loop: Dialer, **kwargs: Any) -> FakeConnection:
        self.settings.append(kwargs)
        if self.on_connect is HANG:
            await asyncio.get_running_loop().create_future()
        if self.on_connect is not None:
            raise self.on_connect
        connection = FakeConnection(self)
        connection.line = loop._line(asyncio.Protocol)
        connection.line.connection_made(connection.transport)
        connection.line.logged_in(b"")
        self.connections.append(connection)
        return connection

    def catalogue(self) -> list[tuple[Any, ...]]:
        """The table's columns as the catalogue has them."""
        return [(name, oid, -1, 0, False, str(oid), oid, len(self.types)) for name, oid in self.types.items()]

    def next_reply(self) -> Any:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    @property
    def asked(self) -> list[tuple[str, tuple[Any, ...]]]:
        """(SQL, parameters) of every query of a shard but for the catalogue, the SQL in one line."""
        return [query for connection in self.connections for query in connection.asked]


class FakeConnection:
    """The part of `asyncpg.Connection` that SQLAlchemy and `PostgresShard` use, on a socket that carries nothing."""

    def __init__(self, server: FakePostgres) -> None:
        self.server = server
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.terminated = 0
        self.closed_gracefully = 0
        self.hanging: list[asyncio.Future[Any]] = []
        self._sockets = socket.socketpair()
        self.transport = SimpleNamespace(
            get_extra_info=lambda _name: self._sockets[0],
            abort=self.terminate,
            is_closing=self.is_closed,
            write=self._sockets[0].send,
        )
        self.line: Line
        self.named: dict[str, Any] = {}

    def is_closed(self) -> bool:
        return self._sockets[0].fileno() < 0

    def terminate(self) -> None:
        self.terminated += 1
        for sock in self._sockets:
            sock.close()
        self.line.connection_lost(None)
        for waiting in self.hanging:
            if not waiting.done():
                waiting.set_exception(ConnectionDoesNotExistError("connection was closed in the middle of operation"))

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        self.closed_gracefully += 1
        self.terminate()

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Never calls back: listeners on fakes are cancelled."""

    async def add_listener(self, _channel: str, _callback: Any) -> None:
        """Never notifies."""

    async def fetchrow(self, _sql: str, *_parameters: Any) -> Any:
        return await _replied(self.server.listener_states[0])

    def hang_up(self) -> None:
        """What a server does to end an idle connection."""
        self._sockets[1].close()

    async def prepare(self, sql: str, **_kwargs: Any) -> FakeStatement:
        return FakeStatement(self, sql)

    async def fetch(self, sql: str, *parameters: Any) -> Any:
        return await self.run(sql, parameters)

    async def copy_from_query(self, sql: str, *, output: Callable[[bytes], Awaitable[None]], format: str) -> None:  # noqa: A002 - asyncpg's signature
        """Sends a reply of bytes unchanged in one message, rows as COPY BINARY, one message per row."""
        reply = await self.run(f"COPY ({sql}) {format}", ())
        for content in [reply] if isinstance(reply, bytes) else copy_binary(reply, self.server.width):
            if not self.is_closed():
                self.line.data_received(b"d" + (4 + len(content)).to_bytes(4) + content)

    async def run(self, sql: str, parameters: tuple[Any, ...]) -> Any:
        if sql == CATALOGUE:
            return self.server.catalogue()
        self.asked.append((" ".join(sql.split()), parameters))
        reply = self.server.next_reply()
        if "relnatts" in sql and isinstance(reply, list):
            reply = [(*row, len(self.server.types)) for row in reply]
        if reply is HANG:
            self.hanging.append(asyncio.get_running_loop().create_future())
            return await self.hanging[-1]
        if isinstance(reply, BaseException):
            raise type(reply)(*reply.args)  # a new instance each time, as from a driver
        return reply


def copy_binary(rows: Iterable[tuple[int, str | None]], width: int = 4) -> Iterator[bytes]:
    """Rows in Postgres's COPY BINARY format with IDs of `width` bytes: header, one piece per row, trailer.

    Source: PostgreSQL documentation, COPY, "Binary Format".
    """
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for row_id, name in rows:
        text = None if name is None else name.encode()
        size = (-1 if text is None else len(text)).to_bytes(4, signed=True)
        yield b"\0\2" + width.to_bytes(4) + row_id.to_bytes(width, signed=True) + size + (text or b"")
    yield b"\xff\xff"


class FakeStatement:
    """The part of asyncpg's prepared statement that SQLAlchemy uses."""

    def __init__(self, connection: FakeConnection, sql: str) -> None:
        self._connection = connection
        self._sql = sql

    def get_attributes(self) -> list[Any]:
        types = self._connection.server.types
        return [SimpleNamespace(name=name, type=SimpleNamespace(oid=types.get(name, 25))) for name in ("id", "name")]

    async def fetch(self, *parameters: Any) -> Any:
        return await self._connection.run(self._sql, parameters)


class FakeRedis:
    """A scripted connection to Redis, which may be reopened: `shard._server._made = lambda: FakeRedis(…)`.

    `on_connect` is None, an exception, or `HANG`; `reply` is a list of members, an exception, or `HANG`.
    """

    def __init__(self, reply: Any = (), on_connect: Any = None) -> None:
        self.reply = reply
        self.on_connect = on_connect
        self.commands: list[tuple[Any, ...]] = []
        self.opened = 0
        self.hung_up = 0
        self.is_quiet = False
        self.lost: Exception | None = None

    async def open(self) -> None:
        await _replied(self.on_connect)
        self.opened += 1
        self.is_quiet = True

    async def is_usable(self) -> bool:
        return self.is_quiet

    def allow(self, limit: int) -> None:
        """Has no effect: the reply is scripted."""

    async def send_command(self, *command: Any) -> None:
        self.commands.append(command)
        self.is_quiet = False

    async def read_response(self) -> Any:
        reply = await _replied(self.reply)
        self.is_quiet = True
        return reply

    def hang_up(self) -> None:
        self.hung_up += 1


def taken(server: Any) -> int:
    """The number of a `RedisServer`'s connections in use on this event loop."""
    pool = server._pools.here()
    return len(pool._all) - len(pool._idle)


async def _replied(reply: Any) -> Any:
    if reply is HANG:
        await asyncio.get_running_loop().create_future()
    if isinstance(reply, BaseException):
        raise reply
    return reply


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[int]:
    """The port of a server on 127.0.0.1 that runs `script` for each connection and then closes it.

    On exit every connection must have ended, so a client that leaves a socket open fails its test here.
    """
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        await eventually(lambda: all(task.done() for task in tasks))
    finally:
        server.close()


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """A server that accepts and reads, but sends nothing until the client hangs up."""
    await reader.read(-1)


async def closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """A server that accepts and closes."""


async def closed_port() -> int:
    """A port on which nothing listens."""
    async with serving(closing) as port:
        return port


def resp(*replies: bytes | None) -> Script:
    """A Redis server that sends one reply per command, in order, and closes after the last; None sends nothing."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await resp_command(reader)
            if reply is None:
                await silent(reader, writer)
                return
            writer.write(reply)
            await writer.drain()
        # The last bytes must leave before the socket is cut.
        writer.write_eof()
        await reader.read(-1)

    return script


async def resp_command(reader: asyncio.StreamReader) -> list[bytes]:
    """The words of the client's next command."""
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


def pg_refusal(sqlstate: str, message: str) -> Script:
    """A Postgres server that answers the startup message with an error.

    Source of the layout: PostgreSQL documentation, "Message Formats", ErrorResponse.
    """
    fields = {b"S": "FATAL", b"V": "FATAL", b"C": sqlstate, b"M": message}
    body = b"".join(key + text.encode() + b"\0" for key, text in fields.items()) + b"\0"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        if size == 8:  # SSLRequest: refused
            await reader.readexactly(4)
            writer.write(b"N")
            size = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(size - 4)
        writer.write(b"E" + (len(body) + 4).to_bytes(4) + body)
        writer.write_eof()
        await reader.read(-1)

    return script
