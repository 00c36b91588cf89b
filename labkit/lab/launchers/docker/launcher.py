"""Starts containers, one a shard."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, ClassVar

from labkit._imports import install
from labkit._types import ShardKey
from labkit.errors import LabError
from labkit.lab.backends.base import Backend
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.launchers.docker.images import Recipe, recipe
from labkit.lab.progress import Progress
from labkit.lab.server import ServerHandle

__all__ = ["ContainerShard", "DockerLauncher"]

BUILD = "build it (cluster/images/build)"


class ContainerShard(ServerHandle):
    """One container. Kill is `docker kill`, Pause is `docker pause`, Disconnect takes it off the lab's network."""

    layers = frozenset({*ServerHandle.layers, "container"})
    patience = 60.0
    keeps_address: ClassVar[bool] = False
    """Whether it has the same address on the lab's network when it starts again."""
    poll = 0.1  # three that are asked more often take processor time from each other

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
            self.container = await self._keeper.ask("order", name=self._name, **asdict(self.recipe))
        else:
            await self._keeper.ask("again", name=self._name)
        while not (state := await self._keeper.ask("state", name=self._name))["settled"]:
            await asyncio.sleep(self.poll)
        if state["error"]:
            raise LabError(f"container {self.container} did not start: {state['error']}")
        self._turn_to(state["place"])

    async def restart(self) -> None:
        if self._on_network:
            await super().restart()
        elif await self._keeper.ask("returncode", name=self._name) is not None:
            await self.launch()  # it can answer once it is on its network again

    async def disconnect(self) -> None:
        self._on_network = False
        await self._keeper.ask("disconnect", name=self._name)
        self._turn_to(None)

    async def reconnect(self) -> None:
        self._on_network = True
        self._turn_to(await self._keeper.ask("connect", name=self._name))
        if self.place is not None:
            await self.expose()

    def _turn_to(self, place: Any) -> None:
        self.place = tuple(place) if place else None


class DockerLauncher:
    """A `Launcher` of containers, each a `kind`. `may_pull`: whether an image the engine does not have is fetched."""

    name = "docker"
    at_once = 8  # an engine that is asked for more gets slower, not quicker

    def __init__(
        self, keeper: KeeperClient, backend: Backend, kind: type[ContainerShard] = ContainerShard, *, may_pull: bool
    ) -> None:
        self._keeper = keeper
        self._backend = backend
        self._kind = kind
        self._may_pull = may_pull
        self.shards: dict[ShardKey, ContainerShard] = {}
        self._host: str | None = None
        """What DOCKER_HOST is for the keeper; None until it has reached an engine."""

    async def prepare(self, shards: Sequence[Any], progress: Progress) -> Mapping[Any, ContainerShard]:
        wanted = recipe(self._backend.name, self._backend.credentials)
        variable = f"LABKIT_{wanted.kind.upper()}_IMAGE"
        if find_spec("testcontainers") is None:
            raise LabError(f"testcontainers is not installed: {install('lab')} brings it")
        engine = await self._keeper.ask("engine", image=wanted.image, fixed=self._kind.keeps_address)
        self._host = engine["host"]
        if not engine["has_image"]:
            if not self._may_pull:
                raise LabError(
                    f"image {wanted.image} is not here: docker pull it, or {BUILD} and name it in {variable}"
                )
            for shard in shards:
                progress.step(shard, f"pulling {wanted.image}")
            try:
                await self._keeper.ask("pull", image=wanted.image)
            except LabError as error:
                raise LabError(f"{error}; check the name, or {BUILD} and name it in {variable}") from None
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
