"""The one place that applies faults and undoes them, and keeps the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from labkit.errors import UsageError
from labkit.faults.base import Fault, Target
from labkit.router import ShardKey

__all__ = ["Event", "Injector"]


@dataclass(frozen=True, slots=True)
class Event:
    """A fault was started on a shard, or stopped."""

    at: float
    """Seconds since the lab was ready."""
    kind: str
    """"start" or "stop"."""
    shard: ShardKey
    fault: Fault


class Injector:
    """Faults by shard. `healthy(shard)` is awaited after the last fault of a shard was undone."""

    def __init__(self, targets: Mapping[Any, Target], healthy: Callable[[ShardKey], Awaitable[None]]) -> None:
        self._targets = targets
        self._healthy = healthy
        self._origin = monotonic()
        self.active: list[tuple[ShardKey, Fault]] = []
        self.events: list[Event] = []

    def check(self, shard: ShardKey, fault: Fault) -> None:
        """`UsageError` for an unknown shard, for what is no fault, for one that cannot act on it or does already."""
        if shard not in self._targets:
            raise UsageError(f"unknown shard {shard!r}: this lab has {list(self._targets)}")
        if isinstance(fault, type) or not isinstance(fault, Fault):
            raise UsageError(f"not a fault: {fault!r}; pass one such as faults.Pause()")
        if fault.layer not in self._targets[shard].layers:
            raise UsageError(
                f"{type(fault).__name__} acts on a {fault.layer}, and shard {shard!r} is none: "
                "start the lab with launcher='docker', or take faults.BlackHole()"
            )
        if any(where == shard and type(what) is type(fault) for where, what in self.active):
            raise UsageError(f"{type(fault).__name__} acts on shard {shard!r} already: heal() it first")

    async def start(self, shard: ShardKey, fault: Fault) -> None:
        """Starts a fault; counted as active from the first moment, so that one which fails half-way is undone."""
        self.check(shard, fault)
        self.active.append((shard, fault))
        await fault.start(self._targets[shard])
        self._note("start", shard, fault)

    async def stop(self, shard: ShardKey, fault: Fault) -> None:
        """Undoes an active fault; does nothing where `heal` has done it already."""
        if (shard, fault) not in self.active:
            return
        await fault.stop(self._targets[shard])
        self.active.remove((shard, fault))
        self._note("stop", shard, fault)
        if not any(where == shard for where, _ in self.active):
            await self._healthy(shard)

    async def heal(self) -> None:
        """Undoes all active faults, the youngest first."""
        for shard, fault in reversed(list(self.active)):
            await self.stop(shard, fault)

    def _note(self, kind: str, shard: ShardKey, fault: Fault) -> None:
        self.events.append(Event(monotonic() - self._origin, kind, shard, fault))
