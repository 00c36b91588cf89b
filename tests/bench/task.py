"""The task of a worker process, its results, and where to find the contestants."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from tests.bench.truth import WIDE, Proof, of_frame

__all__ = ["DATABASE", "USER", "Contestant", "Ready", "Task", "contestants"]

USER, DATABASE = "labkit", "postgres"

MODULES = {
    "bulk": ("tests.bench.bulk", "tests.bench.peers"),
    "wide": ("tests.bench.bulk", "tests.bench.peers"),
    "count": ("tests.bench.counting",),
    "small": ("tests.bench.small",),
    "redis": ("tests.bench.redis_reads",),
    "stream": ("tests.bench.streaming",),
    "router": ("tests.bench.routing",),
    "late": ("tests.bench.lateness",),
    "serve": ("tests.bench.serving",),
}
"""The modules with each part's contestants, in the order shown."""


@dataclass(frozen=True)
class Task:
    """One contestant and what it must read."""

    part: str
    contestant: str
    places: list[str] = field(default_factory=list)
    """One per server: the folder of a Postgres unix socket, or a Redis unix socket."""
    table: str = ""
    """The table (or key), the same on every server."""
    rows: int = 0
    """The rows in all shards together."""
    shards: int = 3
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that only one part needs."""

    @property
    def key(self) -> str:
        """The key of the table: that of a wide one has another name."""
        return WIDE[0] if self.part == "wide" else "id"

    @property
    def columns(self) -> str:
        """The columns to read, for a SELECT."""
        return ", ".join(WIDE) if self.part == "wide" else "id, name"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        return cls(**json.loads(text))


def _no_figures(_answer: Any) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Ready:
    """A contestant that has imported, connected and read its first rows, and can now be measured."""

    read: Callable[[], Any] | None = None
    """The timed read."""
    prove: Callable[[Any], Proof | None] = of_frame
    """The untimed proof of its answer; None if no rows were read."""
    figures: Callable[[Any], Mapping[str, float]] = _no_figures
    """Other measurements; `bytes` is the size of the answer in memory."""
    burst: Callable[[int], tuple[list[float], Any]] | None = None
    """Replaces `read` for reads too short for a process each: does this many, and returns the seconds of each and the
    last answer."""


Contestant: TypeAlias = Callable[[Task], AbstractContextManager[Ready]]
"""Imports, connects and reads a few rows on entry; closes on exit."""


def contestants(part: str) -> dict[str, Contestant]:
    """All contestants of a part by name. Their libraries are imported only when they are entered."""
    found: dict[str, Contestant] = {}
    for module in MODULES[part]:
        found |= importlib.import_module(module).CONTESTANTS
    return found
