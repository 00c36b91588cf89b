"""Faults on shards, as `Lab` and `Proxies` offer them: from any event loop and thread, undone whatever happens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from labkit.errors import LabError
from labkit.faults.base import Fault
from labkit.lab.control import Control
from labkit.lab.events import Event
from labkit.lab.injector import Active, Injector, warn
from labkit.lab.rules import Pair, pairs

__all__ = ["Injecting"]

T = TypeVar("T")


class Injecting:
    """Subclasses set these attributes, and say by `_started` and `_own` when they may be used."""

    _control: Control
    _injector: Injector | None
    _owner: int
    """The process that started it."""

    @asynccontextmanager
    async def fault(self, shard: Any, *faults: Fault) -> AsyncIterator[None]:
        """`async with lab.fault(2, faults.Pause()):` — undone on exit, whatever happens inside.

        On several shards at once, all or none: `lab.fault({2: faults.Pause(), 3: [faults.Latency(), …]})`.
        Faults of the network take effect on all of them in the same moment. Raises `UsageError` for an unknown shard,
        for what is not a fault, and for a fault that cannot act there. Warns of one that never fired
        (`errors.NeverFired`).
        """
        begun = await self._inject(pairs(shard, faults))
        try:
            yield
        except BaseException:
            await self._undo(begun)  # without warnings: the error from inside matters
            raise
        warn(await self._undo(begun))

    async def inject(self, shard: Any, *faults: Fault) -> None:
        """Starts faults that last until `heal()`, for use across notebook cells. Takes and raises what `fault` does."""
        await self._inject(pairs(shard, faults))

    async def heal(self) -> None:
        """Undoes every fault and returns when all shards answer again; `LabError` names one that does not."""
        injector = self._started()
        warn(await self._controlled(injector.heal))

    @property
    def events(self) -> list[Event]:
        """Every start, firing and stop of a fault, in order; `record()` adds the firings of faults that still last."""
        return list(self._injector.recorder.events) if self._injector else []

    async def record(self) -> list[Event]:
        """`events`, including the firings so far of faults that still last."""
        injector = self._started()
        await self._controlled(injector.collect)
        return self.events

    async def _collect_last(self) -> None:
        """Before the keeper ends: records the firings of faults that still last."""
        if self._injector is not None:
            with suppress(LabError):  # the keeper is gone already
                await self._injector.collect()

    async def _inject(self, wanted: Sequence[Pair]) -> list[Active]:
        injector = self._started()
        begun: list[Active] = []

        async def work() -> None:
            begun.extend(await injector.start(wanted))

        try:
            await self._controlled(work)
            for _ in range(2):  # let this loop, too, see connections end
                await asyncio.sleep(0)
        except BaseException:  # cancelled after the start: nobody else will undo these faults
            await self._undo(begun)
            raise
        return begun

    async def _undo(self, begun: Sequence[Active]) -> list[Active]:
        if not begun or os.getpid() != self._owner:
            return []  # in a forked child: the fault belongs to its parent
        injector = self._started()
        return await self._controlled(lambda: injector.stop(begun))

    async def _controlled(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._own()
        return await self._control.run(work)

    def _started(self) -> Injector:
        """`UsageError` unless it is running."""
        raise NotImplementedError

    def _own(self) -> None:
        """`UsageError` in a forked child of the process that started it."""
        raise NotImplementedError
