"""What the report of a failed test says about its lab."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from labkit.lab.events import Event
from labkit.lab.lab import Lab
from labkit.result import ReadResult
from labkit.show.terminal import timeline_renderable

__all__ = ["sections"]

WIDTH = 100


def sections(lab: Lab, notes: Sequence[str]) -> list[tuple[str, str]]:
    """(title, text) of the last read with gaps, or else the last one, of the faults, and of `notes`."""
    told = [("labkit: also", "\n".join(notes))] if notes else []
    if lab._injector is None:
        return told
    recorder = lab._injector.recorder
    seen = recorder.incomplete or recorder.latest
    if seen is not None:
        what = "the last incomplete read" if recorder.incomplete else "the last read"
        ended = seen.at + seen.result.elapsed
        told.append((f"labkit: {what}, from {seen.at:.3f} s to {ended:.3f} s", _drawn(seen.result)))
    if recorder.events:
        told.append(("labkit: faults", "\n".join(map(_line, recorder.events))))
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
