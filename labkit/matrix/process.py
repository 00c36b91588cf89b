"""An external reader in its own process, from the owner's side."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from labkit.errors import UsageError
from labkit.lab.lab import Lab
from labkit.matrix.cells import YOURS
from labkit.matrix.evidence import Observation, Read
from labkit.matrix.external import ExternalReader, found, named
from labkit.matrix.footprint import Footprint
from labkit.matrix.guard import fork
from labkit.matrix.programs import Program, request_for
from labkit.matrix.worker import SIZE, forked, framed
from labkit.tables import SCHEMA

__all__ = ["OVERRUN", "ReaderProcess", "TheirReads"]

OVERRUN = 3.0
"""Seconds past its deadline after which a read is killed, with its process."""
IMPORT = 30.0
"""Seconds that importing the reader's module may take."""
_EXIT = 5.0
"""Seconds that the process may take to exit."""


class Ended(Exception):
    """Raised when the process has ended or stopped responding; the text says how."""


class ReaderProcess:
    """One reader in a process, which is restarted after it has ended.

    "module:function" is imported in a new interpreter, from which a program is also called. A callable may come from a
    notebook or be a closure, so it cannot be imported: it runs in a fork of this process, with everything it refers to;
    its changes stay in the fork.
    """

    def __init__(self, reader: str | ExternalReader | Program) -> None:
        self.reader: Any = reader if isinstance(reader, str | Program) else found(reader)
        self.name = reader.name if isinstance(reader, Program) else named(reader)
        self.takes_tables = False
        """Whether it takes the tables; known after `start`."""
        self._pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: socket.socket | None = None
        self._answers: asyncio.StreamReader | None = None
        self._requests: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        """Returns when the reader can be called; `UsageError` if it cannot be imported or is not a reader."""
        channel, theirs = socket.socketpair()
        self._leash, their_leash = socket.socketpair()
        with theirs, their_leash:
            self._pid = self._spawn(theirs, their_leash)
        self._leash.setblocking(False)
        self._answers, self._requests = await asyncio.open_connection(sock=channel)
        try:
            async with asyncio.timeout(IMPORT):
                if self._is_sent:
                    self._requests.write(framed((self.reader, sys.path)))
                answer = await self._message()
        except TimeoutError:
            await self.aclose()
            raise UsageError(f"reader {self.name!r} was not imported within {IMPORT:.0f} s") from None
        except Ended as ended:
            raise UsageError(f"reader {self.name!r} cannot be imported ({ended})") from None
        if isinstance(answer, str):
            await self.aclose()
            raise UsageError(answer)
        self.takes_tables = answer

    def arguments(self, lab: Lab, schema: pa.Schema) -> tuple[Any, ...]:
        """What the reader is called with, to read the lab."""
        urls, tables = dict(lab.urls), dict(lab.tables)
        if isinstance(self.reader, Program):
            return (request_for(urls, tables, lab.router.prune(), lab.timeout, schema.names),)
        return (urls, tables) if self.takes_tables else (urls,)

    @property
    def _is_sent(self) -> bool:
        """Whether a new interpreter gets the reader; else it is there in a fork."""
        return isinstance(self.reader, str | Program)

    async def read(self, arguments: tuple[Any, ...], seconds: float, schema: pa.Schema = SCHEMA) -> Read:
        """Calls the reader, which should return rows of `schema`. After `seconds`, or if it crashes, its process is
        killed and restarted.
        """
        started = last = time.monotonic()
        blocked = 0.0
        try:
            self._send((arguments, schema))
            async with asyncio.timeout(seconds):
                answer = None
                while answer is None:
                    stamp, answer = await self._message()
                    last, blocked = stamp, max(blocked, stamp - last)
            seen, result = answer
            if seen.crashed is None:
                return Read(YOURS, replace(seen, blocked=blocked), result)
        except TimeoutError:
            now = time.monotonic()
            seen = Observation(None, now - started, blocked=max(blocked, now - last))
        except Ended as ended:
            seen = Observation(None, time.monotonic() - started, crashed=str(ended))
        await self._restart()
        return Read(YOURS, seen)

    async def footprint(self, seconds: float) -> Footprint | None:
        """What the process holds; None if it does not reply within `seconds`."""
        try:
            self._send(None)
            async with asyncio.timeout(seconds):
                return (await self._message())[1]  # type: ignore[no-any-return]
        except (TimeoutError, Ended):
            await self._restart()
            return None

    async def aclose(self) -> None:
        """Ends the process and all its descendants; returns when they are gone."""
        await self._ended()

    async def _restart(self) -> None:
        await self.aclose()
        with suppress(UsageError):  # the next read reports it
            await self.start()

    def _send(self, request: Any) -> None:
        if self._requests is None:
            raise Ended("its process could not be restarted")
        self._requests.write(framed(request))

    async def _message(self) -> Any:
        assert self._answers is not None
        try:
            size = int.from_bytes(await self._answers.readexactly(SIZE))
            data = await self._answers.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise Ended(await self._ended(_EXIT)) from None
        return pickle.loads(data)  # noqa: S301 - from a process with the same rights

    async def _ended(self, grace: float = 0.0) -> str:
        """How the process ended by itself within `grace` seconds; else kills it. Nothing of it is left afterwards."""
        leash, self._leash = self._leash, None
        if leash is None:
            return "its process could not be restarted"
        if self._requests is not None:
            self._requests.close()
        self._requests = self._answers = None
        with leash:
            status = await _received(leash, grace) if grace else b""
            with suppress(OSError):
                leash.shutdown(socket.SHUT_WR)
            status = status or await _received(leash, _EXIT)
            if not status:
                os.kill(self._pid, signal.SIGKILL)
        self._reap()
        return _described(status)

    def _spawn(self, channel: socket.socket, leash: socket.socket) -> int:
        if self._is_sent:
            self._process = _interpreter(channel, leash)
            return self._process.pid
        self._process, owner = None, os.getpid()
        pid = fork()
        if pid == 0:
            forked(channel, leash, owner, self.reader)
        return pid

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
        else:
            os.waitpid(self._pid, 0)


def _interpreter(channel: socket.socket, leash: socket.socket) -> subprocess.Popen[bytes]:
    """Starts the worker so that it imports nothing from the working folder before the reader."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    numbers = [channel.fileno(), leash.fileno()]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "labkit.matrix.worker", *map(str, [*numbers, os.getpid()])],
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


class TheirReads:
    """By the external reader alone, from one lab."""

    def __init__(self, process: ReaderProcess, lab: Lab, schema: pa.Schema = SCHEMA) -> None:
        self._process, self._lab, self._schema = process, lab, schema

    async def __call__(self) -> list[Read]:
        """One read."""
        arguments = self._process.arguments(self._lab, self._schema)
        return [await self._process.read(arguments, self._lab.timeout + OVERRUN, self._schema)]

    async def footprint(self) -> Footprint | None:
        """What the reader's process holds."""
        return await self._process.footprint(self._lab.timeout + OVERRUN)


async def _received(leash: socket.socket, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().sock_recv(leash, 64)
    except (OSError, TimeoutError):
        return b""


def _described(status: bytes) -> str:
    """A wait status in words; it is "-" if the process had to be killed, and empty if its guard was killed with it."""
    if not status.isdigit():
        return "its process does not respond"
    code = os.waitstatus_to_exitcode(int(status))
    if code >= 0:
        return f"its process ended with exit code {code}"
    return f"its process was killed by {signal.Signals(-code).name}"
