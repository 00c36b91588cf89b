"""Who called labkit: whom a warning is for."""

from __future__ import annotations

import sys

__all__ = ["level_of_caller"]


def level_of_caller() -> int:
    """The `stacklevel` by which who calls this and then warns points at the line that called labkit.

    Coroutines that await each other are on the stack, and `contextlib` between `async with` and ours.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _ours(module: str) -> bool:
    return module.split(".")[0] in ("labkit", "contextlib")
