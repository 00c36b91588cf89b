"""The one place that starts faults and undoes them."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, cast

from labkit._types import ShardKey
from labkit.errors import NeverFired, UsageError
from labkit.faults.base import Fault, Fires, Target, Undo
from labkit.faults.network.detector import Detector
from labkit.faults.network.toxic import Toxic
from labkit.lab.events import Recorder
from labkit.lab.handle import NetworkHandle
from labkit.lab.rules import GONE, INSIDE, Pair, check, check_write

__all__ = ["Active", "Injector", "level_of_caller", "unfired", "warn"]


@dataclass(eq=False)
class Active:
    """A fault that is acting on a shard."""

    shard: ShardKey
    fault: Fault
    undo: Undo = field(default_factory=Undo)
    toxics: set[int] = field(default_factory=set)
    """Numbers of the toxics that report whether it fired."""
    fired: bool = False
    started: bool = False
    idle: bool = False
    """Whether there was nothing that it could act on."""


class Injector:
    """Starts and stops faults, one call at a time.

    `arm` makes pending network faults take effect, `firings` returns the toxics that fired since its last call;
    `healthy(shard)` is awaited once a shard's last fault is undone.
    """

    def __init__(
        self,
        targets: Mapping[Any, NetworkHandle],
        arm: Callable[[], Awaitable[None]],
        firings: Callable[[], Awaitable[list[tuple[int, float]]]],
        healthy: Callable[[ShardKey], Awaitable[None]],
    ) -> None:
        self._targets = targets
        self._arm, self._firings, self._healthy = arm, firings, healthy
        self._active: list[Active] = []
        self._postponed: dict[ShardKey, list[Undo]] = {}
        self._ailing: dict[ShardKey, None] = {}
        """Shards whose fault was undone and that have not answered since."""
        self._turn = asyncio.Lock()
        self.recorder = Recorder()

    @property
    def active(self) -> list[Active]:
        """The faults that are acting, in the order of their starts."""
        return list(self._active)

    async def start(self, wanted: Sequence[Pair], *, twice: bool = False) -> list[Active]:
        """Starts faults, all or none; those of the network take effect last, all in the same moment.

        `twice`: toxics may act that are equal to others of the same shard.

        Raises `UsageError` for an unknown shard, for what is not a fault, and for a fault that cannot act there or
        already does.
        """
        async with self._turn:
            check(wanted, [(active.shard, active.fault) for active in self._active], self._targets, twice=twice)
            return await self._start(wanted)

    async def stop(self, begun: Iterable[Active], *, awaits: bool = True) -> list[Active]:
        """Undoes faults that `start` returned, the latest first; skips those already undone.

        Returns those it undid, for `warn`. `awaits=False` leaves it to the next `heal` to await the shards' health.
        """
        async with self._turn:
            chosen = set(map(id, begun))
            ended = [active for active in self._active if id(active) in chosen]
            await self._end(ended, [active.shard for active in ended] if awaits else [])
        return ended

    async def change(self, active: Active, toxic: Toxic) -> None:
        """Updates an acting toxic in place: in the record one ends, and the other starts.

        Raises `UsageError` if it does not act any more.
        """
        async with self._turn:
            if not any(one is active for one in self._active):
                raise UsageError(f"{active.fault!r} does not act on shard {active.shard!r} any more")
            await self.collect()
            for number in active.toxics:
                await self._targets[active.shard].change(number, toxic)
            self._note_end(active)
            active.fault, active.fired = toxic, False
            self.recorder.note("start", active.shard, toxic)

    async def forget(self, shard: ShardKey) -> list[Active]:
        """Undoes the faults of a shard that is about to go, whose health no longer matters."""
        async with self._turn:
            ended = [active for active in self._active if active.shard == shard]
            await self._end(ended, [])
            self._ailing.pop(shard, None)
        return ended

    async def heal(self) -> list[Active]:
        """Undoes all active faults, the latest first, and returns them when every shard that had one answers.

        A failure does not keep the others from being undone; it is raised at the end, and retried by the next call.
        """
        async with self._turn:
            ended = list(self._active)
            await self._end(ended, [*self._ailing, *(active.shard for active in ended)])
        return ended

    async def reset(self, put_back: Callable[[], Awaitable[None]]) -> list[Active]:
        """Like `heal`; then awaits `put_back()` before another fault starts or a row is written, and forgets all
        events.
        """
        async with self._turn:
            ended = list(self._active)
            await self._end(ended, [*self._ailing, *(active.shard for active in ended)])
            await put_back()
            self.recorder = Recorder()
        return ended

    @asynccontextmanager
    async def writable(self, shard: ShardKey) -> AsyncIterator[Any]:
        """The shard's server, to write to while no fault starts or stops; `UsageError` if a fault prevents writes."""
        async with self._turn:
            target = self._targets[shard]
            check_write(shard, [active.fault for active in self._active if active.shard == shard], target.replicated)
            yield target

    async def collect(self) -> None:
        """Records the firings of toxics since the last call."""
        owners = {number: active for active in self._active for number in active.toxics}
        if owners:
            for number, at in await self._firings():
                if number in owners:
                    self._fire(owners[number], at)

    async def _start(self, wanted: Sequence[Pair]) -> list[Active]:
        begun: list[Active] = []
        try:
            for shard, fault in wanted:
                begun.append(Active(shard, fault))
                self._active.append(begun[-1])  # before it starts, so that one which fails half-way is undone
                await self._begin(begun[-1])
            at = monotonic()
            await self._arm()
            for _ in range(2):  # the keeper's answer may arrive before this loop has seen connections end
                await asyncio.sleep(0)
        except BaseException:
            await self._end(begun, [active.shard for active in begun])
            raise
        for active in begun:
            active.started = True
            self.recorder.note("start", active.shard, active.fault, at)
            if active.fault.fires == Fires.AT_START and not active.idle:
                self._fire(active, at)
        return begun

    async def _begin(self, active: Active) -> None:
        target, fault = self._targets[active.shard], active.fault
        if fault.fires != Fires.AT_START and not isinstance(fault, Toxic):
            detector = Detector(fault.fires == Fires.ON_CONNECT, stream="upstream")
            active.undo.push(await target.toxic(detector))
        try:
            # Whatever the fault needs, `check` has made sure that the target has it.
            active.idle = await fault.start(cast(Target, target), active.undo) is False
        except Exception as error:
            if (told := target.failed(fault, error)) is error:
                raise
            raise told from error
        finally:
            active.toxics.update(target.handed())

    async def _end(self, chosen: list[Active], shards: Iterable[ShardKey]) -> None:
        """Undoes faults, then awaits the health of shards without faults; raises the first error at the end."""
        failed: list[Exception] = []
        for active in reversed(chosen):
            try:
                await self._undo(active)
                await self.collect()
            except Exception as error:
                failed.append(self._targets[active.shard].failed(active.fault, error))
                continue
            self._active.remove(active)
            self._ailing[active.shard] = None
            if active.started:
                self._note_end(active)
        for shard in dict.fromkeys(shards):
            if shard in self._ailing and not any(active.shard == shard for active in self._active):
                try:
                    await self._healthy(shard)
                except Exception as error:
                    failed.append(error)
                else:
                    del self._ailing[shard]
                self._targets[shard].release()
        if failed:
            for other in failed[1:]:
                failed[0].add_note(f"and: {other}")
            raise failed[0]

    async def _undo(self, active: Active) -> None:
        """Undoes a fault. While another one keeps the server down, undoing a fault inside it waits until it is back."""
        others = [other for other in self._active if other.shard == active.shard and other is not active]
        postponed = self._postponed.setdefault(active.shard, [])
        gone = any(other.fault.layer in GONE for other in others)
        if gone and active.fault.layer in INSIDE:
            postponed.append(active.undo)
            return
        await active.undo.run()
        if active.fault.restarts:
            await self._again([other for other in others if other.fault.volatile])
        while postponed and not gone:
            await postponed[-1].run()
            postponed.pop()

    async def _again(self, actives: Iterable[Active]) -> None:
        """Starts these faults once more, on the new process of a restarted server."""
        for active in actives:
            await active.fault.start(cast(Target, self._targets[active.shard]), active.undo)

    def _fire(self, active: Active, at: float | None = None) -> None:
        active.fired = True
        self.recorder.note("fired", active.shard, active.fault, at)

    def _note_end(self, active: Active) -> None:
        self.recorder.note("stop", active.shard, active.fault)
        if not active.fired:
            self.recorder.note("unfired", active.shard, active.fault)


def warn(ended: Iterable[Active]) -> None:
    """Warns of those that never fired; called once all are undone, since a warning may be an error."""
    for active in ended:
        if active.started and not active.fired:
            warnings.warn(unfired(active), NeverFired, stacklevel=level_of_caller())


def unfired(active: Active) -> str:
    """That a fault never fired, and why."""
    limited = isinstance(active.fault, Toxic) and active.fault.conditions()
    met = "no question met its conditions" if limited else "no client met it"
    why = "there was nothing to act on" if active.idle else met
    return f"{active.fault!r} never fired on shard {active.shard!r}: {why}"


def level_of_caller() -> int:
    """The `stacklevel` with which the caller's warning points at the line that called labkit.

    The stack holds coroutines that await each other, and `contextlib` between an `async with` and ours.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _ours(module: str) -> bool:
    return module.split(".")[0] in ("labkit", "contextlib")
