"""Somebody else's reader in a process of its own, from its owner's side."""

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

from labkit.errors import UsageError
from labkit.lab.lab import Lab
from labkit.matrix.cells import YOURS
from labkit.matrix.evidence import Observation, Read
from labkit.matrix.external import Foreign, found, named
from labkit.matrix.footprint import Footprint
from labkit.matrix.guard import fork
from labkit.matrix.worker import SIZE, forked, framed

__all__ = ["OVERRUN", "ReaderProcess", "TheirReads"]

OVERRUN = 3.0
"""Seconds past its deadline after which a read is ended, with its process."""
IMPORT = 30.0
"""Seconds within which the reader's module must be imported."""
_FAREWELL = 5.0
"""Seconds that the process has to end in."""


class Ended(Exception):
    """The process has ended, or does not talk to us any more; says how."""


class ReaderProcess:
    """One reader, in a process that is started when it is needed, and again after it has ended.

    "module:function" is imported in a new interpreter. A callable cannot be, where it is a notebook's or closes over
    something: it is called in a fork of this process, with all that it knows, and what it changes is not seen here.
    """

    def __init__(self, reader: str | Foreign) -> None:
        self.reader = reader if isinstance(reader, str) else found(reader)
        self.name = named(reader)
        self.takes_tables = False
        """Whether it is told the tables; known once it has been started."""
        self._pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: socket.socket | None = None
        self._answers: asyncio.StreamReader | None = None
        self._requests: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        """Returns when the reader can be called; `UsageError` where it cannot be imported, or is no reader."""
        channel, theirs = socket.socketpair()
        self._leash, their_leash = socket.socketpair()
        with theirs, their_leash:
            self._pid = self._begun(theirs, their_leash)
        self._leash.setblocking(False)
        self._answers, self._requests = await asyncio.open_connection(sock=channel)
        try:
            async with asyncio.timeout(IMPORT):
                if isinstance(self.reader, str):
                    self._requests.write(framed((self.reader, sys.path)))
                answer = await self._message()
        except TimeoutError:
            await self.aclose()
            raise UsageError(f"reader {self.name!r} is not imported after {IMPORT:.0f} s") from None
        except Ended as ended:
            raise UsageError(f"reader {self.name!r} cannot be imported ({ended})") from None
        if isinstance(answer, str):
            await self.aclose()
            raise UsageError(answer)
        self.takes_tables = answer

    async def read(self, told: tuple[Any, ...], patience: float) -> Read:
        """Calls it. Past `patience` seconds it is ended; after that, as after a crash, it is started again."""
        started = last = time.monotonic()
        blocked = 0.0
        try:
            self._send(told)
            async with asyncio.timeout(patience):
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
        await self._again()
        return Read(YOURS, seen)

    async def footprint(self, patience: float) -> Footprint | None:
        """What the process holds; None where it does not say so within `patience` seconds."""
        try:
            self._send(None)
            async with asyncio.timeout(patience):
                return (await self._message())[1]  # type: ignore[no-any-return]
        except (TimeoutError, Ended):
            await self._again()
            return None

    async def aclose(self) -> None:
        """Ends the process and all that it has started; returns when they are gone."""
        await self._status()

    async def _again(self) -> None:
        await self.aclose()
        with suppress(UsageError):  # the next read says so
            await self.start()

    def _send(self, request: Any) -> None:
        if self._requests is None:
            raise Ended("its process does not start again")
        self._requests.write(framed(request))

    async def _message(self) -> Any:
        assert self._answers is not None
        try:
            size = int.from_bytes(await self._answers.readexactly(SIZE))
            data = await self._answers.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise Ended(await self._status(_FAREWELL)) from None
        return pickle.loads(data)  # noqa: S301 - of a process that runs as we do

    async def _status(self, patience: float = 0.0) -> str:
        """How the process has ended within `patience` seconds, else it is ended now; nothing of it is left then."""
        leash, self._leash = self._leash, None
        if leash is None:
            return "its process does not start again"
        if self._requests is not None:
            self._requests.close()
        self._requests = self._answers = None
        with leash:
            told = await _heard(leash, patience) if patience else b""
            with suppress(OSError):
                leash.shutdown(socket.SHUT_WR)
            told = told or await _heard(leash, _FAREWELL)
            if not told:
                os.kill(self._pid, signal.SIGKILL)
        self._reaped()
        return _told(told)

    def _begun(self, channel: socket.socket, leash: socket.socket) -> int:
        if isinstance(self.reader, str):
            self._process = _started(channel, leash)
            return self._process.pid
        self._process, owner = None, os.getpid()
        pid = fork()
        if pid == 0:
            forked(channel, leash, owner, self.reader)
        return pid

    def _reaped(self) -> None:
        if self._process is not None:
            self._process.wait()
        else:
            os.waitpid(self._pid, 0)


def _started(channel: socket.socket, leash: socket.socket) -> subprocess.Popen[bytes]:
    """Nothing of the working folder is imported before the reader is."""
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
    """By that reader alone, of one lab."""

    def __init__(self, process: ReaderProcess, lab: Lab) -> None:
        self._process, self._lab = process, lab

    async def __call__(self) -> list[Read]:
        """One read."""
        urls, tables = dict(self._lab.urls), dict(self._lab.tables)
        told = (urls, tables) if self._process.takes_tables else (urls,)
        return [await self._process.read(told, self._lab.timeout + OVERRUN)]

    async def footprint(self) -> Footprint | None:
        """What the reader's process holds."""
        return await self._process.footprint(self._lab.timeout + OVERRUN)


async def _heard(leash: socket.socket, patience: float) -> bytes:
    try:
        async with asyncio.timeout(patience):
            return await asyncio.get_running_loop().sock_recv(leash, 64)
    except (OSError, TimeoutError):
        return b""


def _told(status: bytes) -> str:
    """A wait status in words; there is none where the process ran on, or whoever watched it was killed with it."""
    if not status.isdigit():
        return "its process does not answer any more"
    code = os.waitstatus_to_exitcode(int(status))
    if code >= 0:
        return f"its process ended with exit code {code}"
    return f"its process was killed by {signal.Signals(-code).name}"
