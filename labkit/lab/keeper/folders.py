"""Folders for the data of servers, and how to remove every trace of them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "ENGINE",
    "abandoned",
    "data_folder",
    "enterable",
    "make",
    "places",
    "program_folder",
    "remove",
    "sweep",
    "temporary",
]

MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private folder there
ENOUGH = 2**30
"""Free bytes that memory must have: three Postgres servers take about a tenth of that."""
SOCKET_PATH_ROOM = 60
"""Maximum bytes of a folder's path, so that the socket paths below it stay within the kernel's 103."""
PREFIX = "labkit-"
LOCK = "keeper.lock"
ENGINE = "engine"
"""A file in the folder of a lab that used a Docker engine."""
NOTE, NOTE_SIZE = "postmaster.pid", 4096
IPC_RMID, IPC_STAT = 0, 2
SEGMENT_SIZE = 512
"""Bytes, more than any system's struct shmid_ds."""
SEGMENT_PLACES = (20, 0) if sys.platform == "darwin" else (0, 4)
"""Offsets of the key and the user in it. Source: sys/ipc.h of macOS and of Linux."""


def data_folder() -> str:
    """Memory, if it has plenty free (the thousand small files of an initdb take a tenth of the time there), else the
    usual folder for temporary files. TMPDIR, if set, decides.
    """
    usable = not os.environ.get("TMPDIR") and MEMORY.is_dir() and os.access(MEMORY, os.W_OK | os.X_OK)
    if usable and shutil.disk_usage(MEMORY).free >= ENOUGH:
        return str(MEMORY)
    usual = temporary()
    return usual if len(os.fsencode(usual)) <= SOCKET_PATH_ROOM else "/tmp"  # noqa: S108 - as above


def program_folder() -> str:
    """The usual folder for temporary files, since memory may be mounted noexec. /tmp if its path has a character
    that is special between a shell's double quotes: initdb calls Postgres that way.
    """
    usual = temporary()
    return "/tmp" if set('"$`\\') & set(usual) else usual  # noqa: S108 - as above


def temporary() -> str:
    """The usual folder for temporary files, as an absolute path.

    Raises RuntimeError if TMPDIR names an unusable one, instead of silently using another.
    """
    named = os.environ.get("TMPDIR")
    if named and not (os.path.isdir(named) and os.access(named, os.W_OK | os.X_OK)):
        raise RuntimeError(f"TMPDIR is {named!r}, which is not a writable folder: correct it or unset it")
    return os.path.abspath(named) if named else tempfile.gettempdir()


def places() -> set[str]:
    """Where labs' folders may be."""
    return {data_folder(), program_folder(), temporary()}


def enterable(folder: Path) -> None:
    """RuntimeError if other users may not enter the folders above this one."""
    for above in folder.parents:
        if not above.stat().st_mode & 0o001:
            raise RuntimeError(
                f"Postgres does not run as root, and no other user may enter {str(above)!r}: "
                f"chmod o+x it, or set TMPDIR to another folder"
            )


def make(where: str, group: int | None = None) -> Path:
    """A new folder, locked while this process lives. Only its owner and that group may enter it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    unlocked = folder / f"{LOCK}.new"
    lock = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)  # stays open
    fcntl.flock(lock, fcntl.LOCK_EX)
    unlocked.rename(folder / LOCK)  # visible to sweep() only once it is locked
    if group is not None:
        os.chown(folder, -1, group)
        folder.chmod(0o710)
    return folder


def remove(folder: Path) -> None:
    """Removes one of our folders, whose servers have ended, and what a killed Postgres left in shared memory."""
    with suppress(OSError), _entered(folder) as entered:
        _clear(folder, entered)


def sweep(where: str) -> bool:
    """Removes the folders of our killed keepers. Returns whether one of these keepers had used a Docker engine.

    Anybody may put anything into a folder for temporary files: never open, follow or wait for what is not ours.
    """
    engine = False
    for name in _names(where):
        folder = Path(where, name)
        with suppress(OSError), abandoned(folder) as entered:
            engine = engine or ENGINE in os.listdir(entered)
            _clear(folder, entered)
    return engine


@contextmanager
def abandoned(folder: Path) -> Iterator[int]:
    """A descriptor of one of our folders whose keeper is dead, locked during the block.

    FileNotFoundError if it does not exist any more, another OSError if its keeper lives or it is not ours.
    """
    with _entered(folder) as entered, _opened(LOCK, entered, os.geteuid()) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while its keeper lives
        yield entered


def _names(where: str) -> list[str]:
    try:
        return [name for name in os.listdir(where) if name.startswith(PREFIX)]
    except OSError:
        return []


@contextmanager
def _entered(folder: Path) -> Iterator[int]:
    """A descriptor of a folder. OSError if it belongs to another user, is a link or not a folder."""
    entered = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_owner(entered, os.geteuid())
        yield entered
    finally:
        os.close(entered)


@contextmanager
def _opened(name: str, folder: int, owner: int) -> Iterator[int]:
    """A descriptor of a file in a folder. OSError if it belongs to another user or is not a regular file."""
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        _check_owner(opened, owner)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield opened
    finally:
        os.close(opened)


def _check_owner(opened: int, owner: int) -> None:
    if os.fstat(opened).st_uid != owner:
        raise PermissionError(errno.EPERM, "it belongs to another user")


def _clear(folder: Path, entered: int) -> None:
    """Removes the folder and everything in it that can be removed, without following links.

    `entered` is a descriptor of the folder: what somebody puts in its place meanwhile is left alone.
    """
    for name in os.listdir(entered):
        if stat.S_ISDIR(os.stat(name, dir_fd=entered, follow_symlinks=False).st_mode):
            _remove_shared_memory(name, entered)
            shutil.rmtree(name, ignore_errors=True, dir_fd=entered)
        else:
            os.unlink(name, dir_fd=entered)
    os.rmdir(folder)


def _remove_shared_memory(name: str, folder: int) -> None:
    """Line 7 of postmaster.pid is "key id" of the server's System V segment, which belongs to the server's user."""
    with suppress(OSError, IndexError, ValueError):
        data = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            owner = os.fstat(data).st_uid
            with _opened(NOTE, data, owner) as note:
                key, segment = map(int, os.read(note, NOTE_SIZE).splitlines()[6].split()[:2])
        finally:
            os.close(data)
        if _segment(segment) == (key, owner):
            ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)


def _segment(number: int) -> tuple[int, int] | None:
    """(key, user) of a segment of shared memory; None if there is none that we may inspect."""
    status = ctypes.create_string_buffer(SEGMENT_SIZE)
    if ctypes.CDLL(None).shmctl(number, IPC_STAT, status):
        return None
    key, user = (struct.unpack_from("=I", status, place)[0] for place in SEGMENT_PLACES)
    return key, user
