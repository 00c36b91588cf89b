"""The owner's end of the keeper: starts it, and puts requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from labkit.errors import LabError

__all__ = ["KeeperClient"]

GONE = "the lab's keeper process is gone; start a new lab"


class KeeperClient:
    """One keeper process. Plain sockets on whatever event loop runs: no thread, no stream, nothing to leak.

    Requests are put one at a time. Once `aclose()` returns, the keeper and all it ran are gone.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._channel = ours
        self._buffer = bytearray()
        self.folder: Path | None = None
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._numbers = itertools.count(1)
        package_root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "labkit.lab.keeper", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )

    def leftovers(self) -> list[str]:
        """What there still is of the keeper and its folder."""
        left = [f"keeper process {self._process.pid}"] if self._process.poll() is None else []
        return left + ([f"folder {self.folder}"] if self.folder and self.folder.exists() else [])

    async def greet(self) -> None:
        """Waits until the keeper is up, and so has a folder for the lab."""
        self.folder = Path(await self._answer(0))

    async def ask(self, do: str, **request: Any) -> Any:
        """Has the keeper do something; raises `LabError` with its words when it cannot."""
        async with self._turn():
            number = next(self._numbers)
            line = json.dumps({"number": number, "do": do, **request}).encode() + b"\n"
            try:
                await asyncio.get_running_loop().sock_sendall(self._channel, line)
            except OSError:
                raise LabError(GONE) from None
            return await self._answer(number)

    async def aclose(self) -> None:
        """Hangs up, and returns when the keeper has cleaned up and left."""
        if self._channel.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        try:
            self._channel.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(self._channel, 65536):
                pass
        except OSError:
            pass  # it is gone already
        self._channel.close()
        self._process.wait()

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
        loop = asyncio.get_running_loop()
        while b"\n" not in self._buffer:
            try:
                data = await loop.sock_recv(self._channel, 65536)
            except OSError:
                data = b""
            if not data:
                raise LabError(GONE)
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One request at a time; the lock belongs to the running loop, and a lab may outlive one (`asyncio.run`)."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = loop, asyncio.Lock()
        async with self._lock[1]:
            yield
