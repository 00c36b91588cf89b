"""The containers of one keeper, by testcontainers: start, kill, pause, resume, disconnect.

They are started here and not in the lab's owner, so that one process knows everything that was requested of the
engine, however the owner ends. Calls to the engine block: each runs in a thread, beside the loop of the proxies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from labkit.lab.keeper import blocking, engine

__all__ = ["Containers", "State"]

T = TypeVar("T")
THREADS = 256
"""The maximum: each running container has one that waits for its end."""
STOP_TIMEOUT = 30.0
"""Seconds that a call in progress gets to return, so that what it made can be removed as well."""


class State(TypedDict):
    """How far the start of a container is."""

    settled: bool
    """Whether the outcome of the start is known."""
    place: tuple[str, int] | None
    """The address to dial the server at."""
    error: str | None


@dataclass
class _Run:
    """A container, from the request to start it on."""

    port: int
    life: asyncio.Task[None] | None = None
    container: DockerContainer | None = None
    place: tuple[str, int] | None = None
    address: str | None = None
    """On the lab's network, if it must keep that."""
    exited: int | None = None
    error: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the outcome of the start is known."""


class Containers:
    """Containers by name, on one private network. `folder` is the keeper's; its name names the lab on the engine."""

    def __init__(self, folder: Path) -> None:
        self.lab = folder.name
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS)
        self._runs: dict[str, _Run] = {}
        self._network: Network | None = None
        self._making: set[asyncio.Future[Any]] = set()
        """Calls in progress that make something on the engine."""
        self._reached = False
        self._fixed = False
        self._closing = False
        testcontainers_config.ryuk_disabled = True  # the keeper is the reaper

    async def open(self, image: str, fixed: bool) -> bool:
        """Reaches the engine, removes what dead keepers left there, and makes the lab's network. Returns whether the
        engine has the image.

        `fixed`: containers keep their addresses on the network across restarts.
        """
        self._fixed = fixed
        return await self._make(self._open, image)

    async def pull(self, image: str) -> None:
        """Has the engine pull the image, however long that takes."""
        await self._in_thread(lambda: engine.pull(engine.reach(), blocking.full(image)))

    def start(
        self,
        name: str,
        kind: str,
        image: str,
        port: int,
        options: dict[str, str],
        command: list[str],
        env: dict[str, str],
    ) -> str:
        """Begins to start a container; `state` reports progress. Returns its name on the engine."""
        title = f"{self.lab}-{name}"
        run = self._runs[name] = _Run(port)

        def start() -> DockerContainer:
            container = blocking.make(kind, image, options, command, env)
            volumes = engine.volumes_of(container.get_docker_client().client, container.image, self._folder)
            container.with_name(title).with_kwargs(labels=engine.labels(self._folder), mounts=volumes)
            container.with_network(self._made_network())
            container.ports = {str(port): blocking.binding(container, self.lab)}
            self._refuse_when_closing()
            return container.start()

        run.life = asyncio.create_task(self._live(run, start))
        return title

    def restart(self, name: str) -> None:
        """Begins to start a container that has ended, on its old data; `state` reports progress."""
        run, container = self._runs[name], self._made(name)

        def start() -> DockerContainer:
            if self._fixed:
                # Another container may have been given its address meanwhile.
                self._off_network(container)
                self._on_network(container, run.address)
            container.get_wrapped_container().start()
            return container

        run.exited, run.place = None, None
        run.settled.clear()
        run.life = asyncio.create_task(self._live(run, start))

    def state(self, name: str) -> State:
        """How far the start of a container is."""
        run = self._runs[name]
        return {"settled": run.settled.is_set(), "place": run.place, "error": run.error}

    def returncode(self, name: str) -> int | None:
        """The exit code of a container, None while it runs."""
        return self._runs[name].exited

    async def log(self, name: str) -> str:
        """The last line that the container wrote."""
        return await self._in_thread(blocking.last_line, self._made(name))

    async def ended(self, name: str) -> None:
        """Returns when the container has ended, for whatever reason, or could not be started."""
        life = self._runs[name].life
        assert life is not None
        await asyncio.shield(life)

    async def kill(self, name: str) -> None:
        """SIGKILL to the container, paused or not; returns when it has ended."""
        await self._in_thread(blocking.kill, self._made(name))
        await self.ended(name)

    async def write_file(self, name: str, path: str, text: str) -> None:
        """Writes a small world-readable file into the container, running or not."""
        await self._in_thread(blocking.write_file, self._made(name), path, text)

    async def pause(self, name: str) -> None:
        """Freezes all processes of the container; does nothing if it has ended."""
        await self._in_thread(blocking.pause, self._made(name))

    async def resume(self, name: str) -> None:
        """Thaws them; does nothing if the container is not paused."""
        await self._in_thread(blocking.resume, self._made(name))

    async def disconnect(self, name: str) -> None:
        """Takes the container off the lab's network, and so off its port."""
        await self._in_thread(self._off_network, self._made(name))
        self._runs[name].place = None

    async def connect(self, name: str) -> tuple[str, int] | None:
        """Puts it back on; returns the address to dial now, None if it does not run."""
        run, container = self._runs[name], self._made(name)
        await self._in_thread(self._on_network, container, run.address)
        run.place = await self._in_thread(blocking.place, container, run.port)
        return run.place

    async def remove_all(self) -> None:
        """Removes every container, volume and network of the lab, including those still being made."""
        self._closing = True
        making = set(self._making)
        if self._reached:
            await self._in_thread(lambda: engine.remove(engine.reach(), self.lab))
        if making:
            await asyncio.wait(making, timeout=STOP_TIMEOUT)
        if making and self._reached:
            await self._in_thread(lambda: engine.remove(engine.reach(), self.lab))

    async def _live(self, run: _Run, start: Callable[[], DockerContainer]) -> None:
        """One life of a container: its start, its address, its end."""
        try:
            run.container = container = await self._make(start)
            run.place = await self._in_thread(blocking.place, container, run.port)
            if self._fixed:
                run.address = await self._in_thread(blocking.address, container, self.lab)
        except engine.EngineError as error:
            run.error = str(error)
            return
        finally:
            run.settled.set()
        run.exited = await self._in_thread(blocking.exit_code, container)

    def _open(self, image: str) -> bool:
        client = engine.reach()
        self._reached = True
        engine.sweep(client)
        if self._network is None:
            self._refuse_when_closing()
            self._network = self._new_network(client)
        return engine.has_image(client, blocking.full(image))

    def _new_network(self, client: Any) -> Network:
        for left in reversed(range(engine.ROUNDS)):
            network = Network(docker_network_kw=engine.network_options(client, self._folder, fixed=self._fixed))
            network.name = self.lab
            try:
                return network.create()
            except Exception as error:
                if not left or not engine.is_taken(error):
                    raise  # else another lab was given the same subnet in this moment
        raise AssertionError

    def _made_network(self) -> Network:
        assert self._network is not None
        return self._network

    def _made(self, name: str) -> DockerContainer:
        container = self._runs[name].container
        if container is None:
            raise engine.EngineError("this container was not started")
        return container

    def _off_network(self, container: DockerContainer) -> None:
        networks = container.get_docker_client().client.networks
        networks.get(self.lab).disconnect(container.get_container_id(), force=True)

    def _on_network(self, container: DockerContainer, address: str | None) -> None:
        networks = container.get_docker_client().client.networks
        networks.get(self.lab).connect(container.get_container_id(), ipv4_address=address)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise engine.EngineError("the lab is being stopped")

    async def _make(self, call: Callable[..., T], *arguments: Any) -> T:
        """As `_in_thread`, for calls that `remove_all` must wait for even when their caller is cancelled."""
        making = asyncio.ensure_future(self._in_thread(call, *arguments))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return await asyncio.shield(making)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """Calls in a thread; raises `EngineError`, which says what to do, for what the engine refuses."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        except engine.EngineError:
            raise
        except Exception as error:
            raise engine.EngineError(engine.explained(error)) from error
