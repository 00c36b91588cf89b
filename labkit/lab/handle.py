"""A server as network faults see it: the proxy in front of it."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from labkit.errors import LabError
from labkit.faults.base import Fault
from labkit.faults.network.toxic import Toxic
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper

__all__ = ["NetworkHandle"]

_numbers = itertools.count(1)
"""Of toxics, in all labs of this process."""


class NetworkHandle:
    """The part of a `faults.Target` that network faults need; `name` is the keeper's name of the proxy."""

    layers: ClassVar[frozenset[str]] = frozenset({"network"})
    only: ClassVar[str] = "only network faults act through a proxy, such as faults.Latency(200)"
    """What to do about a fault of a layer that it does not have."""

    def __init__(self, keeper: KeeperClient, name: str, seed: str = "", kind: str = "") -> None:
        self._keeper, self._kind = keeper, kind
        self._name = name
        self.seed = seed
        """The seed of its random numbers."""
        self._handed: list[int] = []

    @property
    def backend(self) -> str:
        """The kind of server; "" if it is not known."""
        return self._kind

    @property
    def replicated(self) -> bool:
        """Whether another server takes over when this one is gone."""
        return False

    async def blackhole(self, on: bool) -> None:
        await self._keeper.ask(Keeper.blackhole, self._name, on)

    async def down(self, on: bool) -> None:
        await self._keeper.ask(Keeper.down, self._name, on)

    async def toxic(self, toxic: Toxic) -> Callable[[], Awaitable[None]]:
        """Hands a toxic to the proxy; it takes effect with the keeper's next `arm`."""
        number = next(_numbers)

        async def remove() -> None:
            await self._keeper.ask(Keeper.remove_toxic, self._name, number)

        try:
            await self._keeper.ask(Keeper.add_toxic, self._name, number, seed=self.seed, **_described(toxic))
        except BaseException:
            # It may have been added all the same: an interrupted caller has not seen the answer.
            with contextlib.suppress(LabError):
                await remove()
            raise
        self._handed.append(number)
        return remove

    async def change(self, number: int, toxic: Toxic) -> None:
        """Updates a toxic that acts, at once."""
        await self._keeper.ask(Keeper.change_toxic, self._name, number, **_described(toxic))

    def handed(self) -> list[int]:
        """The numbers of the toxics handed over since the last call."""
        numbers, self._handed = self._handed, []
        return numbers

    def random(self, fault: Fault) -> Random:
        """Random numbers for that fault: the same for the same seed."""
        return Random(f"{self.seed}|{fault!r}")

    def check(self, fault: Fault) -> None:
        """`UsageError` for a fault of its layers that must not start now."""

    def failed(self, fault: Fault, error: Exception) -> Exception:
        """What to raise for an error that starting or undoing the fault raised."""
        return error

    def release(self) -> None:
        """Called once all its faults are undone."""


def _described(toxic: Toxic) -> dict[str, Any]:
    """What the keeper needs to rebuild it."""
    kind = type(toxic)
    return {
        "module": kind.__module__,
        "kind": kind.__qualname__,
        "root": _root(kind.__module__),
        "fields": asdict(toxic),
    }


def _root(module: str) -> str | None:
    """The folder from which a module can be imported by its full name; None if it is in no file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    inner = module.count(".") + (Path(file).stem == "__init__")
    return str(Path(file).absolute().parents[inner])
