"""The keeper's work. The signature of a method is its request: `KeeperClient.ask(Keeper.pause, name)` is checked by it.

Arguments and answers travel as JSON, so a tuple arrives as a list.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import random
import signal
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.lab.keeper import folders
from labkit.lab.keeper.ports import Ports
from labkit.lab.keeper.processes import Processes, User
from labkit.lab.proxy.dial import Upstream
from labkit.lab.proxy.door import LOOPBACK, Address
from labkit.lab.proxy.proxy import Proxy
from labkit.lab.proxy.toxics import built

if TYPE_CHECKING:
    from labkit.lab.keeper.containers import Containers, State

__all__ = ["Keeper", "sweep"]

GRACE = 0.3
"""Seconds the servers get to exit before they are killed."""
REMOVAL = 10.0
"""Seconds until the end of a container that was removed must be known here."""
NOBODY = 65534
"""Postgres refuses to run as root: as root, run it as the user that every Unix has for processes that own nothing."""
GROUPS = range(61_184, 65_520)
"""Group IDs that no permanent group has (systemd hands them out as DynamicUser)."""


class Keeper:
    """Does what the owner requests. A server is a process or a container."""

    def __init__(self) -> None:
        self.user = User(NOBODY, _unused_group()) if os.geteuid() == 0 else None
        self._group = self.user.gid if self.user else None
        self.folder = Path()
        self._made: list[Path] = []
        self.processes = Processes(self.user)
        self.containers: Containers | None = None
        self._runners: dict[str, Processes | Containers] = {}
        self.proxies: dict[str, Proxy] = {}
        self._ports = Ports()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._firings: list[tuple[int, float]] = []

    async def handle(self, line: bytes) -> dict[str, Any]:
        """The answer to a request: its value, or the text of the error."""
        request = json.loads(line)
        try:
            value = await getattr(self, request["do"])(*request["arguments"], **request["named"])
        except Exception as error:
            return {"number": request["number"], "error": str(error) or type(error).__name__}
        return {"number": request["number"], "value": value}

    async def greet(self) -> str:
        """Removes what killed keepers left, then makes the lab's folder; returns its path."""
        for place in folders.places():
            folders.sweep(place)
        self.folder = folders.make(folders.data_folder(), self._group)
        self._made.append(self.folder)
        return str(self.folder)

    async def make_folder(self, name: str, drop: bool) -> str:
        """A folder in the lab's; `drop`: owned by the servers' user. Returns its path."""
        path = self.folder / name
        if drop and self.user:
            folders.enterable(self.folder)
        path.mkdir(mode=0o700)
        if drop and self.user:
            os.chown(path, self.user.uid, self.user.gid)
        return str(path)

    async def install(self, below: str, parts: list[str]) -> str:
        """Copies programs for a user who may not enter the folder `below`: its subfolders `parts`. Returns the copy."""
        target = folders.make(folders.program_folder(), self._group)
        self._made.append(target)
        for part in parts:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
        # By processes, which end with the lab: a thread would go on while the folder is removed.
        await self.run([["cp", "-RPp", f"{below}/{part}", f"{target}/{part}"] for part in parts], drop=False)
        return str(target)

    async def run(self, commands: list[list[str]], drop: bool) -> None:
        """Runs commands side by side."""
        cwd = str(self.folder)
        for argv, (code, output) in zip(
            commands,
            await asyncio.gather(*(self.processes.run(argv, cwd=cwd, drop=drop) for argv in commands)),
            strict=True,
        ):
            if code:
                raise RuntimeError(f"{Path(argv[0]).name} failed ({code}): {output.strip()[-500:]}")

    async def open_engine(self, image: str, fixed: bool) -> tuple[bool, str]:
        """Reaches the Docker engine: whether it has the image, and DOCKER_HOST. Fails with the reason if it cannot.

        `fixed`: containers keep their addresses on the lab's network.
        """
        if self.containers is None:
            # The engine first: if there is none, fail before loading testcontainers' modules.
            await asyncio.to_thread(lambda: import_module("labkit.lab.keeper.engine").reach().close())
            module = await asyncio.to_thread(import_module, "labkit.lab.keeper.containers")
            (self.folder / folders.ENGINE).touch()
            self.containers = module.Containers(self.folder)
        return await self.containers.open(image, fixed), os.environ.get("DOCKER_HOST", "")

    async def pull(self, image: str) -> None:
        """Has the engine pull the image."""
        await self._docker().pull(image)

    async def start_container(
        self,
        name: str,
        kind: str,
        image: str,
        port: int,
        options: dict[str, str],
        command: list[str],
        env: dict[str, str],
    ) -> str:
        """Begins to start a container; returns its name on the engine."""
        title = self._docker().start(name, kind, image, port, options, command, env)
        self._watch(name, self._docker())
        return title

    async def restart_container(self, name: str) -> None:
        """Begins to start a container that has ended."""
        self._docker().restart(name)
        self._watch(name, self._docker())

    async def container_state(self, name: str) -> State:
        """How far the start of a container is."""
        return self._docker().state(name)

    async def disconnect(self, name: str) -> None:
        """Takes a container off its network: its connections are cut, its port refuses."""
        await self._docker().disconnect(name)
        await self.proxies[name].refuse()

    async def connect(self, name: str) -> tuple[str, int] | None:
        """Puts it back on its network; returns the address to dial, None if it does not run."""
        return await self._docker().connect(name)

    async def remove_containers(self) -> None:
        """Removes everything of the lab from the engine; then no proxy waits for the end of a container any more."""
        if self.containers is None:
            return
        await self.containers.remove_all()
        watches = [self._watches[name] for name, runner in self._runners.items() if runner is self.containers]
        if watches:
            await asyncio.wait(watches, timeout=REMOVAL)

    async def write_note(self, name: str, text: str, drop: bool) -> str:
        """A file that only the servers' user can read; returns its path."""
        path = self.folder / name
        with open(path, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as note:
            note.write(text)
        if drop and self.user:
            os.chown(path, self.user.uid, self.user.gid)
        return str(path)

    async def remove_note(self, name: str) -> None:
        """Removes such a file."""
        (self.folder / name).unlink()

    async def spawn(self, name: str, argv: list[str], cwd: str, drop: bool, farewell: int, stdin: str) -> int:
        """Starts a server process, which can read the text `stdin`; returns its PID."""
        log = str(self.folder / f"{name}.log")
        sign = signal.Signals(farewell)
        pid = await self.processes.spawn(name, argv, cwd=cwd, log=log, drop=drop, farewell=sign, stdin=stdin)
        self._watch(name, self.processes)
        return pid

    async def returncode(self, name: str) -> int | None:
        """The exit code of a server, None while it runs."""
        return self._runners[name].returncode(name)

    async def log(self, name: str) -> str:
        """The last line that a server wrote."""
        return await self._runners[name].log(name)

    async def pause(self, name: str) -> None:
        """Freezes a server."""
        await self._runners[name].pause(name)

    async def resume(self, name: str) -> None:
        """Thaws a server."""
        await self._runners[name].resume(name)

    async def kill(self, name: str) -> None:
        """Kills a server; returns when it has ended and its port refuses."""
        await self._runners[name].kill(name)
        await self._watches[name]

    async def expose(self, name: str, upstream: Upstream) -> int:
        """Puts a proxy in front of `upstream`, or turns the existing one to it. Returns its port."""
        proxy = self._proxy(name)
        proxy.upstream = upstream if isinstance(upstream, str) else (upstream[0], upstream[1])
        await proxy.accept()
        return proxy.port

    async def reserve(self, name: str) -> int:
        """The port of a proxy that will be in front of a server; it refuses until then."""
        return self._proxy(name).port

    async def listen(self, name: str, host: str, port: int) -> list[Any] | str:
        """A proxy at that address, which refuses until `expose`. Returns its [address, port], or why it cannot be
        there.
        """
        try:
            self.proxies[name] = self._new_proxy((host, port))
        except (OSError, OverflowError) as error:
            return _why(error)
        return list(self.proxies[name].address)

    async def move(self, name: str, host: str, port: int) -> list[Any] | str:
        """See `Proxy.move`; returns what `listen` does."""
        try:
            await self.proxies[name].move((host, port))
        except (OSError, OverflowError) as error:
            return _why(error)
        return list(self.proxies[name].address)

    async def redirect(self, name: str, upstream: Upstream) -> None:
        """See `Proxy.redirect`."""
        await self.proxies[name].redirect(upstream if isinstance(upstream, str) else (upstream[0], upstream[1]))

    async def withdraw(self, name: str) -> None:
        """Ends a proxy; does nothing if there is none."""
        if name in self.proxies:
            await self.proxies.pop(name).aclose()

    async def traffic(self) -> dict[str, dict[str, tuple[int, int]]]:
        """`Proxy.traffic` of each proxy."""
        return {name: proxy.traffic() for name, proxy in self.proxies.items()}

    async def free_port(self, room: int) -> int:
        """A free port for a server process whose port + `room` is free as well, as a cluster's nodes need."""
        return self._ports.free(room)

    async def write_file(self, name: str, path: str, text: str) -> None:
        """Writes a file into a container, running or not."""
        await self._docker().write_file(name, path, text)

    async def blackhole(self, name: str, on: bool) -> None:
        """See `Proxy.blackhole`."""
        await self.proxies[name].blackhole(on)

    async def down(self, name: str, on: bool) -> None:
        """See `Proxy.down`."""
        await self.proxies[name].down(on)

    async def add_toxic(
        self, name: str, toxic: int, seed: str, module: str, kind: str, root: str | None, fields: dict[str, Any]
    ) -> None:
        """Adds a toxic to a proxy, under the number that the owner gives it; it takes effect with `arm`."""
        # In a thread: loading a module may take a while, and connections must not wait for it.
        self.proxies[name].add(toxic, await asyncio.to_thread(built, module, kind, root, fields), seed)

    async def change_toxic(
        self, name: str, toxic: int, module: str, kind: str, root: str | None, fields: dict[str, Any]
    ) -> None:
        """Updates a toxic that acts, at once."""
        self.proxies[name].change(toxic, await asyncio.to_thread(built, module, kind, root, fields))

    async def remove_toxic(self, name: str, toxic: int) -> None:
        """Removes a toxic; does nothing if it is not there."""
        self.proxies[name].remove(toxic)

    async def arm(self) -> None:
        """All pending network faults take effect, on all proxies in the same moment."""
        for proxy in self.proxies.values():
            proxy.arm()
        await asyncio.gather(*(proxy.settle() for proxy in self.proxies.values()))

    async def firings(self) -> list[tuple[int, float]]:
        """(number of the toxic, time on the machine's monotonic clock) of each firing since the last call."""
        firings, self._firings = self._firings, []
        return firings

    async def traces(self) -> dict[str, list[dict[str, Any]]]:
        """By server, the connections that were open since the last call: a `Trace` each, as a mapping."""
        return {name: [asdict(trace) for trace in proxy.traces()] for name, proxy in self.proxies.items()}

    def _proxy(self, name: str) -> Proxy:
        if name not in self.proxies:
            self.proxies[name] = self._new_proxy(LOOPBACK)
        return self.proxies[name]

    def _new_proxy(self, listen: Address) -> Proxy:
        return Proxy("", lambda number, time: self._firings.append((number, time)), listen)

    def _docker(self) -> Containers:
        if self.containers is None:
            raise RuntimeError("no engine was reached")
        return self.containers

    def _watch(self, name: str, runner: Processes | Containers) -> None:
        """`runner` runs the server `name` from now on, and its end is awaited."""
        self._runners[name] = runner
        self._watches[name] = asyncio.create_task(self._refuse_when_dead(name, runner))

    async def _refuse_when_dead(self, name: str, runner: Processes | Containers) -> None:
        """The port of a dead server, whatever ended it, refuses like a port that nobody listens on."""
        await runner.ended(name)
        if name in self.proxies:
            await self.proxies[name].refuse()

    async def stop(self) -> None:
        """Ends proxies and servers and removes every trace of them."""
        await asyncio.gather(*(proxy.aclose() for proxy in self.proxies.values()))
        self._ports.close()
        await self.processes.stop_all(GRACE)
        try:
            await self.remove_containers()
        except Exception as error:
            sys.stderr.write(f"labkit: containers of {self.folder.name} may be left: {error}\n")
        for folder in self._made:
            folders.remove(folder)


def _why(error: OSError | OverflowError) -> str:
    words = error.strerror if isinstance(error, OSError) else "a port is a number from 0 to 65535"
    return str(words or error).lower()


def _unused_group() -> int:
    """A group without members, so that others who run as nobody can neither enter the lab's folders nor inspect its
    processes.
    """
    while _is_known(number := random.SystemRandom().choice(GROUPS)):
        pass
    return number


def _is_known(group: int) -> bool:
    try:
        grp.getgrgid(group)
    except KeyError:
        return False
    return True


def sweep() -> None:
    """Removes what killed keepers left behind: folders, and whatever they had on a Docker engine."""
    swept = [folders.sweep(place) for place in folders.places()]
    if any(swept):
        engine = import_module("labkit.lab.keeper.engine")
        engine.sweep(engine.reach())
