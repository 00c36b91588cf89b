"""A layer between asyncpg and the event loop that bounds the work of a connection to a Postgres server.

asyncpg takes the event loop as an argument. `Dialer` acts as that loop, and `Line` as its transport. So SCRAM, which is
expensive, is done here, off the loop; its last message carries the first query; bytes are counted; and no socket stays
open, however it ends.
Source: PostgreSQL documentation, "Message Formats".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import asyncpg

from labkit._loops import cut
from labkit._resolve import connected
from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.postgres.messages import Messages, check, whole
from labkit.shards.postgres.scram import MECHANISM, Scram, derived
from labkit.shards.secrets import OneTime
from labkit.tables import InvalidAnswer

if TYPE_CHECKING:
    from labkit.shards.postgres.copy import CopyDecoder

__all__ = ["DESCRIPTION_LIMIT", "LOGIN_LIMIT", "Dialer", "Line", "preparing"]

LOGIN_LIMIT = 1 << 16
"""Most bytes that a server may send before a session begins; it sends about a thousand. In tiny messages, the worst
case, they take the event loop some twenty milliseconds."""
DESCRIPTION_LIMIT = 1 << 15
"""Most bytes for the description of a statement's columns; two columns take a few hundred. asyncpg parses it at once,
on the event loop, which takes a few milliseconds at this size."""
_OK, _CLEARTEXT, _MD5, _SASL, _CONTINUE, _FINAL = 0, 3, 5, 10, 11, 12
"""Kinds of authentication request (message R)."""
_ASK_PASSWORD = b"R" + (8).to_bytes(4) + _CLEARTEXT.to_bytes(4)
_PROOF = b"p"
"""The message type of passwords and SASL responses."""


def preparing(statement: str, name: str) -> bytes:
    """The bytes that asyncpg sends to prepare a statement: Parse, Describe, Flush."""
    named, text = name.encode() + b"\0", statement.encode() + b"\0"
    return _message(b"P", named + text + bytes(2)) + _message(b"D", b"S" + named) + _message(b"H")


def _message(kind: bytes, content: bytes = b"") -> bytes:
    return kind + (4 + len(content)).to_bytes(4) + content


class Dialer:
    """The running event loop, as one `asyncpg.connect` sees it. Open lines are added to `lines`.

    `query` is the first query, as asyncpg will send it; empty if unknown. See `_Login`.
    """

    def __init__(self, lines: set[Line], query: bytes = b"") -> None:
        self._loop = asyncio.get_running_loop()
        self._open, self._query = lines, query
        self._lines: list[Line] = []
        self._settled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Line, Any]:
        """As in an event loop, but with names resolved by `connected`."""
        line = self._line(factory)
        await self._loop.create_connection(lambda: line, sock=await connected(host, port))
        return line, line.inner

    async def create_unix_connection(self, factory: Callable[[], Any], path: str) -> tuple[Line, Any]:
        """As in an event loop."""
        line = self._line(factory)
        await self._loop.create_unix_connection(lambda: line, path)
        return line, line.inner

    async def start_tls(self, line: Line, _protocol: Any, context: Any, *, server_hostname: str) -> Line:
        """As in an event loop."""
        line.transport = await self._loop.start_tls(line.transport, line, context, server_hostname=server_hostname)
        return line

    def settled(self) -> Line:
        """The line that asyncpg chose. From now on it cannot open others, as it would to cancel a query."""
        self._settled = True
        return next((line for line in self._lines if line.is_open), self._lines[-1])

    def abort(self) -> None:
        """Closes whatever asyncpg left open when it failed."""
        for line in self._lines:
            line.abort()

    @property
    def failure(self) -> ShardFailure | None:
        """Why a line was aborted by this side."""
        return next((line.failure for line in self._lines if line.failure), None)

    @property
    def sent(self) -> list[bytes]:
        """See `Line.sent`."""
        return [secret for line in self._lines for secret in line.sent]

    def _line(self, factory: Callable[[], Any]) -> Line:
        if self._settled:
            raise ConnectionRefusedError("no connection is opened to cancel a query: the query's own is closed")
        self._lines.append(Line(factory(), self._open, self._query))
        return self._lines[-1]


class Line(asyncio.Protocol):
    """One connection: a protocol for the event loop, and a transport for `inner`, asyncpg's protocol."""

    def __init__(self, inner: Any, lines: set[Line], query: bytes = b"") -> None:
        self.inner, self._open = inner, lines
        self.transport: Any = None
        self.failure: ShardFailure | None = None
        self.heard = False
        """Whether the server sent something while idle, usually its final error."""
        self.gone = asyncio.get_running_loop().create_future()
        self._received, self._limit, self._answer, self._last = 0, LOGIN_LIMIT, "an answer", b""
        self._login: _Login | _Early | None = _Login(self, query)
        self._messages = Messages()
        self._copy: CopyDecoder | None = None
        self._asked = True
        self.sent: list[bytes] = []
        """The credentials sent: the password, wherever asyncpg found it, or what was derived from it."""

    def ask(self, limit: int) -> None:
        """Announces a query, whose answer may have `limit` bytes."""
        self._received, self._limit, self._answer, self._asked = 0, limit, "an answer", True

    @contextlib.contextmanager
    def describing(self) -> Iterator[None]:
        """During the block the server describes columns, in `DESCRIPTION_LIMIT` bytes; then the old limit applies."""
        limit = self._limit
        self._received, self._limit, self._answer = 0, DESCRIPTION_LIMIT, "a description of columns"
        yield
        self.ask(limit)

    @contextlib.contextmanager
    def copying(self, decoder: CopyDecoder) -> Iterator[None]:
        """During the block the rows of the answer to COPY go to the decoder, and everything else to asyncpg."""
        self._copy = decoder
        try:
            yield
        finally:
            self._copy = None

    def rest(self) -> None:
        """Marks the line idle: nothing is expected until the next `ask`."""
        self._asked, self._last = False, b""

    @property
    def was_idle_too_long(self) -> bool:
        """Whether the server's last message was idle_session_timeout: it crossed with the query, which was not read."""
        return self._last.startswith(b"E") and b"\0C57P05\0" in self._last

    @property
    def is_open(self) -> bool:
        """Whether it is connected, and not closing."""
        return self.transport is not None and not self.gone.done() and not self.transport.is_closing()

    def abort(self) -> None:
        """Closes the socket immediately."""
        if self.transport is not None:
            self.transport.abort()

    def cut(self) -> None:
        """Closes the socket without the event loop, unread; see `labkit._loops.cut`."""
        if self.transport is not None:
            cut(self.transport)

    def fail(self, status: Status, cause: str) -> None:
        """Aborts the line, with a failure that is reported instead of asyncpg's."""
        self.failure = ShardFailure(status, cause)
        self.abort()

    # For the event loop:

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._open.add(self)
        self.inner.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._last = data
        if self.failure is not None:
            return
        if self._received > self._limit:
            self.fail(Status.INVALID, f"{self._answer} of more than {self._limit} bytes, the limit")
            return
        if not self._asked:
            self.heard = True
        if self._login is None:
            self.give(data, self._validated)
        elif isinstance(self.inner, asyncpg.protocol.Protocol):
            self._login.feed(data)
        else:
            self.inner.data_received(data)

    def give(self, data: bytes, validated: Callable[[bytes], bytes]) -> None:
        """Passes what `validated` returns on to asyncpg; fails if it raises `ValueError` or `InvalidAnswer`."""
        try:
            given = validated(data)
        except ValueError as error:
            self.fail(Status.INVALID, f"the answer cannot be understood: {error}")
        except InvalidAnswer as error:
            self.fail(Status.INVALID, str(error))
        else:
            if given:
                self.inner.data_received(given)

    def _validated(self, data: bytes) -> bytes:
        """What of the next bytes is for asyncpg."""
        piece = self._messages.follow(data)
        return piece.data if self._copy is None else self._copy.feed(piece)

    def eof_received(self) -> bool | None:
        ended: bool | None = self.inner.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if not self.gone.done():
            self.gone.set_result(None)
        if isinstance(self._login, _Early):
            self._login.feed(b"")  # asyncpg may have sent its query
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    # For asyncpg:

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: Any) -> None:
        if self._login is None or not self._login.intercepts(data):
            self.transport.write(data)

    def set_protocol(self, protocol: Any) -> None:
        self.inner = protocol

    def begin(self, query: bytes, data: bytes) -> None:
        """The session has begun, and `query` was sent, unless empty; `data` are the bytes after the login."""
        if query:
            self._login = _Early(self, query, data)
        else:
            self.logged_in(data)

    def logged_in(self, data: bytes) -> None:
        """`data`, and all that follows, is for asyncpg."""
        self._login = None
        self.write = self.transport.write  # type: ignore[method-assign]
        self.data_received(data)


class _Login:
    """Handles the server's messages until the session begins: SCRAM here, everything else by asyncpg.

    `query` is sent right after the proof, which saves a round trip. So a server sees this one query before it has
    proved that it knows the password; with MD5 or cleartext no server ever proves it. The answer is held back until
    it has.
    """

    def __init__(self, line: Line, query: bytes) -> None:
        self._line, self._query, self._rest = line, query, b""
        self._scram, self._due = Scram(), _SASL
        self._password: str | None = None
        self._capturing, self._asked = False, b""
        self._loop = asyncio.get_running_loop()

    def feed(self, data: bytes) -> None:
        data, end = self._rest + data, 0
        for message, end in whole(data):
            self._take(message)
            if self._line.failure is not None:
                return
            if message[:1] == b"Z":
                self._line.begin(self._asked, data[end:])
                return
        self._rest = data[end:]

    def intercepts(self, data: Any) -> bool:
        """Whether `data`, written by asyncpg, is the password requested by `_capture`, which must not be sent."""
        said = bytes(data)
        if said[:1] == _PROOF:
            self._line.sent.append(said[5:].rstrip(b"\0"))
        if self._capturing:
            self._password = said[5:-1].decode()
        return self._capturing

    def _take(self, message: bytes) -> None:
        """Answers a message, refuses it, or passes it on."""
        kind = int.from_bytes(message[5:9]) if message[:1] == b"R" else None
        content = message[9:]
        if kind == self._due == _SASL and MECHANISM in content.split(b"\0"):
            self._begin()
        elif kind == self._due == _CONTINUE:
            self._derive(content)
        elif kind == self._due == _FINAL:
            self._verify(content)
        elif kind in (_CONTINUE, _FINAL) or (kind == _SASL != self._due):
            self._refuse("the server violated the SCRAM protocol")  # it would crash asyncpg, and the process
        elif self._due in (_CONTINUE, _FINAL) and (kind == _OK or message[:1] == b"Z"):
            self._refuse("the server accepted the login without proving that it knows the password")
        else:
            if kind == _MD5:
                self._capture()  # to know the secret
            self._line.give(message, check)

    def _capture(self) -> None:
        """Obtains the password from asyncpg, wherever it found it, by a fake request for a cleartext password."""
        self._capturing = True
        self._line.inner.data_received(_ASK_PASSWORD)
        self._capturing = False

    def _begin(self) -> None:
        self._capture()
        self._due = _CONTINUE
        first = self._scram.first()
        self._say(MECHANISM + b"\0" + len(first).to_bytes(4) + first)

    def _derive(self, challenge: bytes) -> None:
        self._due = _FINAL
        try:
            key = derived(self._password or "", *self._scram.challenged(challenge))
        except ValueError as error:
            self._refuse(str(error))
            return
        key.add_done_callback(self._tell)

    def _tell(self, key: Future[bytes]) -> None:
        """Called on the thread that derived the key."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._prove, key)

    def _prove(self, key: Future[bytes]) -> None:
        if self._line.is_open:
            self._asked = self._query
            self._say(self._scram.final(key.result()), self._asked)

    def _verify(self, message: bytes) -> None:
        self._due = _OK
        if not self._scram.is_signed(message):
            self._refuse("the server does not know the password: its signature is wrong")

    def _say(self, content: bytes, behind: bytes = b"") -> None:
        if b",p=" in content:
            self._line.sent.append(OneTime(content.rpartition(b",p=")[2]))
        self._line.transport.write(_message(_PROOF, content) + behind)

    def _refuse(self, cause: str) -> None:
        self._line.fail(Status.ERROR, cause)


class _Early:
    """Holds the answer to the query that was sent early until asyncpg sends that query. If asyncpg sends another one
    first, the early answer is discarded.
    """

    def __init__(self, line: Line, query: bytes, answer: bytes) -> None:
        self._line, self._query, self._answer = line, query, answer
        self._asked = self._skipping = False

    def feed(self, data: bytes) -> None:
        self._answer += data
        if self._skipping:
            ends = [end for message, end in whole(self._answer) if message[:1] == b"Z"]
            if not ends:
                return
            self._answer = self._answer[ends[0] :]
        if self._asked:
            self._asked = False
            self._line.logged_in(self._answer)

    def intercepts(self, data: Any) -> bool:
        """Whether `data`, written by asyncpg, is that query, which must not be sent again."""
        self._asked = True
        self._skipping = bytes(data) != self._query
        if self._skipping:
            self._line.transport.write(_message(b"S"))
        asyncio.get_running_loop().call_soon(self.feed, b"")  # asyncpg accepts no answer while it writes
        return not self._skipping
