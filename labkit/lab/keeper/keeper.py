"""The keeper's work: one method a request of the lab's owner."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import random
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.lab.keeper import folders
from labkit.lab.keeper.ports import Ports
from labkit.lab.keeper.processes import Processes, User
from labkit.lab.proxy.proxy import Proxy
from labkit.lab.proxy.toxics import built

if TYPE_CHECKING:
    from labkit.lab.keeper.containers import Containers

__all__ = ["Keeper", "sweep"]

PATIENCE = 0.3
"""Seconds the servers get to end by themselves before they are killed."""
REMOVAL = 10.0
"""Seconds that the end of a container which was removed may take to be known here."""
NOBODY = 65534
"""Postgres refuses to run as root: as root, it runs as the user every Unix has for nobody's things."""
GROUPS = range(61_184, 65_520)
"""Numbers that no permanent group has (systemd hands them out as DynamicUser)."""


class Keeper:
    """Carries out what the owner asks, one method a request (`do_NAME`). A server is a process or a container."""

    def __init__(self) -> None:
        self.user = User(NOBODY, _group()) if os.geteuid() == 0 else None
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
        request = json.loads(line)
        number, do = request.pop("number"), request.pop("do")
        try:
            return {"number": number, "value": await getattr(self, "do_" + do)(**request)}
        except Exception as error:
            return {"number": number, "error": str(error) or type(error).__name__}

    async def do_greet(self) -> str:
        """Makes the lab's folder, once what killed keepers left is gone."""
        for place in folders.places():
            folders.sweep(place)
        self.folder = folders.make(folders.data_folder(), self._group)
        self._made.append(self.folder)
        return str(self.folder)

    async def do_folder(self, name: str, drop: bool) -> str:
        path = self.folder / name
        if drop and self.user:
            folders.enterable(self.folder)
        path.mkdir(mode=0o700)
        if drop and self.user:
            os.chown(path, self.user.uid, self.user.gid)
        return str(path)

    async def do_install(self, below: str, parts: list[str]) -> str:
        """A copy of folders of programs, `parts` of the folder `below`, for a user who may not enter that."""
        target = folders.make(folders.program_folder(), self._group)
        self._made.append(target)
        for part in parts:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
        # By processes, which end with the lab: a thread would go on while the folder is removed.
        await self.do_run([["cp", "-RPp", f"{below}/{part}", f"{target}/{part}"] for part in parts], drop=False)
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

    async def do_engine(self, image: str, fixed: bool) -> dict[str, Any]:
        """Where the Docker engine is and whether it has the image; fails where there is none for us, and says why.

        `fixed`: containers keep their addresses on the lab's network.
        """
        if self.containers is None:
            # The engine first: where there is none, that is known before testcontainers' modules are loaded.
            await asyncio.to_thread(lambda: import_module("labkit.lab.keeper.engine").reach().close())
            module = await asyncio.to_thread(import_module, "labkit.lab.keeper.containers")
            (self.folder / folders.ENGINE).touch()
            self.containers = module.Containers(self.folder)
        return {"has_image": await self.containers.open(image, fixed), "host": os.environ.get("DOCKER_HOST", "")}

    async def do_pull(self, image: str) -> None:
        await self._docker().pull(image)

    async def do_order(self, name: str, **recipe: Any) -> str:
        """Begins to start a container; returns its name on the engine."""
        title = self._docker().order(name, **recipe)
        self._runs(name, self._docker())
        return title

    async def do_again(self, name: str) -> None:
        """Begins to start a container that has ended."""
        self._docker().again(name)
        self._runs(name, self._docker())

    async def do_state(self, name: str) -> dict[str, Any]:
        return self._docker().state(name)

    async def do_disconnect(self, name: str) -> None:
        """Takes a container off its network; what was connected is cut, and its port refuses."""
        await self._docker().disconnect(name)
        await self.proxies[name].refuse()

    async def do_connect(self, name: str) -> Any:
        """Puts it back on its network; returns where it is dialled, None where it does not run."""
        return await self._docker().connect(name)

    async def do_remove_containers(self) -> None:
        """Gives the engine up: nothing of the lab is on it, and no proxy waits for the end of a container."""
        if self.containers is None:
            return
        await self.containers.remove_all()
        watches = [self._watches[name] for name, runner in self._runners.items() if runner is self.containers]
        if watches:
            await asyncio.wait(watches, timeout=REMOVAL)

    async def do_note(self, name: str, text: str, drop: bool) -> str:
        """A file for the servers' user alone; returns its path."""
        path = self.folder / name
        with open(path, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as note:
            note.write(text)
        if drop and self.user:
            os.chown(path, self.user.uid, self.user.gid)
        return str(path)

    async def do_forget(self, name: str) -> None:
        (self.folder / name).unlink()

    async def do_spawn(self, name: str, argv: list[str], cwd: str, drop: bool, farewell: int, told: str) -> int:
        """Starts a server process, which reads on its stdin what it is `told`."""
        log = str(self.folder / f"{name}.log")
        sign = signal.Signals(farewell)
        pid = await self.processes.spawn(name, argv, cwd=cwd, log=log, drop=drop, farewell=sign, told=told)
        self._runs(name, self.processes)
        return pid

    async def do_returncode(self, name: str) -> int | None:
        return self._runners[name].returncode(name)

    async def do_log(self, name: str) -> str:
        """The last line that a server wrote."""
        return await self._runners[name].log(name)

    async def do_pause(self, name: str) -> None:
        await self._runners[name].pause(name)

    async def do_resume(self, name: str) -> None:
        await self._runners[name].resume(name)

    async def do_kill(self, name: str) -> None:
        await self._runners[name].kill(name)
        await self._watches[name]

    async def do_proxy(self, name: str, upstream: Any) -> int:
        """A proxy in front of `upstream`, a path or (host, port); one that is there turns to it. Returns its port."""
        proxy = self._proxy(name)
        proxy.upstream = upstream if isinstance(upstream, str) else tuple(upstream)
        await proxy.accept()
        return proxy.port

    async def do_reserve(self, name: str) -> int:
        """The port of a proxy that will be in front of a server; it refuses until then."""
        return self._proxy(name).port

    async def do_free_port(self, room: int) -> int:
        """A port for a server process that has another one `room` above it, as the nodes of a cluster have."""
        return self._ports.free(room)

    async def do_write_file(self, name: str, path: str, text: str) -> None:
        """Puts a file into a container, running or not."""
        await self._docker().write_file(name, path, text)

    async def do_blackhole(self, name: str, on: bool) -> None:
        await self.proxies[name].blackhole(on)

    async def do_down(self, name: str, on: bool) -> None:
        await self.proxies[name].down(on)

    async def do_toxic(self, name: str, toxic: int, seed: str, **told: Any) -> None:
        """Makes a toxic ready on a proxy, under the number that the owner gives it."""
        # In a thread, since a module may take its time to load and connections are not to wait for it.
        self.proxies[name].add(toxic, await asyncio.to_thread(built, **told), seed)

    async def do_remove_toxic(self, name: str, toxic: int) -> None:
        self.proxies[name].remove(toxic)

    async def do_arm(self) -> None:
        """All network faults that are ready take effect, on all proxies in the same moment."""
        for proxy in self.proxies.values():
            proxy.arm()
        await asyncio.gather(*(proxy.settle() for proxy in self.proxies.values()))

    async def do_firings(self) -> list[tuple[int, float]]:
        """(number of the toxic, time on the machine's monotonic clock) of each firing since this was asked last."""
        firings, self._firings = self._firings, []
        return firings

    def _proxy(self, name: str) -> Proxy:
        if name not in self.proxies:
            self.proxies[name] = Proxy("", lambda number, time: self._firings.append((number, time)))
        return self.proxies[name]

    def _docker(self) -> Containers:
        if self.containers is None:
            raise RuntimeError("no engine was reached")
        return self.containers

    def _runs(self, name: str, runner: Processes | Containers) -> None:
        """The server `name` is `runner`'s from now on, and its end is awaited."""
        self._runners[name] = runner
        self._watches[name] = asyncio.create_task(self._refuse_when_dead(name, runner))

    async def _refuse_when_dead(self, name: str, runner: Processes | Containers) -> None:
        """The port of a server that died, whoever killed it, refuses like a port that nobody listens on."""
        await runner.ended(name)
        if name in self.proxies:
            await self.proxies[name].refuse()

    async def stop(self) -> None:
        """Ends proxies and servers and removes every trace of them."""
        await asyncio.gather(*(proxy.aclose() for proxy in self.proxies.values()))
        self._ports.close()
        await self.processes.stop_all(PATIENCE)
        try:
            await self.do_remove_containers()
        except Exception as error:
            sys.stderr.write(f"labkit: containers of {self.folder.name} may be left: {error}\n")
        for folder in self._made:
            folders.remove(folder)


def _group() -> int:
    """A group that nobody is in, so that others who run as nobody can neither enter the lab's folders nor look into its
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
    """Removes what keepers left that were killed before they could: folders, and what they had on a Docker engine."""
    swept = [folders.sweep(place) for place in folders.places()]
    if any(swept):
        engine = import_module("labkit.lab.keeper.engine")
        engine.sweep(engine.reach())
