"""How late a read may be: by a stated margin, and by the time that it lacked a processor."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from labkit.matrix.evidence import waited

__all__ = ["CROWDED", "MARGIN", "Mark", "begin", "kept", "mark", "pressed", "shared_processor", "starved"]

MARGIN = 0.05
"""Seconds by which a read may outlive its deadline (rule 1 of the read): the only timed promise."""
CROWDED = 0.5
"""The most seconds that a read may be late because others, its servers and threads, waited for a CPU or the disk."""


class Mark(NamedTuple):
    """A moment, as the seconds lost until then."""

    waited: float
    pressed: float
    collected: float


def pressed() -> float:
    """Total seconds in which any process on this machine waited for a CPU or the disk; 0 if unknown. Source: Linux,
    Documentation/accounting/psi.rst.
    """
    with suppress(OSError, IndexError, ValueError):
        told = [Path("/proc/pressure", what).read_text() for what in ("cpu", "io")]
        return sum(int(text.split("total=")[1].split()[0]) for text in told) / 1e6
    return 0.0


def mark() -> Mark:
    """The current moment, for `kept`."""
    return Mark(waited(), pressed(), _collections.seconds)


def kept(since: Mark) -> float:
    """Seconds since that mark that no reader can avoid: time in which this thread had no CPU, or in which any process
    waited for a CPU or the disk (up to `CROWDED`), and full garbage collections, which scan what earlier tests left.
    Few on a quiet machine.
    """
    waited, pressed, collected = (now - then for now, then in zip(mark(), since, strict=True))
    return max(waited, min(CROWDED, pressed)) + collected


def begin() -> None:
    """Marks the beginning of a test."""
    global _began
    _began = mark()


def starved() -> float:
    """The seconds `kept` since the test began."""
    return kept(_began)


@contextmanager
def shared_processor() -> Iterator[None]:
    """This thread, and what it starts meanwhile, shares one CPU with a busy loop."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with subprocess.Popen([sys.executable, "-c", "print('', flush=True)\nwhile True: pass"], stdout=-1) as other:
            try:
                assert other.stdout is not None
                other.stdout.readline()
                yield
            finally:
                other.kill()
    finally:
        os.sched_setaffinity(0, allowed)


class _Collections:
    """Times garbage collections of the oldest generation; `seconds` is their total."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._began


_collections = _Collections()
gc.callbacks.append(_collections)
_began = mark()
