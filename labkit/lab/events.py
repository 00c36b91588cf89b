"""The record of a lab: each start, stop and firing of a fault with its time, and the last reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from time import monotonic

from labkit._types import ShardKey
from labkit.faults.base import Fault
from labkit.report import Window
from labkit.result import ReadResult

__all__ = ["Event", "Recorder", "Seen"]


@dataclass(frozen=True, slots=True)
class Event:
    """A fault was started on a shard, fired, or was stopped."""

    at: float
    """Seconds since the lab was ready, or last reset."""
    kind: str
    """ "start", "fired" (at its start, or once per connection that it hit), "stop", or "unfired": stopped without ever
    having fired."""
    shard: ShardKey
    fault: Fault


@dataclass(frozen=True, slots=True)
class Seen:
    """A read by the lab's reader."""

    at: float
    """When it began, as in `Event`."""
    result: ReadResult


class Recorder:
    """Events in the order of their times, even those that become known late."""

    def __init__(self) -> None:
        self.origin = monotonic()
        """When its seconds begin."""
        self.events: list[Event] = []
        self.latest: Seen | None = None
        self.incomplete: Seen | None = None
        """The latest read of all, and the latest one with gaps, by the lab's reader."""

    def read(self, result: ReadResult, started: float) -> ReadResult:
        """The result of a read that began at `started` (`time.monotonic()`), with the faults that acted meanwhile."""
        result = replace(result, windows=self.windows(started, started + result.elapsed))
        self.latest = Seen(started - self.origin, result)
        self.incomplete = self.incomplete if result.complete else self.latest
        return result

    def note(self, kind: str, shard: ShardKey, fault: Fault, at: float | None = None) -> None:
        """Adds an event, at `at` (`time.monotonic()`) or now."""
        seconds = (monotonic() if at is None else at) - self.origin
        self.events.append(Event(seconds, kind, shard, fault))
        self.events.sort(key=lambda event: event.at)

    def windows(self, since: float, until: float) -> tuple[Window, ...]:
        """The faults that acted between `since` and `until` (`time.monotonic()`), in seconds from `since`."""
        begun, ended = since - self.origin, until - self.origin
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
