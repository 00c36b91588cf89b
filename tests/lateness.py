"""How late a read may be: by a stated margin, and by what its thread was kept waiting for a processor meanwhile."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["MARGIN", "begin", "pressed", "starved", "waited"]

MARGIN = 0.05
"""Seconds that a read may outlive its deadline by, rule 1 of the read: the one timed promise."""

_before = 0.0


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


def begin() -> None:
    """A test begins."""
    global _before
    _before = waited()


def starved() -> float:
    """The same since the test began: next to nothing, unless others keep all processors busy."""
    return waited() - _before
