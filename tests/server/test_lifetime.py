"""However the owner of a lab ends, the lab's servers, proxies and folder are gone afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from labkit import Lab, errors, faults
from labkit.lab.launchers.binaries import POSTGRES_WHEEL, _wheel
from tests.support import lateness
from tests.support.owning import Owner, owner_of, told
from tests.support.watching import (
    becomes_true,
    children,
    comes_true,
    folders,
    freeze,
    keepers,
    running,
    segments,
    status,
    tree,
)


def lab_of(owner: Owner) -> list[psutil.Process]:
    """The processes of an owner's lab, once it is up: its keeper and its servers."""
    pids = [int(word) for word in told(owner)]
    assert len(pids) == 3
    keeper = psutil.Process(pids[0]).parent()
    assert keeper is not None
    return tree(keeper.pid)


SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


@pytest.mark.parametrize(
    ("backend", "end"),
    [
        *(("redis", end) for end in SIGNALS),
        ("postgres", "SIGKILL"),
        ("postgres", "SIGINT"),
        ("redis-cluster", "SIGKILL"),
    ],
)
def test_a_signal_that_ends_the_owner_ends_the_lab(backend: str, end: str) -> None:
    """Any signal that ends the owner ends the lab, even SIGKILL, which leaves no chance to clean up."""
    before = folders()
    with owner_of(backend, "wait") as owner:
        below = lab_of(owner)
        assert len(running(below)) >= 4
        assert len(folders()) > len(before)
        owner.send_signal(signal.Signals[end])
        owner.wait()
        assert becomes_true(lambda: not running(below)), running(below)
        assert becomes_true(lambda: folders() <= before), folders() - before


@pytest.mark.parametrize("end", ["exit", "exception"])
def test_an_owner_that_forgets_stop_leaves_nothing(end: str) -> None:
    """After sys.exit or an uncaught exception with the lab still running, nothing is left."""
    before = folders()
    owner = subprocess.run(
        [sys.executable, "-m", "tests.support.owner", "redis", end], capture_output=True, text=True, timeout=30
    )
    pids = [int(word) for word in owner.stdout.split()]
    assert len(pids) == 3
    assert becomes_true(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert becomes_true(lambda: folders() <= before), folders() - before


def test_a_forked_child_of_a_dead_owner_keeps_nothing_alive() -> None:
    """A forked child that inherited the pipe to the keeper does not keep the lab alive."""
    with owner_of("redis", "fork") as owner:
        below = lab_of(owner)
        owner.kill()
        owner.wait()
        assert becomes_true(lambda: not running(below)), running(below)


def keeper_and_reaper(owner: Owner) -> tuple[psutil.Process, psutil.Process]:
    """The keeper and reaper of an owner whose lab is up or starting."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = keepers(children(psutil.Process(owner.pid)))
        return bool(found)

    assert becomes_true(there)
    reaper = found[0].parent()
    assert reaper is not None
    return found[0], reaper


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives orphans to a reaper")
@pytest.mark.parametrize(
    ("backend", "killed"),
    [
        *(("postgres", who) for who in ("keeper", "keeper and owner", "reaper", "reaper and owner", "owner")),
        *(("redis", who) for who in ("keeper and owner", "reaper and owner")),
        *(("redis-cluster", who) for who in ("keeper", "owner")),
    ],
)
def test_nothing_stands_where_a_shard_was_paused(backend: str, killed: str) -> None:
    """Within a second of SIGKILL to any one or two of keeper, reaper and owner, not even a frozen shard is left."""
    before = folders()
    with owner_of(backend, "paused") as owner:
        below = lab_of(owner)
        assert [process for process in below if status(process) == psutil.STATUS_STOPPED]
        keeper, reaper = keeper_and_reaper(owner)
        victims = {"keeper": keeper.pid, "reaper": reaper.pid, "owner": owner.pid}
        began, waited = time.monotonic(), lateness.pressed()
        for victim in killed.split(" and "):
            os.kill(victims[victim], signal.SIGKILL)
        assert becomes_true(lambda: not running([*below, reaper])), running([*below, reaper])
        assert time.monotonic() - began < 1.0 + lateness.pressed() - waited
        assert becomes_true(lambda: folders() <= before), folders() - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives orphans to a reaper")
@pytest.mark.parametrize("stopped", ["keeper", "reaper", "keeper and reaper"])
def test_helpers_that_somebody_stopped_end_with_the_owner(stopped: str) -> None:
    """SIGSTOP to the keeper, the reaper or both keeps nothing alive once the owner is killed."""
    with owner_of("postgres", "wait") as owner:
        below = lab_of(owner)
        keeper, reaper = keeper_and_reaper(owner)
        for victim in stopped.split(" and "):
            freeze({"keeper": keeper, "reaper": reaper}[victim])
        owner.kill()
        assert becomes_true(lambda: not running([*below, reaper])), running([*below, reaper])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives orphans to a reaper")
@pytest.mark.parametrize("backend", ["postgres", "redis"])
@pytest.mark.parametrize("wait", [0.0, 0.1, 0.2, 0.35, 0.5])
def test_a_keeper_killed_while_the_lab_starts_leaves_nothing(backend: str, wait: float) -> None:
    """A keeper killed at any moment of the start, even during initdb, leaves nothing behind."""
    before = folders()
    with owner_of(backend, "early") as owner:
        assert told(owner) == ["starting"]
        keeper, reaper = keeper_and_reaper(owner)
        time.sleep(wait)  # each value hits another moment of the start
        below = tree(reaper.pid)
        keeper.kill()
        assert becomes_true(lambda: not running([*below, reaper])), running([*below, reaper])
    assert becomes_true(lambda: folders() <= before), folders() - before


def posix_segments() -> set[Path]:
    """Postgres' shared memory that has a name on this machine; Linux shows it as files."""
    return set(Path("/dev/shm").glob("PostgreSQL.*"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere shared memory is not seen as files")
async def test_no_shared_memory_is_outside_the_folder() -> None:
    """Postgres and initdb keep shared memory that has a name in their folder, where a SIGKILL cannot leave it."""
    before, seen = posix_segments(), set[Path]()
    lab = Lab("postgres")
    starting = asyncio.create_task(lab.start())
    while not starting.done():
        seen |= posix_segments()
        await asyncio.sleep(0.001)  # initdb has it for a tenth of a second or more
    await starting
    await lab.stop()
    assert seen <= before


async def test_what_a_killed_keeper_has_left_is_removed() -> None:
    """A killed keeper's folder and the shared memory of its Postgres servers are removed."""
    before = folders()
    with owner_of("postgres", "wait") as owner:
        servers = [process.pid for process in lab_of(owner)]
        assert len(segments(servers)) == 3
        keeper_and_reaper(owner)[0].kill()
        assert becomes_true(lambda: folders() <= before), folders() - before
        assert segments(servers) == set()


async def test_what_is_put_into_the_labs_folder_goes_with_it() -> None:
    """stop() removes what others put into the lab's folder; without a running lab there is no folder."""
    lab = Lab("redis")
    with pytest.raises(errors.UsageError, match="this lab is not running"):
        _ = lab.folder
    await lab.start()
    folder = lab.folder
    (folder / "beside").mkdir()
    (folder / "beside" / "note").write_text("goes with the lab")
    assert f"folder {folder}" in lab.leftovers()
    await lab.stop()
    assert not folder.exists()
    with pytest.raises(errors.UsageError, match="this lab is not running"):
        _ = lab.folder


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_a_frozen_lab_stops_as_quickly(backend: str) -> None:
    """stop() ends frozen, killed and unreachable servers, and leaves no process, folder or shared memory behind."""
    before = folders()
    lab = await Lab(backend).start()
    below = [process for pid in lab.pids.values() for process in tree(pid)]
    servers = list(lab.pids.values())
    assert len(segments(servers)) == (3 if backend == "postgres" else 0)
    await lab.inject(1, faults.Pause())
    await lab.inject(2, faults.Kill())
    await lab.inject(3, faults.BlackHole())
    await lab.stop()
    assert not running(below)
    assert folders() <= before
    assert segments(servers) == set()


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    """A start cancelled during initdb is abandoned by the keeper and leaves nothing behind."""
    before = folders()
    lab = Lab("postgres")
    start = asyncio.create_task(lab.start())
    assert await comes_true(lambda: any(list(folder.glob("1/*")) for folder in folders() - before))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert lab.leftovers() == []
    assert folders() <= before


async def test_a_lab_can_be_stopped_twice_and_says_so_when_used_after() -> None:
    """stop() is idempotent, and using a stopped lab raises a clear error."""
    async with Lab("redis") as lab:
        pass
    await lab.stop()
    with pytest.raises(errors.UsageError, match="not running"):
        await lab.read()


async def test_a_lab_can_be_started_again() -> None:
    """A second start() has new servers and the same rows."""
    lab = await Lab("redis").start()
    await lab.stop()
    async with lab:
        assert (await lab.read()).complete


async def test_a_server_that_does_not_start_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not start is one clear error, and nothing is left."""
    from labkit.lab.launchers.redis import RedisProgram

    command = RedisProgram.command
    monkeypatch.setattr(RedisProgram, "command", lambda self, folder: [*command(self, folder), "--no-such-option", "1"])
    before = folders()
    with pytest.raises(errors.LabError, match="a server did not start"):
        await Lab("redis").start()
    assert folders() <= before


@pytest.fixture
def closed_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates root in a closed folder (a clone in mktemp -d) whose programs other users may not run."""
    monkeypatch.setattr("labkit.lab.launchers.postgres.is_root", lambda: True)
    monkeypatch.setattr("labkit.lab.launchers.postgres.open_to_all", lambda path: False)
    [newest, *_] = sorted(_wheel(POSTGRES_WHEEL, "pginstall*"), reverse=True)
    monkeypatch.setattr("labkit.lab.launchers.postgres.postgres_home", lambda: newest)


@pytest.mark.usefixtures("closed_home")
@pytest.mark.parametrize("name", ["a b, 'ü'", 'a"$HOME`a`\\'])
async def test_postgres_runs_from_a_folder_that_its_user_may_not_enter(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel's programs are copied with their libraries, even if TMPDIR's name needs quoting in a shell."""
    before = folders()
    with tempfile.TemporaryDirectory() as where:
        (folder := Path(where, name)).mkdir()
        for each in (where, folder):
            os.chmod(each, 0o1777)
        monkeypatch.setenv("TMPDIR", str(folder))
        async with Lab("postgres") as lab:
            assert (await lab.read()).complete
            programs = [psutil.Process(pid).cmdline()[0] for pid in lab.pids.values()]
            assert not [program for program in programs if "site-packages" in program]
        assert os.listdir(folder) == []
    assert folders() <= before


@pytest.mark.usefixtures("closed_home")
async def test_a_stop_while_programs_are_copied_leaves_nothing() -> None:
    """stop() ends the copying of programs before it removes their folder."""
    before = folders()
    lab = Lab("postgres")
    start = asyncio.ensure_future(lab.start())
    assert await comes_true(lambda: any([*Path(folder).glob("**/pginstall*/*")] for folder in folders() - before))
    await lab.stop()
    await asyncio.wait([start])
    assert folders() <= before
