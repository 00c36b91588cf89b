"""The containers of one keeper, by testcontainers: start, kill, pause, resume, disconnect.

They are started here and not in the lab's owner, so that one process knows all that the engine was asked for,
however its owner ends. Calls to the engine block: each has a thread, beside the loop that runs the proxies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from labkit.lab.keeper import blocking, engine

__all__ = ["Containers"]

T = TypeVar("T")
THREADS = 256
"""At the most: each running container has one that waits for its end."""
STOP_PATIENCE = 30.0
"""Seconds that a call under way gets to return, so that what it made can be removed as well."""


@dataclass
class _Run:
    """A container, from the order to start it on."""

    port: int
    life: asyncio.Task[None] | None = None
    container: DockerContainer | None = None
    place: tuple[str, int] | None = None
    address: str | None = None
    """On the lab's network, where it is to keep that."""
    exited: int | None = None
    error: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is known whether the container starts."""


class Containers:
    """Containers by name, on one private network. `folder` is the keeper's; the lab has its name on the engine."""

    def __init__(self, folder: Path) -> None:
        self.lab = folder.name
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS)
        self._runs: dict[str, _Run] = {}
        self._network: Network | None = None
        self._making: set[asyncio.Future[Any]] = set()
        """Calls under way that make something on the engine."""
        self._reached = False
        self._fixed = False
        self._closing = False
        testcontainers_config.ryuk_disabled = True  # the keeper is the reaper

    async def open(self, image: str, fixed: bool) -> bool:
        """Reaches the engine, removes what dead keepers left there, and makes the lab's network.

        `fixed`: a container that starts again has the address on it that it had before. Returns whether the engine has
        the image.
        """
        self._fixed = fixed
        return await self._make(self._open, image)

    async def pull(self, image: str) -> None:
        """Has the engine fetch the image, however long that takes."""
        await self._in_thread(lambda: engine.pull(engine.reach(), blocking.full(image)))

    def order(
        self,
        name: str,
        kind: str,
        image: str,
        port: int,
        options: dict[str, str],
        command: list[str],
        env: dict[str, str],
    ) -> str:
        """Begins to start a container; `state` tells how far it is. Returns its name on the engine."""
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

    def again(self, name: str) -> None:
        """Begins to start a container that has ended, on its old data; `state` tells how far it is."""
        run, container = self._runs[name], self._made(name)

        def start() -> DockerContainer:
            if self._fixed:
                # While it was gone, another one may have been given its address.
                self._off_network(container)
                self._on_network(container, run.address)
            container.get_wrapped_container().start()
            return container

        run.exited, run.place = None, None
        run.settled.clear()
        run.life = asyncio.create_task(self._live(run, start))

    def state(self, name: str) -> dict[str, Any]:
        """Whether it is known how the start ended, where the server is dialled, its exit code, what went wrong."""
        run = self._runs[name]
        return {"settled": run.settled.is_set(), "place": run.place, "exited": run.exited, "error": run.error}

    def returncode(self, name: str) -> int | None:
        """The exit code of a container that ended, None while it runs."""
        return self._runs[name].exited

    async def log(self, name: str) -> str:
        """The last line that the container wrote."""
        return await self._in_thread(blocking.last_line, self._made(name))

    async def ended(self, name: str) -> None:
        """Returns when the container has ended, whoever ended it, or could not be started."""
        life = self._runs[name].life
        assert life is not None
        await asyncio.shield(life)

    async def kill(self, name: str) -> None:
        """SIGKILL to the container, paused or not; returns when it has ended."""
        await self._in_thread(blocking.kill, self._made(name))
        await self.ended(name)

    async def write_file(self, name: str, path: str, text: str) -> None:
        """Puts a small file that everybody may read into the container, running or not."""
        await self._in_thread(blocking.write_file, self._made(name), path, text)

    async def pause(self, name: str) -> None:
        """Freezes all processes of the container; does nothing to one that has ended."""
        await self._in_thread(blocking.pause, self._made(name))

    async def resume(self, name: str) -> None:
        """Thaws them; does nothing to a container that is not paused."""
        await self._in_thread(blocking.resume, self._made(name))

    async def disconnect(self, name: str) -> None:
        """Takes the container off the lab's network, and so off its port."""
        await self._in_thread(self._off_network, self._made(name))
        self._runs[name].place = None

    async def connect(self, name: str) -> tuple[str, int] | None:
        """Puts it back on; returns where it is dialled now, None where it does not run."""
        run, container = self._runs[name], self._made(name)
        await self._in_thread(self._on_network, container, run.address)
        run.place = await self._in_thread(blocking.place, container, run.port)
        return run.place

    async def remove_all(self) -> None:
        """Removes every container, volume and network of the lab, those that are just being made as well."""
        self._closing = True
        making = set(self._making)
        if self._reached:
            await self._in_thread(lambda: engine.remove(engine.reach(), self.lab))
        if making:
            await asyncio.wait(making, timeout=STOP_PATIENCE)
        if making and self._reached:
            await self._in_thread(lambda: engine.remove(engine.reach(), self.lab))

    async def _live(self, run: _Run, start: Callable[[], DockerContainer]) -> None:
        """One life of a container: its start, where it is dialled, its end."""
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
                    raise  # else another lab was given the same addresses in this moment
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
        """As `_in_thread`, for what `remove_all` must wait for, also when nobody else does any more."""
        making = asyncio.ensure_future(self._in_thread(call, *arguments))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return await asyncio.shield(making)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """Calls in a thread; what the engine refuses is an `EngineError` that says what to do."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        except engine.EngineError:
            raise
        except Exception as error:
            raise engine.EngineError(engine.explained(error)) from error
