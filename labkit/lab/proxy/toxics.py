"""The toxics of one proxy: which connections each one hits, and when it fires."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from random import Random
from time import monotonic
from typing import Any

from labkit.faults.network.pipe import Flow, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.lab.proxy.conditions import conditional
from labkit.lab.proxy.link import Link
from labkit.lab.proxy.questions import Rule

__all__ = ["Toxics", "built"]


def built(module: str, kind: str, root: str | None, fields: dict[str, Any]) -> Toxic:
    """The owner's toxic, rebuilt; its class must be importable here too. Raises RuntimeError if it is not.

    `root` is the folder from which the owner imported the module. It comes last on the path, so that it hides no other
    module.
    """
    if root is not None and root not in sys.path:
        sys.path.append(root)
    try:
        made = getattr(import_module(module), kind)(**fields)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"the proxy cannot load {kind} from {module}: put it into a separate module") from error
    if not isinstance(made, Toxic):
        raise RuntimeError(f"{kind} of {module} is not a toxic")
    return made


@dataclass
class _Installed:
    toxic: Toxic
    seed: str
    met: Counter[str] = field(default_factory=Counter)
    """Connections it has met, hit or not: the number of each is part of its seed. Those older than the toxic have
    separate numbers, since some may be about to end."""
    fired: set[str] = field(default_factory=set)
    rule: Rule | None = None
    """Its conditions."""

    @classmethod
    def of(cls, toxic: Toxic, seed: str) -> _Installed:
        """A toxic that has met no connection yet."""
        return cls(toxic, seed, rule=Rule(toxic, seed) if toxic.conditions() else None)

    def named(self, new: bool) -> str:
        """A name for the next connection that it meets."""
        kind = "new" if new else "old"
        self.met[kind] += 1
        return f"{kind} {self.met[kind]}"


class Toxics:
    """Calls `report(number, time)` when a toxic fires, once per connection."""

    def __init__(self, report: Callable[[int, float], None]) -> None:
        self._report = report
        self._installed: dict[int, _Installed] = {}
        self._unarmed: dict[int, _Installed] = {}

    def add(self, number: int, toxic: Toxic, seed: str) -> None:
        """Adds a toxic, which takes effect with `arm`."""
        self._unarmed[number] = _Installed.of(toxic, seed)

    def arm(self, links: Iterable[Link]) -> None:
        """Applies all added toxics to existing connections, the oldest first, and to new ones."""
        ready, self._unarmed = self._unarmed, {}
        self._installed |= ready
        present = list(links)
        for number, installed in ready.items():
            for link in present:
                self._meet(number, installed, link, new=False)

    def remove(self, number: int, links: Iterable[Link]) -> None:
        """Removes a toxic from all connections; does nothing if it is not there."""
        self._unarmed.pop(number, None)
        if self._installed.pop(number, None) is not None:
            for link in list(links):
                for stream in link.streams.values():
                    stream.detach(number)

    def change(self, number: int, toxic: Toxic, links: Iterable[Link]) -> None:
        """An updated toxic takes effect at once, in the place of the one before; for each connection it is drawn anew
        whether it is hit. KeyError if there is none.
        """
        changed = self._installed[number] = _Installed.of(toxic, self._installed[number].seed)
        order = list(self._installed)
        for link in list(links):
            pipes = self._drawn(number, changed, link, new=False)
            for name, stream in link.streams.items():
                if not link.closed:
                    stream.replace(number, pipes.get(name), order)

    def greet(self, link: Link) -> None:
        """Applies every toxic to a new connection."""
        for number, installed in self._installed.items():
            self._meet(number, installed, link, new=True)

    def _meet(self, number: int, installed: _Installed, link: Link, *, new: bool) -> None:
        for stream, pipe in self._drawn(number, installed, link, new=new).items():
            if not link.closed:
                link.streams[stream].attach(number, pipe)

    def _drawn(self, number: int, installed: _Installed, link: Link, *, new: bool) -> dict[str, Pipe]:
        """What the toxic does to the streams of the next connection that it meets; empty if it does not hit it."""
        toxic, connection = installed.toxic, installed.named(new)
        random = Random(f"{installed.seed}|{toxic!r}|{connection}")
        if random.random() >= toxic.toxicity:
            return {}

        def fired() -> None:
            if connection not in installed.fired:
                installed.fired.add(connection)
                self._report(number, monotonic())

        flow = Flow(random, fired, new)
        if installed.rule is None:
            return {toxic.stream: toxic.pipe(flow)}
        return conditional(toxic.stream, installed.rule, lambda: toxic.pipe(flow), link.prepared.texts, new=new)
