"""The folders of labs: which ones a lab removes, and that nothing foreign is touched, followed or waited for."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.lab.keeper import folders
from labkit.lab.keeper.folders import ENGINE, IPC_RMID, LOCK, NOTE, PREFIX

STRANGER = 54_321
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder like /tmp, where anyone may write."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def left_by_a_keeper(place: Path, name: str = "dead") -> Path:
    """What a killed keeper leaves: a folder whose lock is not held."""
    folder = place / f"{PREFIX}{name}"
    folder.mkdir(mode=0o700)
    (folder / LOCK).touch()
    (folder / "1").mkdir()
    (folder / "1" / "row").write_text("old")
    return folder


def test_what_a_killed_keeper_left_is_removed(place: Path) -> None:
    """A killed keeper's folder is removed completely; a live one's stays."""
    dead, alive = left_by_a_keeper(place), left_by_a_keeper(place, "alive")
    with open(alive / LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not folders.sweep(str(place))
    assert not dead.exists()
    assert (alive / "1" / "row").exists()


def test_whether_an_engine_was_asked_is_told(place: Path) -> None:
    """`sweep` returns whether any removed folder had used the engine, which is then swept too."""
    (left_by_a_keeper(place, "one") / ENGINE).touch()
    left_by_a_keeper(place, "two")
    assert folders.sweep(str(place))
    assert os.listdir(place) == []


def planted_fifo(folder: Path, _treasure: Path) -> None:
    os.mkfifo(folder / LOCK)


def planted_link(folder: Path, treasure: Path) -> None:
    (folder / LOCK).symlink_to(treasure / "file")


def planted_folder(folder: Path, _treasure: Path) -> None:
    (folder / LOCK).mkdir()


@pytest.mark.parametrize("plant", [planted_fifo, planted_link, planted_folder])
def test_what_is_no_lock_is_not_opened_as_one(plant: Callable[[Path, Path], None], place: Path, tmp_path: Path) -> None:
    """A FIFO or link in place of a lock is neither waited for nor followed; other folders are still swept."""
    treasure, planted = tmp_path / "treasure", place / f"{PREFIX}planted"
    for folder in (treasure, planted):
        folder.mkdir()
    (treasure / "file").touch()
    plant(planted, treasure)
    dead = left_by_a_keeper(place)
    folders.sweep(str(place))
    assert os.path.lexists(planted / LOCK)
    assert (treasure / "file").exists()
    assert not dead.exists()


def test_a_link_to_a_folder_is_no_folder(place: Path, tmp_path: Path) -> None:
    """A link is not followed, even to a folder that would be removed here."""
    treasure = left_by_a_keeper(tmp_path, "treasure")
    (place / f"{PREFIX}link").symlink_to(treasure)
    (place / f"{PREFIX}loop").symlink_to(place / f"{PREFIX}loop")
    folders.sweep(str(place))
    assert (treasure / "1" / "row").exists()
    assert len(os.listdir(place)) == 2


def test_links_in_a_folder_are_removed_and_not_followed(place: Path, tmp_path: Path) -> None:
    """Links at any depth are removed, not followed."""
    (tmp_path / "treasure").mkdir()
    (tmp_path / "treasure" / "file").touch()
    dead = left_by_a_keeper(place)
    for link in (dead / "link", dead / "1" / "link"):
        link.symlink_to(tmp_path / "treasure")
    folders.sweep(str(place))
    assert not dead.exists()
    assert (tmp_path / "treasure" / "file").exists()


@root
def test_the_folder_of_another_user_is_left_alone(place: Path) -> None:
    """Another user's folder is left alone, whatever is in it."""
    other = left_by_a_keeper(place)
    for path in (other, *other.rglob("*")):
        os.lchown(path, STRANGER, STRANGER)
    folders.sweep(str(place))
    assert (other / "1" / "row").exists()
    folders.remove(other)
    assert (other / "1" / "row").exists()


@root
def test_the_lock_of_another_user_is_none(place: Path) -> None:
    """In our own folder, a lock of another user does not count: the folder stays."""
    dead = left_by_a_keeper(place)
    os.chown(dead / LOCK, STRANGER, STRANGER)
    folders.sweep(str(place))
    assert (dead / "1" / "row").exists()


SEGMENT = """
import ctypes, os, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
print(ctypes.CDLL(None).shmget(int(sys.argv[2]), 64, 0o1600))
"""


@pytest.fixture
def segment() -> Iterator[Callable[[int, int], int]]:
    """Creates a shared memory segment for (user, key); returns its number."""
    made: list[int] = []

    def make(user: int, key: int) -> int:
        argv = [sys.executable, "-c", SEGMENT, str(user), str(key)]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        made.append(int(said))
        assert made[-1] >= 0
        return made[-1]

    yield make
    for number in made:
        ctypes.CDLL(None).shmctl(number, IPC_RMID, None)


def noted(place: Path, key: int, number: int, owner: int) -> Path:
    """A folder with a server's note that names that segment."""
    dead = left_by_a_keeper(place, str(number))
    (dead / "1" / NOTE).write_text("\n".join(["1", "2", "3", "4", "5", "6", f"{key:9d} {number:9d}", ""]))
    for path in (dead / "1", dead / "1" / NOTE):
        os.chown(path, owner, owner)
    return dead


@root
def test_shared_memory_is_removed_where_it_is_that_servers(place: Path, segment: Callable[[int, int], int]) -> None:
    """A segment is removed only if user and key match: a note may be wrong, or older than the last boot."""
    ours, others, reused = segment(STRANGER, 7001), segment(STRANGER + 1, 7002), segment(STRANGER, 7003)
    noted(place, 7001, ours, STRANGER)
    noted(place, 7002, others, STRANGER)
    noted(place, 7004, reused, STRANGER)
    folders.sweep(str(place))
    assert os.listdir(place) == []
    assert folders._segment(ours) is None
    assert folders._segment(others) == (7002, STRANGER + 1)
    assert folders._segment(reused) == (7003, STRANGER)


@root
def test_a_note_that_is_a_link_is_not_read(place: Path, tmp_path: Path, segment: Callable[[int, int], int]) -> None:
    """A note that is a link is not followed, nor is a FIFO waited for."""
    number = segment(STRANGER, 7005)
    dead = noted(place, 7005, number, STRANGER)
    (dead / "1" / NOTE).rename(tmp_path / "note")
    (dead / "1" / NOTE).symlink_to(tmp_path / "note")
    (dead / "2").mkdir()
    os.mkfifo(dead / "2" / NOTE)
    folders.sweep(str(place))
    assert not dead.exists()
    assert folders._segment(number) == (7005, STRANGER)


def test_a_new_folder_is_closed_to_others(place: Path) -> None:
    """A new folder is open to its owner only; as root, to the group of the server's user as well."""
    made = folders.make(str(place))
    assert made.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        grouped = folders.make(str(place), STRANGER)
        assert (grouped.stat().st_mode & 0o777, grouped.stat().st_gid) == (0o710, STRANGER)
        assert (grouped / LOCK).stat().st_mode & 0o777 == 0o600
