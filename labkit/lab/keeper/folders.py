"""Where the data of servers goes, and how every trace of it is removed."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["ENGINE", "data_folder", "enterable", "make", "places", "program_folder", "remove", "sweep", "temporary"]

MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of our own there
ENOUGH = 2**30
"""Bytes that memory must have free: three Postgres servers hold about a tenth of it."""
SOCKET_PATH_ROOM = 60
"""Bytes a folder's path may have, so that the socket files below it stay within the kernel's 103."""
PREFIX = "labkit-"
LOCK = "keeper.lock"
ENGINE = "engine"
"""A file in the folder of a lab that asked a Docker engine for something."""


def data_folder() -> str:
    """Memory where there is plenty (a thousand small files of an initdb take a tenth of the time there),
    else the usual folder for temporary files; TMPDIR decides where it is set.
    """
    usable = not os.environ.get("TMPDIR") and MEMORY.is_dir() and os.access(MEMORY, os.W_OK | os.X_OK)
    if usable and shutil.disk_usage(MEMORY).free >= ENOUGH:
        return str(MEMORY)
    usual = temporary()
    return usual if len(os.fsencode(usual)) <= SOCKET_PATH_ROOM else "/tmp"  # noqa: S108 - as above


def program_folder() -> str:
    """The usual folder for temporary files, since memory may be mounted noexec. /tmp instead where its path has a
    character that means something between a shell's double quotes: initdb calls Postgres that way.
    """
    usual = temporary()
    return "/tmp" if set('"$`\\') & set(usual) else usual  # noqa: S108 - as above


def temporary() -> str:
    """The usual folder for temporary files, as an absolute path.

    Raises RuntimeError where TMPDIR names one that cannot be used, instead of taking another without a word.
    """
    named = os.environ.get("TMPDIR")
    if named and not (os.path.isdir(named) and os.access(named, os.W_OK | os.X_OK)):
        raise RuntimeError(f"TMPDIR is {named!r}, which is not a folder that can be written to: correct it or unset it")
    return os.path.abspath(named) if named else tempfile.gettempdir()


def places() -> set[str]:
    """Where folders of labs may be."""
    return {data_folder(), program_folder(), temporary()}


def enterable(folder: Path) -> None:
    """RuntimeError where another user may not enter the folders above this one."""
    for above in folder.parents:
        if not above.stat().st_mode & 0o001:
            raise RuntimeError(
                f"Postgres does not run as root, and no other user may enter {str(above)!r}: "
                f"chmod o+x it, or have TMPDIR name another folder"
            )


def make(where: str, mode: int) -> Path:
    """A new folder, locked for as long as this process lives."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    unlocked = folder / f"{LOCK}.new"
    lock = os.open(unlocked, os.O_CREAT | os.O_RDWR)  # stays open
    fcntl.flock(lock, fcntl.LOCK_EX)
    unlocked.rename(folder / LOCK)  # seen by sweep() only once it is locked
    folder.chmod(mode)
    return folder


def remove(folder: Path) -> None:
    """Removes a folder whose servers have ended, and what a Postgres that was killed left in shared memory."""
    for note in folder.glob("*/postmaster.pid"):
        _remove_shared_memory(note)
    shutil.rmtree(folder, ignore_errors=True)


def sweep(where: str) -> bool:
    """Removes folders of keepers that were killed before they could; those of others are left alone.

    Returns whether one of them had asked a Docker engine for something.
    """
    engine = False
    for folder in Path(where).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while its keeper lives
            engine = engine or (folder / ENGINE).exists()
            remove(folder)
    return engine


def _remove_shared_memory(note: Path) -> None:
    """Line 7 of postmaster.pid is "key id" of the server's System V segment."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        segment = int(note.read_text().splitlines()[6].split()[1])
        ctypes.CDLL(None).shmctl(segment, 0, None)  # 0 = IPC_RMID
