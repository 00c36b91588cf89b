"""`python -m labkit.lab.keeper FD`: the helper process. Requests and answers are JSON lines on the socket FD."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from labkit.lab.keeper import folders
from labkit.lab.keeper.processes import Processes, User
from labkit.lab.keeper.proxy import Proxy

PATIENCE = 0.3
"""Seconds the servers get to end by themselves before they are killed."""
NOBODY = User(65534, 65534)
"""Postgres refuses to run as root: as root, it runs as the user and group every Unix has for nobody's things."""


class Keeper:
    """Carries out what the owner asks, one method a request (`do_NAME`)."""

    def __init__(self) -> None:
        self.user = NOBODY if os.geteuid() == 0 else None
        self._mode = 0o755 if self.user else 0o700  # as root, the servers' user must be able to enter
        where = folders.data_folder()
        for place in {where, tempfile.gettempdir()}:
            folders.sweep(place)
        self.folder = folders.make(where, self._mode)
        self._made = [self.folder]
        self.processes = Processes(self.user)
        self.proxies: dict[str, Proxy] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def handle(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        number, do = request.pop("number"), request.pop("do")
        try:
            return {"number": number, "value": await getattr(self, "do_" + do)(**request)}
        except Exception as error:
            return {"number": number, "error": str(error) or type(error).__name__}

    async def do_folder(self, name: str, drop: bool) -> str:
        path = self.folder / name
        path.mkdir(mode=0o700)
        if drop and self.user:
            os.chown(path, self.user.uid, self.user.gid)
        return str(path)

    async def do_install(self, below: str, parts: list[str]) -> str:
        """A copy of folders of programs, `parts` of the folder `below`, for a user who may not enter that."""
        target = folders.make(tempfile.gettempdir(), self._mode)  # not with the data: memory may be mounted noexec
        self._made.append(target)
        for part in parts:
            await asyncio.to_thread(shutil.copytree, Path(below, part), target / part, symlinks=True)
        return str(target)

    async def do_run(self, commands: list[list[str]], drop: bool) -> None:
        """Runs commands side by side."""
        cwd = str(self.folder)
        for argv, (code, output) in zip(
            commands,
            await asyncio.gather(*(self.processes.run(argv, cwd=cwd, drop=drop) for argv in commands)),
            strict=True,
        ):
            if code:
                raise RuntimeError(f"{Path(argv[0]).name} failed ({code}): {output.strip()[-500:]}")

    async def do_spawn(self, name: str, argv: list[str], cwd: str, drop: bool, farewell: int) -> int:
        pid = await self.processes.spawn(
            name, argv, cwd=cwd, log=self.log(name), drop=drop, farewell=signal.Signals(farewell)
        )
        self._watches[name] = asyncio.create_task(self._refuse_when_dead(name))
        return pid

    async def do_status(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            lines = Path(self.log(name)).read_text(errors="replace").strip().splitlines()
            return {"exited": self.processes.returncode(name), "log": lines[-1] if lines else ""}
        return {"exited": self.processes.returncode(name), "log": ""}

    async def do_pause(self, name: str) -> None:
        self.processes.pause(name)

    async def do_resume(self, name: str) -> None:
        self.processes.resume(name)

    async def do_kill(self, name: str) -> None:
        await self.processes.kill(name)
        await self._watches[name]

    async def do_proxy(self, name: str, upstream: Any) -> int:
        self.proxies[name] = Proxy(upstream if isinstance(upstream, str) else tuple(upstream))
        self.proxies[name].accept()
        return self.proxies[name].port

    async def do_accept(self, name: str) -> None:
        self.proxies[name].accept()

    async def do_blackhole(self, name: str, on: bool) -> None:
        await self.proxies[name].blackhole(on)

    async def _refuse_when_dead(self, name: str) -> None:
        """The port of a server that died, whoever killed it, refuses like a port that nobody listens on."""
        await self.processes.ended(name)
        if name in self.proxies:
            await self.proxies[name].refuse()

    def log(self, name: str) -> str:
        return str(self.folder / f"{name}.log")

    async def stop(self) -> None:
        """Ends proxies and servers and removes every trace of them."""
        await asyncio.gather(*(proxy.aclose() for proxy in self.proxies.values()))
        await self.processes.stop_all(PATIENCE)
        for folder in self._made:
            folders.remove(folder)


async def _serve(channel: socket.socket, keeper: Keeper) -> None:
    """Answers requests until the owner hangs up."""
    reader, writer = await asyncio.open_connection(sock=channel)
    writer.write(json.dumps({"number": 0, "value": str(keeper.folder)}).encode() + b"\n")
    while line := await reader.readline():
        writer.write(json.dumps(await keeper.handle(line)).encode() + b"\n")


async def _orphaned(owner: int) -> None:
    """Returns when the owner is no longer our parent: its socket may live on in a forked child."""
    while os.getppid() == owner:
        await asyncio.sleep(0.1)


async def main(descriptor: int, owner: int) -> None:
    loop = asyncio.get_running_loop()
    keeper = Keeper()
    told = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(sign, told.set)
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(False)
    try:
        ends = [_serve(channel, keeper), _orphaned(owner), told.wait()]
        await asyncio.wait([asyncio.ensure_future(end) for end in ends], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await keeper.stop()
        os._exit(0)  # nothing is left to finish; a request under way has lost its owner


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
