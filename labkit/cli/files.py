"""Writes a file whole or not at all, and stdout with or without a reader."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from labkit._files import replace
from labkit._streams import give_up
from labkit.errors import LabkitError, UsageError

__all__ = ["STDOUT", "check_target", "write"]

STDOUT = "-"


def check_target(option: str, path: str) -> None:
    """`UsageError` for a path that cannot be written, before any work is done for it."""
    if path != STDOUT and (why := _unwritable(Path(path))):
        raise UsageError(f"{option} {path!r} cannot be written: {why}")


def _unwritable(path: Path) -> str:
    """Why the path cannot be written; "" if it can."""
    if path.is_dir():
        return "it is a directory"
    if path.exists() and not path.is_file():
        return "" if os.access(path, os.W_OK) else "permission denied"
    if not path.resolve().parent.is_dir():
        return f"there is no directory {str(path.parent)!r}"
    return "" if os.access(path.resolve().parent, os.W_OK) else f"permission denied in {str(path.parent)!r}"


def write(path: str, data: bytes) -> None:
    """Writes to the file, or to stdout for "-"; `LabkitError` if the system refuses.

    Raises BrokenPipeError if nobody reads stdout any more: the caller should exit silently.
    """
    try:
        if path == STDOUT:
            _to_stdout(data)
        else:
            replace(Path(path), data)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "stdout" if path == STDOUT else repr(path)
        raise LabkitError(f"{where} was not written: {(error.strerror or str(error)).lower()}") from None


def _to_stdout(data: bytes) -> None:
    try:
        sys.stdout.flush()
        left = memoryview(data)
        while left:  # with PYTHONUNBUFFERED, a write may be partial
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()
    except OSError:
        give_up(sys.stdout)
        raise
