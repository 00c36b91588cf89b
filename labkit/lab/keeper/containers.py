"""The containers of one keeper, by testcontainers: start, kill, pause, resume, disconnect.

They are started here and not in the lab's owner, so that one process knows all that the engine was asked for,
however its owner ends. Calls to the engine block: each has a thread, beside the loop that runs the proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests
from docker.errors import APIError, DockerException
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from labkit.lab.keeper import engine

__all__ = ["Containers"]

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
LOCALHOSTS = ("localhost", LOOPBACK, "::1")
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
    exited: int | None = None
    error: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is known whether the container starts."""


class _Postgres(PostgresContainer):
    """Does not wait: the lab itself asks until the server answers, at first and after every restart."""

    def _connect(self) -> None: ...


class _Redis(RedisContainer):
    """As above."""

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self._wait_strategy = None


_CLASSES: dict[str, Callable[..., DockerContainer]] = {"postgres": _Postgres, "redis": _Redis}


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
        self._closing = False
        testcontainers_config.ryuk_disabled = True  # the keeper is the reaper

    async def open(self, image: str) -> bool:
        """Reaches the engine, removes what dead keepers left there, and makes the lab's network.

        Returns whether the engine has the image.
        """
        return await self._make(self._open, image)

    async def pull(self, image: str) -> None:
        """Has the engine fetch the image, however long that takes."""
        await self._in_thread(lambda: engine.pull(engine.reach(), _full(image)))

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
            container = _CLASSES[kind](image, **options).with_command(command).with_envs(**env)
            volumes = engine.volumes_of(container.get_docker_client().client, container.image, self._folder)
            container.with_name(title).with_kwargs(labels=engine.labels(self._folder), mounts=volumes)
            container.with_network(self._made_network())
            container.ports = {str(port): _binding(container)}
            self._refuse_when_closing()
            return container.start()

        run.life = asyncio.create_task(self._live(run, start))
        return title

    def again(self, name: str) -> None:
        """Begins to start a container that has ended, on its old data; `state` tells how far it is."""
        run, container = self._runs[name], self._made(name)

        def start() -> DockerContainer:
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
        container = self._made(name).get_wrapped_container()
        written = await self._in_thread(lambda: container.logs(tail=20))
        return next((line for line in reversed(written.decode(errors="replace").split("\n")) if line.strip()), "")

    async def ended(self, name: str) -> None:
        """Returns when the container has ended, whoever ended it, or could not be started."""
        life = self._runs[name].life
        assert life is not None
        await asyncio.shield(life)

    async def kill(self, name: str) -> None:
        """SIGKILL to the container, paused or not; returns when it has ended."""
        await self._in_thread(_kill, self._made(name))
        await self.ended(name)

    async def pause(self, name: str) -> None:
        """Freezes all processes of the container; does nothing to one that has ended."""
        await self._in_thread(_only, "running", self._made(name), "pause")

    async def resume(self, name: str) -> None:
        """Thaws them; does nothing to a container that is not paused."""
        await self._in_thread(_only, "paused", self._made(name), "unpause")

    async def disconnect(self, name: str) -> None:
        """Takes the container off the lab's network, and so off its port."""
        await self._in_thread(self._off_network, self._made(name))
        self._runs[name].place = None

    async def connect(self, name: str) -> tuple[str, int] | None:
        """Puts it back on; returns where it is dialled now, None where it does not run."""
        run, container = self._runs[name], self._made(name)
        await self._in_thread(self._made_network().connect, container.get_container_id())
        run.place = await self._in_thread(_place, container, run.port)
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
            run.place = await self._in_thread(_place, container, run.port)
        except engine.EngineError as error:
            run.error = str(error)
            return
        finally:
            run.settled.set()
        run.exited = await self._in_thread(_exit_code, container)

    def _open(self, image: str) -> bool:
        client = engine.reach()
        self._reached = True
        engine.sweep(client)
        if self._network is None:
            self._refuse_when_closing()
            network = Network(docker_network_kw={"labels": engine.labels(self._folder)})
            network.name = self.lab
            self._network = network.create()
        return engine.has_image(client, _full(image))

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
        except (DockerException, requests.RequestException) as error:
            raise engine.EngineError(engine.explained(error)) from error


def _full(image: str) -> str:
    """The name that testcontainers takes for the image: TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX stands before it."""
    return testcontainers_config.hub_image_name_prefix + image


def _binding(container: DockerContainer) -> Any:
    """On an engine of this machine the port is open to this machine only; None is every interface."""
    client = container.get_docker_client()
    local = client.get_connection_mode() is ConnectionMode.docker_host and client.host() in LOCALHOSTS
    return (LOOPBACK, None) if local else None


def _place(container: DockerContainer, port: int) -> tuple[str, int] | None:
    """Where the server is dialled: the port is another after every start. None while it has none."""
    client = container.get_docker_client()
    try:
        host = container.get_container_host_ip()
        mapped = client.get_connection_mode().use_mapped_port
        return (LOOPBACK if host in LOCALHOSTS else host), int(
            client.port(container.get_container_id(), port) if mapped else port
        )
    except (ConnectionError, KeyError):
        return None  # it has ended already, or is off its network


def _fresh(container: DockerContainer) -> Any:
    """The engine's view of the container, as it is now."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    return wrapped


def _only(state: str, container: DockerContainer, action: str) -> None:
    """Does something to a container in that state, nothing to one in another."""
    fresh = _fresh(container)
    if fresh.status == state:
        getattr(fresh, action)()


def _kill(container: DockerContainer) -> None:
    try:
        container.get_wrapped_container().kill()
    except APIError as error:
        if error.status_code != requests.codes.conflict:  # it has ended by itself
            raise


def _exit_code(container: DockerContainer) -> int:
    """Waits for the end of the container; one that can no longer be asked about has ended."""
    with contextlib.suppress(DockerException, requests.RequestException):
        return int(container.get_wrapped_container().wait(timeout=None)["StatusCode"])
    return -1
