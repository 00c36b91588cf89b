"""The owner's end of the keeper: starts it, and sends it requests."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from labkit.errors import LabError
from labkit.lab.control import Control
from labkit.lab.keeper.keeper import Keeper

__all__ = ["KeeperClient", "absolute", "environment"]

P = ParamSpec("P")
T = TypeVar("T")
GONE = "the keeper, the process behind it, is gone: stop it and start it again"
REAPER = Path(__file__).parents[1] / "reaper.py"
CHUNK = 65536
FOREIGN = ("PG", "REDIS")
"""Prefixes of variables that would change how servers are set up and how Postgres's and Redis's programs behave."""
ROOT = str(Path(__file__).parents[3])


class KeeperClient:
    """One keeper process. Requests are sent one at a time, on the loop of `control`, or on the running loop if that is
    None. Once `aclose()` returns, the keeper and everything it ran are gone.
    """

    def __init__(self, control: Control | None = None) -> None:
        self._control = control
        self._channel, theirs = map(_not_standard, socket.socketpair())
        self._channel.setblocking(False)
        self._received, self._unsent = bytearray(), bytearray()
        self.folder: Path | None = None
        self._turn = asyncio.Lock()
        self._numbers = itertools.count(1)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(REAPER), str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if _is_open(2) else subprocess.DEVNULL,
                start_new_session=True,
                env=environment(),
            )

    def leftovers(self) -> list[str]:
        """What is left of the keeper and its folder."""
        left = [f"keeper process {self._process.pid}"] if self._process.poll() is None else []
        return left + ([f"folder {self.folder}"] if self.folder and self.folder.exists() else [])

    async def greet(self) -> None:
        """Waits until the keeper is up and has made the lab's folder; `LabError` if it cannot."""
        self.folder = Path(await self.ask(Keeper.greet))

    async def ask(
        self, do: Callable[Concatenate[Keeper, P], Coroutine[Any, Any, T]], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Calls that method in the keeper's process; raises `LabError` with the text of what it raised there."""
        request = {"do": do.__name__, "arguments": arguments, "named": named}
        if self._control is None:
            answer = await self._ask(request)
        else:
            answer = await self._control.run(lambda: self._ask(request))
        value: T = answer
        return value

    async def aclose(self) -> None:
        """Hangs up, and returns when the keeper has cleaned up and left."""
        if self._channel.fileno() < 0:
            return
        try:
            self._channel.shutdown(socket.SHUT_WR)
            while await self._read():
                self._received.clear()
        except OSError:
            pass  # it is gone already
        self._channel.close()
        self._process.wait()

    async def _ask(self, request: dict[str, Any]) -> Any:
        async with self._turn:
            number = next(self._numbers)
            self._unsent += json.dumps({"number": number, **request}).encode() + b"\n"
            try:
                while self._unsent:  # the rest of an interrupted request first
                    await self._write()
                return await self._answer(number)
            except OSError:
                raise LabError(GONE) from None

    async def _answer(self, number: int) -> Any:
        """The answer to request `number`; skips those that an interrupted cell no longer waited for."""
        while True:
            answer = json.loads(await self._line())
            if answer["number"] != number:
                continue
            if "error" in answer:
                raise LabError(answer["error"])
            return answer["value"]

    async def _line(self) -> bytes:
        while b"\n" not in self._received:
            if not await self._read():
                raise LabError(GONE)
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    async def _read(self) -> bool:
        """Receives more; False at the end. What arrived is kept even when the caller is cancelled."""
        loop = asyncio.get_running_loop()
        data = await _once(self._channel, lambda: self._channel.recv(CHUNK), loop.add_reader, loop.remove_reader)
        self._received += data
        return bool(data)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        line = bytes(self._unsent[:CHUNK])
        sent = await _once(self._channel, lambda: self._channel.send(line), loop.add_writer, loop.remove_writer)
        del self._unsent[:sent]


async def _once(sock: socket.socket, call: Callable[[], T], add: Callable[..., Any], remove: Callable[..., Any]) -> T:
    """`call()` as soon as it does not block; not at all if the caller is cancelled first.

    The loop's own `sock_recv` may have read data that it then cannot return to a cancelled task.
    """
    while True:
        try:
            return call()
        except BlockingIOError:
            ready = asyncio.Event()
            add(sock, ready.set)
            try:
                await ready.wait()
            finally:
                remove(sock)


def environment() -> dict[str, str]:
    """The environment of the keeper and its servers: this process's, without variables meant for other servers.

    Nothing is found in the working folder, which may belong to somebody else; labkit can be imported as it is here.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join(filter(None, [ROOT, absolute(os.environ.get("PYTHONPATH", ""))]))
    search = absolute(os.environ.get("PATH", os.defpath))
    return {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PATH": search}


def absolute(path: str) -> str:
    """A search path without relative or empty entries: these mean the working folder, or something in it."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if os.path.isabs(entry))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _not_standard(sock: socket.socket) -> socket.socket:
    """The socket under a number above those of the standard streams. A daemon may have closed these, and a child would
    take the socket for its own output.
    """
    if sock.fileno() > 2:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
