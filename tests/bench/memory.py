"""The memory of this process: current, and the peak since the last reset."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil

__all__ = ["forget_peak", "peak", "resident"]

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
"""On Linux, writing "5" resets VmHWM (proc(5))."""


def resident() -> int:
    """Resident bytes now."""
    return _status("VmRSS") if STATUS.exists() else int(psutil.Process().memory_info().rss)


def forget_peak() -> None:
    """Resets the peak, which only Linux can do."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def peak() -> int:
    """The most resident bytes since `forget_peak()`, or outside Linux since the process began."""
    if STATUS.exists():
        return _status("VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
