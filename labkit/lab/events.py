"""The record of a lab's faults: each start, stop and firing with its time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic

from labkit._types import ShardKey
from labkit.faults.base import Fault
from labkit.report import Window

__all__ = ["Event", "Recorder"]


@dataclass(frozen=True, slots=True)
class Event:
    """A fault was started on a shard, fired, or was stopped."""

    at: float
    """Seconds since the lab was ready."""
    kind: str
    """ "start", "fired" (at its start, or once per connection that it hit), "stop", or "unfired": stopped without ever
    having fired."""
    shard: ShardKey
    fault: Fault


class Recorder:
    """Events in the order of their times, even those that become known late."""

    def __init__(self) -> None:
        self._origin = monotonic()
        self.events: list[Event] = []

    def note(self, kind: str, shard: ShardKey, fault: Fault, at: float | None = None) -> None:
        """Adds an event, at `at` (`time.monotonic()`) or now."""
        seconds = (monotonic() if at is None else at) - self._origin
        self.events.append(Event(seconds, kind, shard, fault))
        self.events.sort(key=lambda event: event.at)

    def windows(self, since: float, until: float) -> tuple[Window, ...]:
        """The faults that acted between `since` and `until` (`time.monotonic()`), in seconds from `since`."""
        begun, ended = since - self._origin, until - self._origin
        lasted = [(start, stop) for start, stop in self._spans() if start.at < ended and stop > begun]
        return tuple(
            Window(
                start.shard,
                type(start.fault).__name__,
                max(start.at - begun, 0.0),
                stop - begun if stop < ended else None,
            )
            for start, stop in lasted
        )

    def _spans(self) -> list[tuple[Event, float]]:
        """Each start with the time of its stop, infinity while it lasts; in the order of their starts."""
        spans: list[tuple[Event, float]] = []
        for event in self.events:
            if event.kind == "start":
                spans.append((event, math.inf))
            elif event.kind == "stop":
                i = next(i for i, (start, stop) in enumerate(spans) if _is_end(event, start, stop))
                spans[i] = (spans[i][0], event.at)
        return spans


def _is_end(event: Event, start: Event, stop: float) -> bool:
    return stop == math.inf and (start.shard, start.fault) == (event.shard, event.fault)
