"""What a fault is, and what it needs of a shard in order to act on it."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

__all__ = ["Fault", "Target"]


class Target(Protocol):
    """A running shard as faults see it; a lab's launcher provides it."""

    @property
    def layers(self) -> frozenset[str]:
        """The layers on which faults can act on it: those of `Fault.layer`."""

    async def kill(self) -> None:
        """Ends the server at once, as a power cut does; returns when it is gone and its port refuses."""

    async def restart(self) -> None:
        """Starts a server that was killed, on the same data and address; returns when it answers."""

    async def pause(self) -> None:
        """Freezes the server: it keeps its connections and answers nothing."""

    async def resume(self) -> None:
        """Lets a frozen server go on."""

    async def blackhole(self, on: bool) -> None:
        """Drops everything that is sent to the shard's address, new connections included; or stops that."""

    async def disconnect(self) -> None:
        """Takes the container off its network; returns when its port refuses."""

    async def reconnect(self) -> None:
        """Puts it back on, under the same address."""


@runtime_checkable
class Fault(Protocol):
    """One thing that can go wrong. Stateless: the same object may act on several shards."""

    layer: ClassVar[str]
    """Where it acts: "process", "network" or "container"."""

    async def start(self, target: Target) -> None:
        """Makes it so; returns when it is."""

    async def stop(self, target: Target) -> None:
        """Undoes `start`; returns when that is done."""
