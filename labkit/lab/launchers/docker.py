"""Starts one container per shard, by testcontainers, on a private network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

from labkit._imports import install
from labkit._types import ShardKey
from labkit.errors import LabError
from labkit.lab.access import ADMIN
from labkit.lab.backends.base import Backend, Place
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.progress import Progress
from labkit.lab.server import ServerHandle

__all__ = ["IMAGES", "ContainerShard", "DockerLauncher", "Recipe", "build_it", "image_of", "recipe"]

IMAGES = {"postgres": "postgres:18", "redis": "redis:8"}
"""The official images."""


@dataclass(frozen=True)
class Recipe:
    """How the containers of one backend are made."""

    kind: str
    image: str
    port: int
    """The port that the server listens on in the container."""
    options: dict[str, str] = field(repr=False)
    """The arguments of testcontainers' class for it."""
    command: list[str]
    env: dict[str, str] = field(repr=False)


def image_of(backend: str) -> str:
    """The image for a backend; LABKIT_POSTGRES_IMAGE and LABKIT_REDIS_IMAGE override the defaults."""
    return os.environ.get(f"LABKIT_{backend.upper()}_IMAGE") or IMAGES[backend]


def build_it(kind: str) -> str:
    """How to have an image of that kind without a registry."""
    return f'build it (sudo "$(labkit cluster path)/images/build") and name it in LABKIT_{kind.upper()}_IMAGE'


def recipe(backend: str, credentials: str) -> Recipe:
    """The recipe for a backend, with its `credentials`. A custom image must start as the official one does.

    Every user of the machine can read a container's command, so command and environment hold hashes only.
    """
    backend = "redis" if backend == "redis-cluster" else backend
    if backend == "postgres":
        from labkit.lab.backends import postgres

        settings = [word for name, value in postgres.SETTINGS.items() for word in ("-c", f"{name}={value}")]
        options = {"username": ADMIN, "password": credentials, "dbname": postgres.DATABASE}
        env = {
            "POSTGRES_HOST_AUTH_METHOD": "scram-sha-256",
            "POSTGRES_INITDB_ARGS": " ".join(postgres.INITDB),
        }
        return Recipe(backend, image_of(backend), postgres.PORT, options, ["postgres", *settings], env)
    from labkit.lab.backends import redis

    users = [word for line in credentials.splitlines() for word in f"--{line}".split()]
    command = ["redis-server", *redis.SETTINGS, *users]
    return Recipe(backend, image_of(backend), redis.PORT, {}, command, {})


class ContainerShard(ServerHandle):
    """One container. Kill is `docker kill`, Pause is `docker pause`, Disconnect takes it off the lab's network."""

    layers = frozenset({*ServerHandle.layers, "container"})
    start_timeout = 60.0
    keeps_address: ClassVar[bool] = False
    """Whether it keeps its address on the lab's network across a restart."""
    poll = 0.1  # polled more often, three containers take processor time from each other

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str, recipe: Recipe) -> None:
        super().__init__(keeper, backend, name)
        self._recipe = recipe
        self._on_network = True
        self.container = ""
        """Its name on the engine, as for `docker logs`."""

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return self._recipe

    async def launch(self) -> None:
        if not self.container:
            made = self.recipe
            self.container = await self._keeper.ask(
                Keeper.start_container,
                self._name,
                kind=made.kind,
                image=made.image,
                port=made.port,
                options=made.options,
                command=made.command,
                env=made.env,
            )
        else:
            await self._keeper.ask(Keeper.restart_container, self._name)
        while not (state := await self._keeper.ask(Keeper.container_state, self._name))["settled"]:
            await asyncio.sleep(self.poll)
        if state["error"]:
            raise LabError(f"container {self.container} did not start: {state['error']}")
        self._turn_to(state["place"])
        self.killed = False

    async def restart(self) -> None:
        if self._on_network:
            await super().restart()
        elif await self._keeper.ask(Keeper.returncode, self._name) is not None:
            await self.launch()  # it can answer only once it is back on its network

    async def disconnect(self) -> None:
        self._on_network = False
        await self._keeper.ask(Keeper.disconnect, self._name)
        self._turn_to(None)

    async def reconnect(self) -> None:
        self._on_network = True
        self._turn_to(await self._keeper.ask(Keeper.connect, self._name))
        if self.place is not None:
            await self.expose()

    def _turn_to(self, place: Place | None) -> None:
        self.place = (place[0], int(place[1])) if place else None


class DockerLauncher:
    """A `Launcher` of containers, each a `kind`. `may_pull`: whether to pull an image that the engine does not have."""

    name = "docker"
    at_once = 8  # more at once makes an engine slower, not faster

    def __init__(
        self, keeper: KeeperClient, backend: Backend, kind: type[ContainerShard] = ContainerShard, *, may_pull: bool
    ) -> None:
        self._keeper = keeper
        self._backend = backend
        self._kind = kind
        self._may_pull = may_pull
        self.shards: dict[ShardKey, ContainerShard] = {}
        self._host: str | None = None
        """The keeper's DOCKER_HOST; None until it has reached an engine."""

    async def prepare(self, shards: Sequence[Any], progress: Progress) -> Mapping[Any, ContainerShard]:
        wanted = recipe(self._backend.name, self._backend.credentials)
        if find_spec("testcontainers") is None:
            raise LabError(f"testcontainers is not installed: {install('lab')} brings it")
        has_image, self._host = await self._keeper.ask(Keeper.open_engine, wanted.image, fixed=self._kind.keeps_address)
        if not has_image:
            if not self._may_pull:
                raise LabError(f"image {wanted.image} is not here: docker pull it, or {build_it(wanted.kind)}")
            for shard in shards:
                progress.step(shard, f"pulling {wanted.image}")
            try:
                await self._keeper.ask(Keeper.pull, wanted.image)
            except LabError as error:
                raise LabError(f"{error}; check the name, or {build_it(wanted.kind)}") from None
        for number, shard in enumerate(shards, start=1):
            self.shards[shard] = self._kind(self._keeper, self._backend, str(number), wanted)
        return self.shards

    def leftovers(self) -> list[str]:
        if self._host is None or self._keeper.folder is None:
            return []
        from labkit.lab.keeper import engine

        try:
            with closing(engine.reach({**os.environ, "DOCKER_HOST": self._host})) as client:
                return [f"{kind} {item.name}" for kind, item in engine.held(client, self._keeper.folder.name)]
        except engine.EngineError as error:
            return [f"perhaps containers: {error}"]
