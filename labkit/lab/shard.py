"""A shard of a lab: one server that the keeper runs, and the proxy in front of it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import ClassVar

from labkit.errors import LabError, UsageError
from labkit.lab.backends import Backend, Place
from labkit.lab.keeper.client import KeeperClient

__all__ = ["LabShard"]


class LabShard(ABC):
    """A `faults.Target`. What differs is how the server is started, and what faults there can be."""

    layers: ClassVar[frozenset[str]] = frozenset({"process", "network"})
    patience: ClassVar[float]
    """Seconds a server may take to answer after it was started; a slow disk is no fault."""
    poll: ClassVar[float]
    """Seconds between two questions whether it does."""

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str) -> None:
        self._keeper = keeper
        self._backend = backend
        self._name = name
        self.place: Place | None = None
        """Where the server itself is dialled, past the proxy; None while nowhere."""
        self.port = 0

    @property
    def located(self) -> Place:
        """`place`; ConnectionError while the server listens nowhere."""
        if self.place is None:
            raise ConnectionError("it listens nowhere")
        return self.place

    @abstractmethod
    async def launch(self) -> None:
        """Starts the server, for the first time or again, and sets `place`; need not wait for its answer."""

    async def start(self) -> None:
        """Starts the server and returns when it answers; `LabError` with its last words when it does not."""
        await self.launch()
        await self._answers()

    async def expose(self) -> int:
        """Puts the proxy in front, turned to where the server is now; returns its port, which never changes."""
        self.port = await self._keeper.ask("proxy", name=self._name, upstream=self.place)
        return self.port

    async def kill(self) -> None:
        await self._keeper.ask("kill", name=self._name)

    async def restart(self) -> None:
        if await self._keeper.ask("returncode", name=self._name) is not None:
            await self.start()
        await self.expose()

    async def pause(self) -> None:
        await self._keeper.ask("pause", name=self._name)

    async def resume(self) -> None:
        await self._keeper.ask("resume", name=self._name)

    async def blackhole(self, on: bool) -> None:
        await self._keeper.ask("blackhole", name=self._name, on=on)

    async def disconnect(self) -> None:
        raise UsageError("a server process has no network to be taken off")

    async def reconnect(self) -> None:
        raise UsageError("a server process has no network to be put back on")

    async def _answers(self) -> None:
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + self.patience
        while True:
            try:
                async with asyncio.timeout_at(patience_ends):
                    return await self._backend.ping(self.located)
            except (OSError, TimeoutError) as error:
                exited = await self._keeper.ask("returncode", name=self._name)
                if exited is not None:
                    words = await self._keeper.ask("log", name=self._name)
                    raise LabError(f"a server did not start (exit {exited}): {words}") from None
                if loop.time() >= patience_ends:
                    words = await self._keeper.ask("log", name=self._name)
                    raise LabError(
                        f"a server gives no answer after {self.patience:.0f} s ({error}); its last words: {words}"
                    ) from None
            await asyncio.sleep(self.poll)
