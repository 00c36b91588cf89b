"""What one worker process is told, what it hands back, and where it finds who does it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from tests.bench.truth import Proof, of_frame

__all__ = ["DATABASE", "USER", "Contestant", "Ready", "Task", "contestants"]

USER, DATABASE = "labkit", "postgres"

MODULES = {
    "bulk": ("tests.bench.bulk", "tests.bench.peers"),
    "small": ("tests.bench.small",),
    "redis": ("tests.bench.redis_reads",),
    "stream": ("tests.bench.streaming",),
    "router": ("tests.bench.routing",),
    "late": ("tests.bench.lateness",),
    "serve": ("tests.bench.serving",),
}
"""Where the contestants of each part are, in the order in which they are shown."""


@dataclass(frozen=True)
class Task:
    """One contestant, and what it is to read."""

    part: str
    contestant: str
    places: list[str] = field(default_factory=list)
    """One a server: the folder of a Postgres's unix socket, or the unix socket of a Redis."""
    table: str = ""
    """The table (or key), the same on each server."""
    rows: int = 0
    """In all shards together."""
    shards: int = 3
    extra: dict[str, Any] = field(default_factory=dict)
    """What only one part needs."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        return cls(**json.loads(text))


def _no_figures(_answer: Any) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Ready:
    """A contestant that has imported, connected and read its first rows: from here on it is measured."""

    read: Callable[[], Any] | None = None
    """The one read that the clock is on."""
    prove: Callable[[Any], Proof | None] = of_frame
    """What its answer was, outside of the clock; None where no rows were read."""
    figures: Callable[[Any], Mapping[str, float]] = _no_figures
    """What else it measured; `bytes` is the size of the answer in memory."""
    burst: Callable[[int], tuple[list[float], Any]] | None = None
    """In place of `read`, for reads that are too short for a process each: so many of them, the seconds of each, and
    the last answer."""


Contestant: TypeAlias = Callable[[Task], AbstractContextManager[Ready]]
"""Imports, connects and reads a few rows on entry; closes on exit."""


def contestants(part: str) -> dict[str, Contestant]:
    """All contestants of a part by name. What they need is imported when they are entered, not here."""
    found: dict[str, Contestant] = {}
    for module in MODULES[part]:
        found |= importlib.import_module(module).CONTESTANTS
    return found
