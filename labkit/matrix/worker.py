"""`python -m labkit.matrix.worker CHANNEL LEASH OWNER`: the process in which an external reader runs.

It writes nothing to stdout and keeps none of its owner's files open. Messages on the channel are length-prefixed
pickles; requests are answered one at a time, and during a read, heartbeats show that the event loop is running.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import os
import pickle
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, NoReturn

import pyarrow as pa

from labkit.errors import UsageError
from labkit.matrix.answers import observed, understood
from labkit.matrix.evidence import Observation, waited
from labkit.matrix.external import ExternalReader, found, is_async, takes_tables
from labkit.matrix.footprint import Footprint
from labkit.matrix.guard import FAILED, guarded
from labkit.matrix.programs import Crashed, Failed, Malformed, Program
from labkit.result import ReadResult
from labkit.show.format import clip

__all__ = ["SIZE", "forked", "framed", "main"]

SIZE = 8
"""Bytes of a message's length prefix."""
HEARTBEAT = 0.05
"""Seconds between heartbeats of the event loop."""
MAX_TABLE = 10_000_000
"""Bytes of a result's table that are accepted; a right one has a few kilobytes."""
_MAX_ERROR = 500
"""Characters of an exception's text that are reported."""

_owners_streams: list[Any] = []
"""The owner's streams: if they were freed here, the text in their buffers would be written a second time."""


def framed(message: Any) -> bytes:
    """A message as bytes for the channel."""
    data = pickle.dumps(message)
    return len(data).to_bytes(SIZE) + data


def main(channel: int, leash: int, owner: int) -> NoReturn:
    """Entry point of a new interpreter; the first message names the reader and the module search path."""
    _redirect_streams()
    sock = socket.socket(fileno=channel)
    guarded(socket.socket(fileno=leash), owner, lambda: _work(sock, lambda: _named_reader(sock)))


def forked(channel: socket.socket, leash: socket.socket, owner: int, reader: ExternalReader) -> NoReturn:
    """Entry point of a fork of the owner: everything the reader refers to exists; the owner's sockets are cut off."""
    try:
        gc.freeze()  # never collect the owner's objects here: that might touch its event loop
        signal.set_wakeup_fd(-1)
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_DFL)
        os.setsid()
        _cut_sockets({channel.fileno(), leash.fileno()})
        _redirect_streams()
        asyncio._set_running_loop(None)
        guarded(leash, owner, lambda: _work(channel, lambda: found(reader)))
    finally:
        os._exit(FAILED)


def _redirect_streams() -> None:
    """Redirects what the reader prints to stderr; its stdin is empty."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    _owners_streams.extend((sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__))
    text = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="replace", write_through=True)
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = text  # type: ignore[misc]


def _cut_sockets(kept: set[int]) -> None:
    """Points inherited socket descriptors at /dev/null, so that peers notice when the owner closes its ends."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # one descriptor is that of the listing itself
            if int(name) > 2 and int(name) not in kept and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.dup2(nowhere, int(name), inheritable=False)


def _named_reader(channel: socket.socket) -> ExternalReader:
    spec, path = pickle.loads(_received(channel, int.from_bytes(_received(channel, SIZE))))  # noqa: S301
    sys.path[:] = path
    return spec if isinstance(spec, Program) else found(spec)


def _received(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def _work(channel: socket.socket, find: Callable[[], ExternalReader]) -> None:
    """Finds the reader, then answers requests. Imports outside any event loop: a module may run its own on import."""
    try:
        reader = find()
    except UsageError as error:
        channel.sendall(framed(str(error)))
        return
    is_program = isinstance(reader, Program)
    channel.sendall(framed(is_program or takes_tables(reader)))
    asyncio.run(_serve(reader if is_program or is_async(reader) else Threaded(reader), channel))


class Threaded:
    """A function that may block: it is called in a thread."""

    def __init__(self, function: ExternalReader) -> None:
        self._function = function
        self.starved = 0.0

    async def __call__(self, *arguments: Any) -> Any:
        answer = await asyncio.to_thread(self._called, *arguments)
        return await answer if inspect.isawaitable(answer) else answer  # of a function that returns a coroutine

    def _called(self, *arguments: Any) -> Any:
        before = waited()
        try:
            return self._function(*arguments)
        finally:
            self.starved = waited() - before


async def _serve(reader: ExternalReader, channel: socket.socket) -> None:
    channel.setblocking(False)
    requests, answers = await asyncio.open_connection(sock=channel)
    while True:
        try:
            size = int.from_bytes(await requests.readexactly(SIZE))
            request = pickle.loads(await requests.readexactly(size))  # noqa: S301 - from the owner
        except (asyncio.IncompleteReadError, OSError):
            os._exit(0)
        if request is None:
            answers.write(_footprint(reader))
        else:
            arguments, schema = request
            answers.write(await _read(reader, arguments, schema, answers))


def _footprint(reader: ExternalReader) -> bytes:
    if isinstance(reader, Program):
        return _stamped(reader.footprint())
    gc.collect()  # exceptions keep their frames' objects alive in cycles, which nothing else would collect here
    return _stamped(Footprint.now())


async def _read(
    reader: ExternalReader, arguments: tuple[Any, ...], schema: pa.Schema, answers: asyncio.StreamWriter
) -> bytes:
    beating, before = asyncio.ensure_future(_beat(answers)), waited()
    try:
        seen, result = await asyncio.ensure_future(_called(reader, arguments, schema))
    finally:
        beating.cancel()
    seen = replace(seen, starved=getattr(reader, "starved", 0.0) + waited() - before)
    for picture in (result, None):
        with suppress(Exception):  # pickling can raise anything
            return _stamped((seen, picture))
    return _stamped((Observation(None, seen.elapsed, malformed="what it returned cannot be passed on"), None))


async def _beat(answers: asyncio.StreamWriter) -> None:
    while True:
        answers.write(_stamped(None))
        await asyncio.sleep(HEARTBEAT)


def _stamped(what: Any) -> bytes:
    return framed((time.monotonic(), what))


async def _called(
    reader: ExternalReader, arguments: tuple[Any, ...], schema: pa.Schema
) -> tuple[Observation, ReadResult | None]:
    started = time.monotonic()
    try:
        answer = await reader(*arguments)
    except Crashed as error:
        return Observation(None, time.monotonic() - started, crashed=str(error)), None
    except Malformed as error:
        return Observation(None, time.monotonic() - started, malformed=str(error)), None
    except Failed as error:
        return Observation(None, time.monotonic() - started, error=str(error)), None
    except Exception as error:
        return Observation(None, time.monotonic() - started, error=_described(error)), None
    except BaseException as error:
        crashed = f"it raised {_described(error)}, which ends its caller"
        return Observation(None, time.monotonic() - started, crashed=crashed), None
    try:
        seen, result = _understood(answer, started, schema)
    except Exception as wrong:  # reading the return value may run any code
        malformed = f"what it returned cannot be understood: {_described(wrong)}"
        return Observation(None, time.monotonic() - started, malformed=malformed), None
    return seen, result


def _understood(answer: Any, started: float, schema: pa.Schema) -> tuple[Observation, ReadResult | None]:
    if isinstance(answer, ReadResult):
        if answer.table.nbytes > MAX_TABLE:
            raise ValueError(f"{answer.table.num_rows:,} rows")
        plain = ReadResult(**{field.name: getattr(answer, field.name) for field in fields(ReadResult)})
        return observed(plain, time.monotonic() - started, schema), plain
    rows, missing = understood(answer, schema)
    return Observation(rows, time.monotonic() - started, missing), None


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {clip(text, _MAX_ERROR)}".rstrip(": ")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
