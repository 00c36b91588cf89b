"""What must be undone on servers that labkit did not start: on disk until it is undone, however this process ends."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labkit._files import replace
from labkit.errors import LabError, UsageError
from labkit.faults.base import UndoCommand

__all__ = ["Entry", "Journal", "default_folder"]

LOCK, ENTRY = ".lock", ".json"
HALF = 60.0
"""Seconds after which half a file is not being written any more."""
FIX = "labkit proxy --undo"
"""What undoes the entries of killed processes."""


def default_folder() -> Path:
    """`labkit/undo` in the user's folder for state. Source: XDG Base Directory Specification, XDG_STATE_HOME.

    Raises `UsageError` for a user without a home folder, unless XDG_STATE_HOME names one.
    """
    named = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(named):  # a relative one counts as not set
        return Path(named, "labkit", "undo")
    try:
        return Path.home() / ".local" / "state" / "labkit" / "undo"
    except RuntimeError:
        raise UsageError("you have no home folder for labkit's journal: set XDG_STATE_HOME to a folder") from None


@dataclass(frozen=True)
class Entry:
    """A fault that acts on a server, and the commands that undo it, the last one first."""

    shard: str
    fault: str
    servers: tuple[str, ...]
    """The server's addresses: the proxy's, and the administrator's."""
    url: str = field(repr=False)
    """The administrator's URL, with its password."""
    pid: int
    """The process that owns it."""
    commands: tuple[UndoCommand, ...]


class Journal:
    """The entries of a folder, one file each. The files are private, since they hold administrators' passwords.

    An entry has an owner while the process that began it runs: the owner holds a lock. Methods raise `UsageError` if
    the folder is not the user's.
    """

    _held: dict[Path, int] = {}  # noqa: RUF012 - of the process
    """The locks that this process holds. It never opens these files again: closing one would end the lock."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()
        self._name = secrets.token_hex(8)
        self._begun: set[Path] = set()

    def begin(self, entry: Entry) -> Path:
        """Writes an entry of this process; it is on disk when this returns. Raises `UsageError` for a server that has
        one already.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # something else has its name: `_check` says so
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot make {str(self._folder)!r}: {why}; set XDG_STATE_HOME to a folder") from None
        self._check()
        path = self._folder / f"{self._name}-{secrets.token_hex(4)}{ENTRY}"
        with self._alone():
            self.check(entry.shard, entry.servers)
            self._sweep()
            self._own()
            self.update(path, entry)
        self._begun.add(path)
        return path

    def update(self, path: Path, entry: Entry) -> None:
        """Replaces an entry in the same way."""
        replace(path, json.dumps(asdict(entry), indent=1).encode(), private=True, durable=True)

    def remove(self, path: Path) -> None:
        """Removes an entry, and with the last one of this journal its lock."""
        path.unlink(missing_ok=True)
        self._begun.discard(path)
        if not self._begun:
            self._disown()

    def paths(self) -> list[Path]:
        """Where the entries are, also those of other processes."""
        return self._files(ENTRY)

    def read(self, path: Path) -> Entry:
        """Raises `LabError` for a file that is not an entry, FileNotFoundError if it has been removed."""
        try:
            found: Any = json.loads(path.read_bytes())
            commands = tuple(
                UndoCommand(tuple(one["words"]), tuple(one["question"]), one["answer"]) for one in found["commands"]
            )
            return Entry(**{**found, "servers": tuple(found["servers"]), "commands": commands})
        except (ValueError, TypeError, KeyError):
            raise LabError(f"{str(path)!r} is not an entry of labkit's journal: look at it, and remove it") from None

    def check(self, shard: str, servers: Collection[str]) -> None:
        """`UsageError` if a fault acts on one of these servers, or was not undone there."""
        for path, entry in self.at(servers):
            what = f"shard {shard!r}: {entry.fault} of process {entry.pid}"
            if self.is_owned(path):
                raise UsageError(f"{what} acts on its server: end that first")
            raise UsageError(f"{what}, which was killed, was not undone on its server: run `{FIX}` first")

    def at(self, servers: Collection[str]) -> Iterator[tuple[Path, Entry]]:
        """The entries of these servers."""
        for path in self.paths():
            with suppress(FileNotFoundError):
                entry = self.read(path)
                if set(entry.servers) & set(servers):
                    yield path, entry

    def is_owned(self, path: Path) -> bool:
        """Whether the process that began the entry still runs."""
        lock = _lock_of(path)
        if lock in self._held:
            return True
        try:
            with _locked(lock, create=False):
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True

    @contextmanager
    def adopted(self, path: Path) -> Iterator[None]:
        """Makes this process the owner of an entry during the block.

        Raises BlockingIOError if another process is, FileNotFoundError if the entry is gone.
        """
        path.stat()
        if _lock_of(path) in self._held:
            raise BlockingIOError
        with _locked(_lock_of(path)):
            path.stat()
            yield
        self._sweep()

    def close(self) -> None:
        """Gives up the entries that are left, for others to undo."""
        self._begun.clear()
        self._disown()

    def _files(self, suffix: str) -> list[Path]:
        try:
            self._check()
            return sorted(path for path in self._folder.iterdir() if path.suffix == suffix)
        except OSError:  # it does not exist, or may not be entered
            return []

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """During the block, nobody else begins an entry."""
        opened = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            yield
        finally:
            os.close(opened)

    def _own(self) -> None:
        """Takes this journal's lock. Nobody sees it before it is locked."""
        lock = self._folder / f"{self._name}{LOCK}"
        if lock not in self._held:
            new = lock.with_suffix(".new")
            self._held[lock] = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._held[lock], fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(lock)

    def _disown(self) -> None:
        lock = self._folder / f"{self._name}{LOCK}"
        if lock in self._held:
            lock.unlink(missing_ok=True)
            os.close(self._held.pop(lock))

    def _sweep(self) -> None:
        """Removes what else is left of owners that were killed: locks without entries, and halves of entries."""
        used = {_lock_of(path) for path in self._files(ENTRY)}
        for lock in self._files(LOCK):
            if lock not in used and lock not in self._held:
                with suppress(OSError), _locked(lock, create=False):
                    lock.unlink()
        for half in [*self._folder.glob(".labkit-*"), *self._folder.glob("*.new")]:
            with suppress(OSError):
                if half.stat().st_mtime < time.time() - HALF:
                    half.unlink()

    def _check(self) -> None:
        """`UsageError` for a folder that others may have written to; nobody else can enter it afterwards."""
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UsageError(f"{str(self._folder)!r} must be a folder of yours: remove it, or set XDG_STATE_HOME")
        if stat.S_IMODE(found.st_mode) != 0o700:
            self._folder.chmod(0o700)


os.register_at_fork(after_in_child=Journal._held.clear)  # locks belong to a process


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name.partition("-")[0] + LOCK)


@contextmanager
def _locked(lock: Path, *, create: bool = True) -> Iterator[None]:
    """Holds a lock during the block; BlockingIOError if another process holds it."""
    opened = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_CREAT * create, 0o600)
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)
