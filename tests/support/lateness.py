"""How late a read may be: by a stated margin, and by what it was kept waiting for a processor meanwhile."""

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
"""Seconds that a read may outlive its deadline by, rule 1 of the read: the one timed promise."""
CROWDED = 0.5
"""Seconds at the most that a read may be late because others had to wait for a processor or for the disk: the servers
that it asks, and threads that it needs."""


class Mark(NamedTuple):
    """A moment, by the seconds that were lost until then."""

    waited: float
    pressed: float
    collected: float


def pressed() -> float:
    """Seconds that anybody on this machine ever waited for a processor, or for the disk; 0 where nobody says. Source:
    Linux' Documentation/accounting/psi.rst.
    """
    with suppress(OSError, IndexError, ValueError):
        told = [Path("/proc/pressure", what).read_text() for what in ("cpu", "io")]
        return sum(int(text.split("total=")[1].split()[0]) for text in told) / 1e6
    return 0.0


def mark() -> Mark:
    """This moment, for `kept`."""
    return Mark(waited(), pressed(), _collections.seconds)


def kept(since: Mark) -> float:
    """Seconds since that mark that no reader can help: this thread had no processor, or, up to `CROWDED`, somebody
    waited for one, or for the disk; and full garbage collections, which go through what earlier tests have left.
    Little on a quiet machine.
    """
    waited, pressed, collected = (now - then for now, then in zip(mark(), since, strict=True))
    return max(waited, min(CROWDED, pressed)) + collected


def begin() -> None:
    """A test begins."""
    global _began
    _began = mark()


def starved() -> float:
    """What was `kept` since the test began."""
    return kept(_began)


@contextmanager
def shared_processor() -> Iterator[None]:
    """This thread, and whatever is started meanwhile, shares one processor with a program that never rests."""
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
    """Of the oldest generation; `seconds` is what they ever took."""

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
