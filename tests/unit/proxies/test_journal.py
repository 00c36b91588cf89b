"""The journal of what must be undone on own servers: private, on disk before a fault acts, owned while one runs."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from labkit.errors import LabError, UsageError
from labkit.faults import UndoCommand
from labkit.proxies import journal as module
from labkit.proxies.journal import Entry, Journal, default_folder

COMMANDS = (UndoCommand(("SQL",)), UndoCommand(("CONFIG", "SET", "a", "1"), ("CONFIG", "GET", "a"), "2"))


def entry(shard: str = "eu", *servers: str) -> Entry:
    return Entry(shard, "Busy()", servers or ("127.0.0.1:6379",), "redis://:secret@127.0.0.1", os.getpid(), COMMANDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the journal of a test is."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "labkit" / "undo"


def test_it_is_in_the_folder_for_state(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_STATE_HOME counts if it is absolute; else it is ~/.local/state."""
    assert default_folder() == folder
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for named in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", named)
        assert default_folder() == tmp_path / "home/.local/state/labkit/undo"


def test_only_its_owner_can_read_an_entry(folder: Path) -> None:
    """Folders are 0700 and files 0600, also if the folder was open before; no text shows the URL."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    path = Journal().begin(entry())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert Journal().read(path) == entry()
    assert "secret" not in repr(entry())


def test_an_entry_is_on_disk_before_the_fault_acts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced under its temporary name, and the folder once it has its own."""
    journal, synced = Journal(), []

    def sync(opened: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(opened).st_mode), len(journal.paths())))

    monkeypatch.setattr(os, "fsync", sync)
    journal.begin(entry())
    assert synced == [(False, 0), (True, 1)]


def test_nothing_is_left_of_it_when_all_is_undone(folder: Path) -> None:
    """The last entry takes the lock with it."""
    journal = Journal()
    first, second = journal.begin(entry()), journal.begin(entry("us", "127.0.0.1:6380"))
    journal.remove(first)
    assert journal.is_owned(second)
    journal.remove(second)
    assert list(folder.iterdir()) == []


def test_an_entry_has_an_owner_while_its_process_runs(folder: Path) -> None:
    """Other processes see that it is owned, though this one looks at its own lock too; closing gives it up."""
    journal = Journal()
    path = journal.begin(entry())
    assert Journal().is_owned(path)
    child = os.fork()
    if child == 0:
        os._exit(0 if Journal().is_owned(path) else 1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(BlockingIOError), Journal().adopted(path):
        raise AssertionError
    assert Journal().is_owned(path)
    journal.close()
    assert not Journal().is_owned(path)
    with Journal().adopted(path):
        pass


def test_a_server_has_one_entry(folder: Path) -> None:
    """A second fault on a server, under any of its addresses, is refused with the process of the first."""
    journal = Journal()
    journal.begin(entry("eu", "db:6379", "127.0.0.1:6379"))
    for other in (journal, Journal()):
        with pytest.raises(UsageError, match=rf"Busy\(\) of process {os.getpid()} acts"):
            other.begin(entry("us", "127.0.0.1:6379"))
    Journal().begin(entry("us", "127.0.0.1:6380"))
    assert len(Journal().paths()) == 2


def test_leftovers_of_killed_processes_go_with_the_next_entry(folder: Path) -> None:
    """A lock without entries, and half an entry, which may hold a password, are removed; those in use are not."""
    journal = Journal()
    kept = journal.begin(entry())
    (folder / "abandoned.lock").touch()
    half, fresh = folder / ".labkit-half", folder / ".labkit-fresh"
    half.write_text("redis://:secret@")
    fresh.touch()
    os.utime(half, (0, time.time() - module.HALF - 1))
    Journal().begin(entry("us", "127.0.0.1:6380"))
    assert {path.name for path in folder.iterdir()} >= {kept.name, fresh.name}
    assert not half.exists()
    assert not (folder / "abandoned.lock").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", json.dumps({"shard": "eu"}), "\x00"])
def test_what_is_no_entry_is_named(folder: Path, text: str) -> None:
    """A file that is not an entry is one clear error with its path."""
    journal = Journal()
    path = journal.begin(entry())
    path.write_text(text)
    with pytest.raises(LabError, match=rf"'{path}' is not an entry of labkit's journal: look at it, and remove it"):
        journal.read(path)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_is_not_yours_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    """A link or a file in the folder's place is refused, and nothing is written through it."""
    folder.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere) if kind == "link" else folder.touch()
    with pytest.raises(UsageError, match="must be a folder of yours"):
        Journal().begin(entry())
    assert not any(elsewhere.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A state folder that cannot be written is one clear error."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="XDG_STATE_HOME"):
        Journal(tmp_path / "file" / "undo").begin(entry())
