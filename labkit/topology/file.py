"""A topology file that a command of labkit writes: recognised by its first line, and removed in the end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit._files import replace
from labkit.errors import LabkitError, UsageError

__all__ = ["check_free", "written"]

MARK = "# Written by labkit {}, process {}, which removes it when it ends."
MARKED = re.compile(r"# Written by labkit (\w+), process (\d+), which removes it when it ends\.(?:\r?\n|$)")


def check_free(path: Path, command: str, fix: str = "name another file") -> None:
    """`UsageError` for a file that another program than labkit wrote, or that belongs to a running lab. `command` is
    that of labkit which wants to write it, and `fix` what to do then.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(200)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"--topology {str(path)!r} cannot be written: {(error.strerror or '').lower()}") from None
    mark = MARKED.match(first)
    if mark is None:
        raise UsageError(f"{str(path)!r} exists and was not written by labkit {command}: {fix}")
    if _runs(int(mark[2])):
        owner = f"the labkit {mark[1]} of process {mark[2]}, which is still running"
        raise UsageError(f"{str(path)!r} belongs to {owner}: stop it, {fix}")


@contextmanager
def written(path: Path, toml: str, command: str) -> Iterator[None]:
    """During the block there is this file, written by that command of labkit. Afterwards it is removed, unless it was
    overwritten meanwhile.

    Only its owner can read it: it has the lab's password.
    """
    data = f"{MARK.format(command, os.getpid())}\n{toml}".encode()
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
