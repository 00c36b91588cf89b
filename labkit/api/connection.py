"""A client's connection: uvicorn's, on httptools, with a bound on all that a client can have it hold or wait for.

A head has a size and a time; a body is passed over, since nothing here is told by one; requests behind one that is
being answered wait, and are few; who does not take its answer is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labkit.api.bodies import to_json
from labkit.api.headers import NEVER_STORED, RETRY
from labkit.api.limits import Limits
from labkit.api.problems import MEDIA_TYPE

__all__ = ["LINGER", "Connection", "SeldomLogger", "refusal"]

LINGER = 1.0
"""Seconds that a client which is still sending gets to read the answer: closed at once, TCP would take it back."""
_END = re.compile(rb"\n\r?\n")
_AT_ONCE = struct.pack("ii", 1, 0)
_VERSIONS = ("1.0", "1.1")


class SeldomLogger(logging.LoggerAdapter[logging.Logger]):
    """Lets one record a second of each kind through, with the number of those that it kept back before."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})
        self._said: dict[Any, tuple[float, int]] = {}

    @property
    def level(self) -> int:
        """As uvicorn asks a logger for it."""
        return self.logger.level

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """A kind is the text before anything is put into it, and the type of an exception."""
        error = kwargs.get("exc_info")
        kind = level, msg, type(error) if isinstance(error, BaseException) else None
        now = time.monotonic()
        said, kept = self._said.get(kind, (-1.0, 0))
        if said >= 0 and now - said < 1:
            self._said[kind] = said, kept + 1
            return
        self._said[kind] = now, 0
        self.logger.log(level, f"{msg} ({kept} more of these before)" if kept else msg, *args, **kwargs)


class Connection(HttpToolsProtocol):
    """One connection. With `most` it is one more than so many: it is told so, and closed."""

    def __init__(
        self, limits: Limits, log: SeldomLogger, left: Callable[[], None], most: int | None, **given: Any
    ) -> None:
        super().__init__(**given)
        self.logger = log  # type: ignore[assignment] # it does all that is asked of one
        self.made = False
        """Whether it was ever open; then `left` is called when it is closed."""
        self._limits, self._left, self._most = limits, left, most
        self._head = 0
        """Bytes of the head that is being read."""
        self._tail = b""
        """The last bytes of what came of it: its end may be cut in two."""
        self._later = b""
        """Requests that came before the answer to one was sent."""
        self._deaf = False
        """Nothing more is looked at."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.made = True
        super().connection_made(_Lingering(transport, self._closing))
        if self._most is not None:
            self._refuse(503, f"all {self._most} connections that there may be are in use", RETRY)
        else:
            self._alarm("head", self._limits.head_timeout, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Reads a head at a time, and nothing behind it before it is answered."""
        if self._deaf:
            return
        if self._busy or self._later:
            self._keep(data)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        while data and not self._busy and not self._deaf:
            end = self._end_of_head(data)
            piece, data = data[:end], data[end:]
            self._head += len(piece)
            if self._head > self._limits.head:
                self._refuse(431, f"the head of a request may have {self._limits.head:,} bytes; this one has more")
                return
            super().data_received(piece)
        if self._busy and self.cycle.more_body:
            # Whoever sends a body asks nothing by it; and where it ends the next request would not be safe to find.
            self._deaf = True
            self.cycle.keep_alive = False
        elif data and not self._deaf:
            self._keep(data)
        elif self._head and "head" not in self._timers:
            self._alarm("head", self._limits.head_timeout, self._too_late)

    def pause_writing(self) -> None:
        """The client does not take what there is for it."""
        super().pause_writing()
        self._alarm("send", self._limits.send_timeout, self._cut)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._calm("send")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or was left."""
        self._deaf = True
        for name in list(self._timers):
            self._calm(name)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._left()

    # What the parser calls

    def on_headers_complete(self) -> None:
        """Has the request answered, once it is sure that it is one."""
        version = self.parser.get_http_version()
        self._head = 0
        self._calm("head")
        if version not in _VERSIONS:
            self._refuse(505, f"HTTP {version[:10]} is not spoken here; HTTP/1.1 is")
        elif version == "1.1" and not any(name == b"host" for name, _ in self.headers):
            self._refuse(400, "a request of HTTP/1.1 has a Host header")
        else:
            super().on_headers_complete()
            if version == "1.0":
                self.cycle.send = _unframed(self.cycle)  # type: ignore[method-assign, assignment]

    def on_body(self, body: bytes) -> None:
        """Is passed over."""

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._deaf:
            super().on_message_complete()

    # What uvicorn calls

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is asked for may be passed over (RFC 9110, section 7.8): nobody need hear of it."""

    def send_400_response(self, msg: str) -> None:
        """The parser found no request in what was sent."""
        self._refuse(400, "this is no request of HTTP")

    def on_response_complete(self) -> None:
        """What waits behind it has its turn."""
        super().on_response_complete()
        if self._later and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.loop.call_soon(self._read_later)  # not here, where the one before is still being ended

    def _read_later(self) -> None:
        later, self._later = self._later, b""
        if not self._deaf:
            self._read(later)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_of_head(self, data: bytes) -> int:
        """How many bytes of it belong to this head, as far as can be told."""
        found = _END.search(self._tail + data) if self._tail else _END.search(data)
        end = len(data) if found is None else found.end() - len(self._tail)
        self._tail = b"" if found else (self._tail + data)[-2:]
        return end

    def _keep(self, data: bytes) -> None:
        self._later += data
        self.flow.pause_reading()
        if len(self._later) > self._limits.head:  # all that was sent is no more than what one may send
            self._later, self._deaf, self.cycle.keep_alive = b"", True, False

    def _refuse(self, status: int, detail: str, headers: Mapping[str, str] = NEVER_STORED) -> None:
        if not self._deaf:
            self._deaf = True
            self._unset_keepalive_if_required()
            self.transport.write(refusal(status, detail, headers, self.server_state.default_headers))
            self.transport.close()

    def _too_late(self) -> None:
        if self._head:
            self._refuse(408, f"the head of a request may take {self._limits.head_timeout:g} seconds")
        else:
            self._deaf = True
            self.transport.close()

    def _cut(self) -> None:
        self.logger.warning("a client took nothing for %g seconds and was cut off", self._limits.send_timeout)
        self._abort()

    def _abort(self) -> None:
        """What the system still holds for the client is thrown away as well."""
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    def _closing(self) -> bool:
        """Called when this end closes; whether the other one may be still sending, and must be read for a while."""
        self._calm("head")
        seconds = self._limits.send_timeout if self._unsent() else LINGER
        self._alarm("close", seconds, self._abort)
        sending, self._deaf = self._deaf or self._head > 0, True
        return sending

    def _unsent(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    def _alarm(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        self._calm(name)
        self._timers[name] = self.loop.call_later(seconds, call)

    def _calm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class _Lingering(asyncio.Transport):
    """A transport whose end of a connection with a client that is still sending is half closed, and read on: data that
    nobody has read when a socket is closed makes TCP take back the answer. `closing()` says whether it is so.
    """

    def __init__(self, transport: asyncio.BaseTransport, closing: Callable[[], bool]) -> None:
        super().__init__()
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._closing = transport, closing
        self._closed = False
        self._head = b""
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.get_write_buffer_size = transport.get_write_buffer_size  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.abort = transport.abort  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends it. The head of an answer waits for the body where that comes at once: a packet less."""
        if self.is_closing():  # a connection that is lost: asyncio would log each write to it
            return
        if self._head:
            data, self._head = self._head + data, b""
        elif data[:5] == b"HTTP/":
            self._head = bytes(data)
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def is_closing(self) -> bool:
        """From `close()` on."""
        return self._closed or self._transport.is_closing()

    def close(self) -> None:
        """Ends it, once what was written is sent."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        if self._closing() and self._transport.can_write_eof():
            with suppress(OSError):  # the client is gone already
                self._transport.write_eof()
                self._transport.resume_reading()
                return
        self._transport.close()


def _unframed(cycle: Any) -> Callable[[Any], Awaitable[None]]:
    """The cycle's `send` for HTTP/1.0, which knows no chunks: a body of unknown length ends with the connection."""
    framed = cycle.send
    open_ended = False

    async def send(message: Any) -> None:
        nonlocal open_ended
        if message["type"] == "http.response.start":
            open_ended = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            cycle.chunked_encoding = False if open_ended else None
        elif open_ended:
            cycle.expected_content_length = len(message.get("body", b""))  # whatever comes is what was to come
        await framed(message)

    return send


def refusal(status: int, detail: str, headers: Mapping[str, str], more: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """An answer that is a problem document, after which the connection is closed."""
    title = HTTPStatus(status).phrase
    body = to_json({"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": ""})
    fields = {**headers, "Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {title}".encode(), *(b"%b: %b" % field for field in more)]
    return b"\r\n".join([*lines, *(f"{name}: {value}".encode() for name, value in fields.items()), b"", body])
