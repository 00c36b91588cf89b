"""Writing a file whole or not at all, and stdout for who reads on and who does not."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from labkit._streams import give_up
from labkit.errors import LabkitError, UsageError

__all__ = ["STDOUT", "check_target", "replace", "unwritable", "write"]

STDOUT = "-"


def check_target(option: str, path: str) -> None:
    """`UsageError` for a path that nothing can be written to; said before anything is done for what to write."""
    if path != STDOUT and (why := unwritable(Path(path))):
        raise UsageError(f"{option} {path!r} cannot be written: {why}")


def unwritable(path: Path) -> str:
    """Why nothing can be written there; "" when something can."""
    if path.is_dir():
        return "it is a directory"
    if path.exists() and not path.is_file():
        return "" if os.access(path, os.W_OK) else "permission denied"
    if not path.resolve().parent.is_dir():
        return f"there is no directory {str(path.parent)!r}"
    return "" if os.access(path.resolve().parent, os.W_OK) else f"permission denied in {str(path.parent)!r}"


def write(path: str, data: bytes) -> None:
    """Writes to the file, or to stdout where that is "-"; `LabkitError` for what the system refuses.

    BrokenPipeError where nobody reads stdout any more: that is for the caller, who should say nothing.
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


def replace(path: Path, data: bytes, *, private: bool = False) -> None:
    """Puts a file with this content in the place of the one there is, which is whole until then.

    A link stays a link, a file keeps its mode; what is no file (a pipe, a terminal) is written to as it is. `private`:
    nobody else may ever read the file, whatever its mode was.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()
    beside = path.parent / f".labkit-{secrets.token_hex(8)}"
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(data)
        if path.exists() and not private:
            beside.chmod(path.stat().st_mode)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _to_stdout(data: bytes) -> None:
    try:
        sys.stdout.flush()
        left = memoryview(data)
        while left:  # with PYTHONUNBUFFERED a write may be a part of one
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()
    except OSError:
        give_up(sys.stdout)
        raise
