"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, data: bytes, *, private: bool = False) -> None:
    """Atomically replaces the file by one with this content.

    A link stays a link, a file keeps its mode; anything else (a pipe, a terminal) is written to directly. `private`:
    only its owner can ever read the file, whatever its mode was.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()
    new = path.parent / f".labkit-{secrets.token_hex(8)}"
    try:
        with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(data)
        if path.exists() and not private:
            new.chmod(path.stat().st_mode)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
