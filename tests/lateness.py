"""How late a read may be: by a stated margin, and by what it was kept waiting for a processor meanwhile."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CROWDED", "MARGIN", "Mark", "begin", "kept", "mark", "pressed", "starved"]

MARGIN = 0.05
"""Seconds that a read may outlive its deadline by, rule 1 of the read: the one timed promise."""
CROWDED = 0.5
"""Seconds at the most that a read may be late because others had to wait for a processor: the servers that it asks,
and threads that it needs."""


class Mark(NamedTuple):
    """A moment, by the seconds that were lost until then."""

    waited: float
    pressed: float
    collected: float


def waited() -> float:
    """Seconds that this thread was ever ready to run and had no processor, which no reader can help; 0 where nobody
    says. Source: Linux' Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    """
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def pressed() -> float:
    """Seconds that anybody on this machine was ever ready to run and had no processor; 0 where nobody says. Source:
    Linux' Documentation/accounting/psi.rst.
    """
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) / 1e6
    return 0.0


def mark() -> Mark:
    """This moment, for `kept`."""
    return Mark(waited(), pressed(), _collections.seconds)


def kept(since: Mark) -> float:
    """Seconds since that mark that no reader can help: this thread had no processor, or, up to `CROWDED`, somebody had
    none; and full garbage collections, which go through what earlier tests have left. Little on a quiet machine.
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
