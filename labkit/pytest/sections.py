"""What the report of a failed test says about its lab."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from labkit.lab.connections import Connection
from labkit.lab.events import Event
from labkit.lab.lab import Lab
from labkit.matrix.wire import since
from labkit.matrix.wire import told as told_of
from labkit.result import ReadResult
from labkit.show.terminal import timeline_renderable

__all__ = ["sections"]

WIDTH = 100


def sections(lab: Lab, seen: Sequence[Connection], notes: Sequence[str]) -> list[tuple[str, str]]:
    """(title, text) of `notes`, the last read with gaps, or else the last one, the faults, and the connections `seen`;
    times in seconds since the lab was reset.
    """
    told = [("labkit: also", "\n".join(notes))] if notes else []
    if lab._injector is None:
        return told
    recorder = lab._injector.recorder
    read = recorder.incomplete or recorder.latest
    if read is not None:
        what = "the last incomplete read" if recorder.incomplete else "the last read"
        ended = read.at + read.result.elapsed
        told.append((f"labkit: {what}, from {read.at:.3f} s to {ended:.3f} s", _drawn(read.result)))
    if recorder.events:
        told.append(("labkit: faults", "\n".join(map(_line, recorder.events))))
    if seen:
        lines = told_of(lab.router.shards, since(recorder.origin, seen))
        told.append(("labkit: connections, as the proxies saw them", "\n".join(lines)))
    return told


def _drawn(result: ReadResult) -> str:
    """The bars of a read against its deadline, as in a terminal."""
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(
        timeline_renderable(result)
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _line(event: Event) -> str:
    return f"{event.at:8.3f} s  {event.kind:<7}  {event.fault!r} on shard {event.shard!r}"
