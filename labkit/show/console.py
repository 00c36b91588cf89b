"""A terminal, a pipe or a file as rich writes to it, whatever its encoding."""

from __future__ import annotations

import io
import sys

from rich.console import Console

__all__ = ["console"]


def console(*, stderr: bool = False) -> Console:
    """The console of stdout or stderr. What its encoding does not have is written as `?`, and is no error."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return Console(stderr=stderr)
