"""What is judged: what a read should find, what it returned, and the ID ranges that it reports as missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labkit._types import Ranges, ShardKey
from labkit.matrix.contract import Contract
from labkit.matrix.dataset import Flat
from labkit.report import Status
from labkit.result import ReadResult
from labkit.tables import SCHEMA

__all__ = ["Observation", "Read", "Truth", "waited", "without"]


@dataclass(frozen=True)
class Truth:
    """What a read should find."""

    plan: Mapping[ShardKey, Ranges]
    """The ranges requested from each shard."""
    rows: Mapping[ShardKey, Sequence[Flat]]
    """The rows that each shard holds while it is read, their values in the types of `to_json`."""
    allowed: Mapping[ShardKey, frozenset[Status]]
    """How a correct read may report each shard."""
    timeout: float
    contract: Contract = Contract.GAPS
    lost: Ranges = ()
    """IDs whose rows a shard silently hides: a reader need not notice, and may report them if it does."""
    columns: Sequence[str] = tuple(SCHEMA.names)
    """The names of the columns, the key first."""


@dataclass(frozen=True)
class Observation:
    """What a read returned. `missing` and `statuses` are None if the reader does not report them."""

    rows: Sequence[Flat] | None
    """In the order returned; None if the read returned no rows at all. Values are in the types of `to_json`."""
    elapsed: float
    missing: Ranges | None = None
    statuses: Mapping[ShardKey, Status] | None = None
    error: str | None = None
    """The exception that it raised."""
    malformed: str | None = None
    """Why its return value cannot be understood."""
    crashed: str | None = None
    """How it ended its own process."""
    blocked: float = 0.0
    """The longest time in seconds for which it blocked its event loop."""
    starved: float = 0.0
    """Seconds of the read in which its thread was ready to run but had no processor."""


@dataclass(frozen=True)
class Read:
    """One read: who read, and what it returned."""

    who: str
    seen: Observation
    result: ReadResult | None = None
    """Set if the reader returned one; it draws the timeline."""


def waited(thread: str = "thread-self") -> float:
    """Total seconds in which a thread, this one or that with an ID, was ready to run but had no processor; 0 if not
    known. Source: Linux' Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    """
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{thread}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def without(ranges: Ranges, others: Ranges) -> Ranges:
    """The IDs of `ranges` that are not in `others`; both are unions (`merge.union`), and so is the result."""
    left: list[tuple[int, int]] = []
    for low, high in ranges:
        for start, end in others:
            if end >= low and start <= high:
                if start > low:
                    left.append((low, start - 1))
                low = end + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)
