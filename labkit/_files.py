"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, data: bytes, *, private: bool = False, durable: bool = False) -> None:
    """Atomically replaces the file by one with this content.

    A link stays a link, a file keeps its mode; anything else (a pipe, a terminal) is written to directly. `private`:
    only its owner can ever read the file, whatever its mode was. `durable`: it is on disk before this returns.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()
    new = path.parent / f".labkit-{secrets.token_hex(8)}"
    try:
        with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if path.exists() and not private:
            new.chmod(path.stat().st_mode)
        new.replace(path)
        if durable:
            _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _sync(folder: Path) -> None:
    """Has the names in the folder written to disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
