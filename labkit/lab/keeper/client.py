"""The owner's end of the keeper: starts it, and puts requests to it."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from labkit.errors import LabError
from labkit.lab.control import Control
from labkit.lab.keeper.environment import environment

__all__ = ["KeeperClient"]

T = TypeVar("T")
GONE = "the lab's keeper process is gone; start a new lab"
REAPER = Path(__file__).parents[1] / "reaper.py"
CHUNK = 65536


class KeeperClient:
    """One keeper process. Requests are put one at a time, on the loop of `control`, or on whatever loop runs where that
    is None. Once `aclose()` returns, the keeper and all it ran are gone.
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
        """What there still is of the keeper and its folder."""
        left = [f"keeper process {self._process.pid}"] if self._process.poll() is None else []
        return left + ([f"folder {self.folder}"] if self.folder and self.folder.exists() else [])

    async def greet(self) -> None:
        """Waits until the keeper is up, and so has a folder for the lab; `LabError` where it can have none."""
        self.folder = Path(await self.ask("greet"))

    async def ask(self, do: str, **request: Any) -> Any:
        """Has the keeper do something; raises `LabError` with its words when it cannot."""
        if self._control is None:
            return await self._ask(do, request)
        return await self._control.run(lambda: self._ask(do, request))

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

    async def _ask(self, do: str, request: dict[str, Any]) -> Any:
        async with self._turn:
            number = next(self._numbers)
            self._unsent += json.dumps({"number": number, "do": do, **request}).encode() + b"\n"
            try:
                while self._unsent:  # what an interrupted request left comes first
                    await self._write()
                return await self._answer(number)
            except OSError:
                raise LabError(GONE) from None

    async def _answer(self, number: int) -> Any:
        """The answer to request `number`; one that an interrupted cell no longer waited for is passed over."""
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
        """Whether more came. What came is kept, also when nobody waits for it any more."""
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
    """`call()` as soon as it need not wait; not at all where the caller leaves first.

    The loop's own `sock_recv` may have read what it then cannot hand to a task that was cancelled.
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


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _not_standard(sock: socket.socket) -> socket.socket:
    """The socket above the numbers of the standard streams, which a daemon may have closed: a child would take it for
    its own output.
    """
    if sock.fileno() > 2:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
