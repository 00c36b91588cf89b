"""`python -m labkit.matrix.worker CHANNEL LEASH OWNER`: the process in which somebody else's reader reads.

It puts nothing on stdout and has nothing open that belongs to its owner. Messages on the channel are pickles, each
behind its length; requests are answered one at a time, and while a read lasts, ticks tell that the event loop runs.
"""

from __future__ import annotations

import asyncio
import gc
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

from labkit.errors import UsageError
from labkit.matrix.answers import observed, understood
from labkit.matrix.evidence import Observation, waited
from labkit.matrix.external import Foreign, found, takes_tables
from labkit.matrix.footprint import Footprint
from labkit.matrix.guard import FAILED, guarded
from labkit.result import ReadResult

__all__ = ["SIZE", "forked", "framed", "main"]

SIZE = 8
"""Bytes that tell the length of a message."""
TICK = 0.05
"""Seconds between signs of life of the event loop."""
MOST_BYTES = 10_000_000
"""Of a result's table, which has some kilobytes where it is right."""
_LONGEST = 500
"""Characters of an exception's text that are told."""

_kept: list[Any] = []
"""Streams of the owner's with text in their buffers: were they let go of, that would be written a second time."""


def framed(message: Any) -> bytes:
    """A message as it goes over the channel."""
    data = pickle.dumps(message)
    return len(data).to_bytes(SIZE) + data


def main(channel: int, leash: int, owner: int) -> NoReturn:
    """Of a process that was started for it; the first message tells where modules are, and which reader it is."""
    _no_stdout()
    sock = socket.socket(fileno=channel)
    guarded(socket.socket(fileno=leash), owner, lambda: _work(sock, lambda: _told(sock)))


def forked(channel: socket.socket, leash: socket.socket, owner: int, reader: Foreign) -> NoReturn:
    """Of a fork of the owner's process: all that the reader knows is there, and nothing is open that is the owner's."""
    try:
        gc.freeze()  # what the owner has is never collected here: that might touch its event loop
        signal.set_wakeup_fd(-1)
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_DFL)
        os.setsid()
        _cut_sockets({channel.fileno(), leash.fileno()})
        _no_stdout()
        asyncio._set_running_loop(None)
        guarded(leash, owner, lambda: _work(channel, lambda: found(reader)))
    finally:
        os._exit(FAILED)


def _no_stdout() -> None:
    """What the reader prints goes to stderr; it has nobody to ask on stdin."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no stderr
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    _kept.extend((sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__))
    text = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="replace", write_through=True)
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = text  # type: ignore[misc]


def _cut_sockets(kept: set[int]) -> None:
    """The descriptors of inherited sockets lead nowhere, so that their other ends see when the owner closes them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # one is that of the listing itself
            if int(name) > 2 and int(name) not in kept and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.dup2(nowhere, int(name), inheritable=False)


def _told(channel: socket.socket) -> Foreign:
    spec, path = pickle.loads(_exactly(channel, int.from_bytes(_exactly(channel, SIZE))))  # noqa: S301
    sys.path[:] = path
    return found(spec)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def _work(channel: socket.socket, find: Callable[[], Foreign]) -> None:
    """Finds the reader, outside of any event loop: a module may run one of its own for that; then does as asked."""
    try:
        reader = find()
    except UsageError as error:
        channel.sendall(framed(str(error)))
        return
    channel.sendall(framed(takes_tables(reader)))
    asyncio.run(_serve(reader, channel))


async def _serve(reader: Foreign, channel: socket.socket) -> None:
    channel.setblocking(False)
    requests, answers = await asyncio.open_connection(sock=channel)
    while True:
        try:
            size = int.from_bytes(await requests.readexactly(SIZE))
            told = pickle.loads(await requests.readexactly(size))  # noqa: S301 - of the owner
        except (asyncio.IncompleteReadError, OSError):
            os._exit(0)
        answers.write(_footprint() if told is None else await _read(reader, told, answers))


def _footprint() -> bytes:
    gc.collect()  # exceptions keep what their frames held in circles, and here nothing else would collect them
    return _stamped(Footprint.now())


async def _read(reader: Foreign, told: tuple[Any, ...], answers: asyncio.StreamWriter) -> bytes:
    ticking, before = asyncio.ensure_future(_tick(answers)), waited()
    try:
        seen, result = await asyncio.ensure_future(_called(reader, told))
    finally:
        ticking.cancel()
    seen = replace(seen, starved=waited() - before)
    for picture in (result, None):
        with suppress(Exception):  # whatever pickling runs into
            return _stamped((seen, picture))
    return _stamped((Observation(None, seen.elapsed, malformed="what it returned cannot be passed on"), None))


async def _tick(answers: asyncio.StreamWriter) -> None:
    while True:
        answers.write(_stamped(None))
        await asyncio.sleep(TICK)


def _stamped(what: Any) -> bytes:
    return framed((time.monotonic(), what))


async def _called(reader: Foreign, told: tuple[Any, ...]) -> tuple[Observation, ReadResult | None]:
    started = time.monotonic()
    try:
        answer = await reader(*told)
    except Exception as error:
        return Observation(None, time.monotonic() - started, error=_said(error)), None
    except BaseException as error:
        crashed = f"it raised {_said(error)}, which ends whatever called it"
        return Observation(None, time.monotonic() - started, crashed=crashed), None
    try:
        seen, result = _understood(answer, started)
    except Exception as wrong:  # what it returned may run code of its own
        malformed = f"what it returned cannot be understood: {_said(wrong)}"
        return Observation(None, time.monotonic() - started, malformed=malformed), None
    return seen, result


def _understood(answer: Any, started: float) -> tuple[Observation, ReadResult | None]:
    if isinstance(answer, ReadResult):
        if answer.table.nbytes > MOST_BYTES:
            raise ValueError(f"{answer.table.num_rows:,} rows")
        plain = ReadResult(**{field.name: getattr(answer, field.name) for field in fields(ReadResult)})
        return observed(plain, time.monotonic() - started), plain
    rows, missing = understood(answer)
    return Observation(rows, time.monotonic() - started, missing), None


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return f"{type(error).__name__}: {text}".rstrip(": ")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
