"""A client's connection: uvicorn's on httptools, with a bound on everything that a client can make it hold or wait for.

The head of a request is limited in size and time; a body is ignored, since no endpoint takes one; pipelined requests
wait and are limited; a client that does not take its answer is disconnected.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labkit.api.limits import Limits, RateLimitedLogger
from labkit.api.problems import raw_problem
from labkit.api.responses import NO_STORE, RETRY

__all__ = ["LINGER", "Connection"]

LINGER = 1.0
"""Seconds that a client which is still sending gets to read the answer: an immediate close would make TCP drop it."""
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_RESET = struct.pack("ii", 1, 0)
_VERSIONS = ("1.0", "1.1")


class Connection(HttpToolsProtocol):
    """One connection. With `full`, the limit of connections is reached: it is told so and closed."""

    def __init__(
        self,
        limits: Limits,
        log: RateLimitedLogger,
        on_lost: Callable[[], None],
        full: int | None,
        **state: Any,
    ) -> None:
        super().__init__(**state)
        self.logger = log  # type: ignore[assignment] # it has every method that is called
        self.made = False
        """Whether it was ever open; if so, `on_lost` is called when it closes."""
        self._limits, self._on_lost, self._full = limits, on_lost, full
        self._head_size = 0
        """Bytes received of the current head."""
        self._tail = b""
        """The last bytes of them: the end of the head may be split between two reads."""
        self._pipelined = b""
        """Requests received before the current one was answered."""
        self._ignoring = False
        """Whether all further input is ignored."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.made = True
        super().connection_made(_LingeringTransport(transport, self._begin_close))
        if self._full is not None:
            self._refuse(503, f"all {self._full} connections are in use", RETRY)
        else:
            self._set_timer("head", self._limits.head_timeout, self._head_timed_out)

    def data_received(self, data: bytes) -> None:
        """Parses one head at a time, and nothing behind it until it is answered."""
        if self._ignoring:
            return
        if self._busy or self._pipelined:
            self._keep(data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        while data and not self._busy and not self._ignoring:
            end = self._end_of_head(data)
            piece, data = data[:end], data[end:]
            self._head_size += len(piece)
            if self._head_size > self._limits.head:
                self._refuse(431, f"request line and headers exceed {self._limits.head:,} bytes")
                return
            super().data_received(piece)
        if self._busy and self.cycle.more_body:
            # No endpoint takes a body, and guessing where it ends, and the next request starts, would not be safe.
            self._ignoring = True
            self.cycle.keep_alive = False
        elif data and not self._ignoring:
            self._keep(data)
        elif self._head_size and "head" not in self._timers:
            self._set_timer("head", self._limits.head_timeout, self._head_timed_out)

    def pause_writing(self) -> None:
        """The client is not taking its data."""
        super().pause_writing()
        self._set_timer("send", self._limits.send_timeout, self._send_timed_out)

    def resume_writing(self) -> None:
        """The client has taken data."""
        super().resume_writing()
        self._cancel_timer("send")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._ignoring = True
        for name in list(self._timers):
            self._cancel_timer(name)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._on_lost()

    # Called by the parser

    def on_headers_complete(self) -> None:
        """Starts the answer, unless the request is unacceptable."""
        version = self.parser.get_http_version()
        self._head_size = 0
        self._cancel_timer("head")
        if version not in _VERSIONS:
            self._refuse(505, f"HTTP {version[:10]} is not supported; use HTTP/1.1")
        elif version == "1.1" and not any(name == b"host" for name, _ in self.headers):
            self._refuse(400, "an HTTP/1.1 request needs a Host header")
        else:
            super().on_headers_complete()
            if version == "1.0":
                self.cycle.send = _without_chunks(self.cycle)  # type: ignore[method-assign, assignment]

    def on_body(self, body: bytes) -> None:
        """Ignored."""

    def on_message_complete(self) -> None:
        """The request is complete."""
        if not self._ignoring:
            super().on_message_complete()

    # Called by uvicorn

    def _unsupported_upgrade_warning(self) -> None:
        """A server may ignore an upgrade (RFC 9110, section 7.8): nothing to log."""

    def send_400_response(self, msg: str) -> None:
        """The parser rejected the input."""
        self._refuse(400, "not a valid HTTP request")

    def on_response_complete(self) -> None:
        """Continues with the pipelined requests."""
        super().on_response_complete()
        if self._pipelined and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.loop.call_soon(self._parse_pipelined)  # not here, where the previous request is still being finished

    def _parse_pipelined(self) -> None:
        data, self._pipelined = self._pipelined, b""
        if not self._ignoring:
            self._parse(data)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_of_head(self, data: bytes) -> int:
        """How many bytes of `data` belong to the current head, as far as can be told."""
        found = _END_OF_HEAD.search(self._tail + data) if self._tail else _END_OF_HEAD.search(data)
        end = len(data) if found is None else found.end() - len(self._tail)
        self._tail = b"" if found else (self._tail + data)[-2:]
        return end

    def _keep(self, data: bytes) -> None:
        self._pipelined += data
        self.flow.pause_reading()
        if len(self._pipelined) > self._limits.head:  # together they may be as long as one head
            self._pipelined, self._ignoring, self.cycle.keep_alive = b"", True, False

    def _refuse(self, status: int, detail: str, headers: Mapping[str, str] = NO_STORE) -> None:
        if not self._ignoring:
            self._ignoring = True
            self._unset_keepalive_if_required()
            self.transport.write(raw_problem(status, detail, headers, self.server_state.default_headers))
            self.transport.close()

    def _head_timed_out(self) -> None:
        if self._head_size:
            self._refuse(408, f"request line and headers took longer than {self._limits.head_timeout:g} seconds")
        else:
            self._ignoring = True
            self.transport.close()

    def _send_timed_out(self) -> None:
        self.logger.warning("disconnected a client that took no data for %g seconds", self._limits.send_timeout)
        self._abort()

    def _abort(self) -> None:
        """Resets the connection, so that the kernel drops its unsent data as well."""
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _begin_close(self) -> bool:
        """Called when this end closes; True if the client may still be sending, so that its data must be read."""
        self._cancel_timer("head")
        unsent = self.transport.get_write_buffer_size() > 0
        self._set_timer("close", self._limits.send_timeout if unsent else LINGER, self._abort)
        sending, self._ignoring = self._ignoring or self._head_size > 0, True
        return sending

    def _set_timer(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        self._cancel_timer(name)
        self._timers[name] = self.loop.call_later(seconds, call)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class _LingeringTransport(asyncio.Transport):
    """A transport that, if `begin_close()` says so, closes only its own direction and reads on: closing a socket with
    unread data would make TCP drop the answer.
    """

    def __init__(self, transport: asyncio.BaseTransport, begin_close: Callable[[], bool]) -> None:
        super().__init__()
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._begin_close = transport, begin_close
        self._closed = False
        self._head = b""
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.get_write_buffer_size = transport.get_write_buffer_size  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.abort = transport.abort  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends the data. The head of an answer waits for a body that follows at once: one packet instead of two."""
        if self.is_closing():  # asyncio would log every write to a lost connection
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
        """True from `close()` on."""
        return self._closed or self._transport.is_closing()

    def close(self) -> None:
        """Closes once all data is sent."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        if self._begin_close() and self._transport.can_write_eof():
            with suppress(OSError):  # the client is gone already
                self._transport.write_eof()
                self._transport.resume_reading()
                return
        self._transport.close()


def _without_chunks(cycle: Any) -> Callable[[Any], Awaitable[None]]:
    """The cycle's `send` for HTTP/1.0, which has no chunked encoding: a body of unknown length ends by closing."""
    original = cycle.send
    open_ended = False

    async def send(message: Any) -> None:
        nonlocal open_ended
        if message["type"] == "http.response.start":
            open_ended = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            cycle.chunked_encoding = False if open_ended else None
        elif open_ended:
            cycle.expected_content_length = len(message.get("body", b""))  # uvicorn would check the total length
        await original(message)

    return send
