"""The toxics of one proxy: which connections each takes hold of, and when it fired."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from random import Random
from time import monotonic
from typing import Any

from labkit.faults.network.pipe import Flow
from labkit.faults.network.toxic import Toxic
from labkit.lab.proxy.link import Link

__all__ = ["Toxics", "built"]


def built(module: str, kind: str, root: str | None, fields: dict[str, Any]) -> Toxic:
    """The toxic that the owner has; its class must be importable here too. Raises RuntimeError where it is not.

    `root` is the folder that the owner has the module from. It comes after all others: nothing else in it stands in for
    a module that is found without it.
    """
    if root is not None and root not in sys.path:
        sys.path.append(root)
    try:
        made = getattr(import_module(module), kind)(**fields)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"the proxy cannot load {kind} from {module}: put it into a module of its own") from error
    if not isinstance(made, Toxic):
        raise RuntimeError(f"{kind} of {module} is no toxic")
    return made


@dataclass
class _Installed:
    toxic: Toxic
    seed: str
    met: Counter[str] = field(default_factory=Counter)
    """Connections it has met, hit or not: the number of each is part of its seed. Those that were there before have
    numbers of their own, since one of them may just be on its way out."""
    fired: set[str] = field(default_factory=set)

    def named(self, new: bool) -> str:
        """A name for the connection that it meets now."""
        kind = "new" if new else "old"
        self.met[kind] += 1
        return f"{kind} {self.met[kind]}"


class Toxics:
    """`report(number, time)` is called when a toxic fires, once for each connection."""

    def __init__(self, report: Callable[[int, float], None]) -> None:
        self._report = report
        self._installed: dict[int, _Installed] = {}
        self._unarmed: dict[int, _Installed] = {}

    def add(self, number: int, toxic: Toxic, seed: str) -> None:
        """Makes a toxic ready; it does nothing before `arm`."""
        self._unarmed[number] = _Installed(toxic, seed)

    def arm(self, links: Iterable[Link]) -> None:
        """Lets all that are ready take hold of the connections that there are, the oldest first, and of new ones."""
        ready, self._unarmed = self._unarmed, {}
        self._installed |= ready
        present = list(links)
        for number, installed in ready.items():
            for link in present:
                self._meet(number, installed, link, new=False)

    def remove(self, number: int, links: Iterable[Link]) -> None:
        """Takes a toxic off all connections; does nothing where it was."""
        self._unarmed.pop(number, None)
        if self._installed.pop(number, None) is not None:
            for link in list(links):
                for stream in link.streams.values():
                    stream.detach(number)

    def greet(self, link: Link) -> None:
        """Lets every toxic meet a new connection."""
        for number, installed in self._installed.items():
            self._meet(number, installed, link, new=True)

    def _meet(self, number: int, installed: _Installed, link: Link, *, new: bool) -> None:
        toxic, connection = installed.toxic, installed.named(new)
        random = Random(f"{installed.seed}|{toxic!r}|{connection}")
        if link.closed or random.random() >= toxic.toxicity:
            return

        def fired() -> None:
            if connection not in installed.fired:
                installed.fired.add(connection)
                self._report(number, monotonic())

        link.streams[toxic.stream].attach(number, toxic.pipe(Flow(random, fired, new)))
