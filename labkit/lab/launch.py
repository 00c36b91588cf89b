"""The servers of a lab, containers or processes, and the choice between the two for `launcher="auto"`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from labkit.errors import LabError, LabkitError, UsageError
from labkit.lab.backends.base import Backend
from labkit.lab.control import Control
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.launchers.docker import ContainerShard, DockerLauncher
from labkit.lab.launchers.embedded import EmbeddedLauncher, EmbeddedShard
from labkit.lab.progress import READY, Progress
from labkit.lab.server import Role, ServerHandle

__all__ = ["LAUNCHERS", "Launcher", "Servers", "chosen", "each"]

LAUNCHERS = ("auto", "docker", "embedded")


class Launcher(Protocol):
    """Makes servers, one per shard. The keeper ends them."""

    name: str
    at_once: int
    """How many servers to start side by side."""

    async def prepare(self, shards: Sequence[Any], progress: Progress) -> Mapping[Any, ServerHandle]:
        """Shards that can be started; `LabError`, with what to do about it, if servers cannot run here."""

    def leftovers(self) -> list[str]:
        """What its servers have on this machine."""


class Servers:
    """The servers of one `Lab`. `choice` is one of `LAUNCHERS`; `launcher` is the one used, `reason` why not docker."""

    def __init__(self, choice: str, backend: Backend, control: Control) -> None:
        self._choice = choice
        self._backend = backend
        self._control = control
        self._keeper: KeeperClient | None = None
        self._tried: list[Launcher] = []
        self.launcher = choice
        self.reason = ""

    async def start(
        self, rows: Mapping[Any, Sequence[tuple[int, str | None]]], roles: Mapping[Any, Role], progress: Progress
    ) -> Mapping[Any, ServerHandle]:
        """Running servers behind their proxies, loaded with `rows`; those without a role hold none.

        If that fails, nothing is left running.
        """
        self._keeper, self._tried = KeeperClient(self._control), []
        self.launcher, self.reason = self._choice, ""
        try:
            await self._keeper.greet()
            progress.title = self._title
            with progress:
                return await self._start(self._keeper, rows, roles, progress)
        except BaseException:
            await self.aclose()
            raise

    async def arm(self) -> None:
        """All pending network faults take effect, in the same moment."""
        if self._keeper is not None:
            await self._keeper.ask(Keeper.arm)

    async def firings(self) -> list[tuple[int, float]]:
        """(number of a toxic, `time.monotonic()`) of each firing since the last call."""
        return [(number, at) for number, at in await self._keeper.ask(Keeper.firings)] if self._keeper else []

    async def traces(self) -> dict[str, list[dict[str, Any]]]:
        """See `Keeper.traces`."""
        return await self._keeper.ask(Keeper.traces) if self._keeper else {}

    async def aclose(self) -> None:
        """Ends all servers and proxies; returns when they are gone."""
        if self._keeper is not None:
            await self._keeper.aclose()

    def leftovers(self) -> list[str]:
        """What is left of the servers that were started last; [] once they are stopped."""
        keeper = self._keeper.leftovers() if self._keeper else []
        return keeper + [item for launcher in self._tried for item in launcher.leftovers()]

    @property
    def folder(self) -> Path | None:
        """The lab's folder; None before `start`."""
        return self._keeper.folder if self._keeper else None

    @property
    def _title(self) -> str:
        return f"{self._backend.name} lab ({self.launcher})"

    async def _start(
        self, keeper: KeeperClient, rows: Mapping[Any, Any], roles: Mapping[Any, Role], progress: Progress
    ) -> Mapping[Any, ServerHandle]:
        if self._choice != "embedded":
            docker = DockerLauncher(
                keeper, self._backend, _container_of(self._backend.name), may_pull=self._choice == "docker"
            )
            try:
                return await self._bring_up(docker, rows, roles, progress)
            except LabError as error:
                if self._choice == "docker":
                    raise
                self.reason = str(error)
                await keeper.ask(Keeper.remove_containers)
        embedded = EmbeddedLauncher(keeper, self._backend, _process_of(self._backend.name))
        try:
            return await self._bring_up(embedded, rows, roles, progress)
        except LabError as error:
            raise LabError(f"{error} (and no containers: {self.reason})" if self.reason else str(error)) from None

    async def _bring_up(
        self, launcher: Launcher, rows: Mapping[Any, Any], roles: Mapping[Any, Role], progress: Progress
    ) -> Mapping[Any, ServerHandle]:
        """Starts all servers, joins, loads and exposes them; raises the first error."""
        self._tried.append(launcher)
        self.launcher = launcher.name
        progress.title, progress.note = self._title, self.reason
        shards = await launcher.prepare(list(rows), progress)

        async def start(shard: Any) -> None:
            progress.step(shard, "starting")
            await shards[shard].start()

        async def fill(shard: Any) -> None:
            server = shards[shard]
            if shard in roles:
                progress.step(shard, "loading")
                server.assign(roles[shard])
                try:
                    await server.load(rows[shard])
                except LabkitError:
                    raise
                except Exception as error:
                    raise LabError(f"shard {shard!r} did not take its rows: {error}") from error
            await server.expose()
            progress.step(shard, READY)

        await each(shards, start, launcher.at_once)
        await self._backend.join(shards)
        await each(shards, fill, launcher.at_once)
        return shards


async def each(shards: Iterable[Any], work: Callable[[Any], Awaitable[None]], at_once: int) -> None:
    """Does it for all of them side by side, `at_once` at a time; raises the first error."""
    limit = asyncio.Semaphore(at_once)

    async def one(shard: Any) -> None:
        async with limit:
            await work(shard)

    try:
        async with asyncio.TaskGroup() as group:
            for shard in shards:
                group.create_task(one(shard))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def chosen(launcher: str) -> str:
    """The launcher to use: LABKIT_LAUNCHER replaces "auto". `UsageError` for an unknown one."""
    choice = os.environ.get("LABKIT_LAUNCHER", "auto") if launcher == "auto" else launcher
    if choice not in LAUNCHERS:
        raise UsageError(f"unknown launcher {choice!r}: choose one of {', '.join(LAUNCHERS)}")
    return choice


def _container_of(backend: str) -> type[ContainerShard]:
    if backend != "redis-cluster":
        return ContainerShard
    from labkit.lab.cluster.container import ContainerNode

    return ContainerNode


def _process_of(backend: str) -> type[EmbeddedShard]:
    if backend != "redis-cluster":
        return EmbeddedShard
    from labkit.lab.cluster.embedded import EmbeddedNode

    return EmbeddedNode
