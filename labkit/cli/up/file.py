"""The topology file of `labkit up`: recognised by its first line, and removed in the end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit._files import replace
from labkit.errors import LabkitError, UsageError

__all__ = ["check_free", "written"]

MARK = "# Written by labkit up, process {}, which removes it when it ends."
MARKED = re.compile(re.escape(MARK).replace(r"\{\}", r"(\d+)") + r"(?:\r?\n|$)")


def check_free(path: Path) -> None:
    """`UsageError` for a file that another program wrote, or that belongs to a running lab."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(200)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"--topology {str(path)!r} cannot be written: {(error.strerror or '').lower()}") from None
    mark = MARKED.match(first)
    if mark is None:
        raise UsageError(f"{str(path)!r} exists and was not written by labkit up: name another file, or pass --force")
    if _runs(int(mark[1])):
        raise UsageError(
            f"{str(path)!r} belongs to the labkit up of process {mark[1]}, which is still running: "
            "stop it, name another file, or pass --force"
        )


@contextmanager
def written(path: Path, toml: str) -> Iterator[None]:
    """The file exists during the block, and is removed afterwards, unless it was overwritten meanwhile.

    Only its owner can read it: it has the lab's password.
    """
    data = f"{MARK.format(os.getpid())}\n{toml}".encode()
    try:
        replace(path, data, private=True)
    except OSError as error:
        raise LabkitError(f"{str(path)!r} was not written: {(error.strerror or str(error)).lower()}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            if path.read_bytes() == data:
                path.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
