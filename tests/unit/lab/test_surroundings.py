"""How a lab deals with its environment: variables, folders, users, streams, open files."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labkit import Lab, Status
from labkit._streams import console
from labkit.errors import LabError
from labkit.lab import lab as lab_module
from labkit.lab.keeper import folders
from labkit.lab.keeper.client import KeeperClient, environment
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.launchers import binaries, postgres
from labkit.lab.progress import _is_terminal
from labkit.lab.proxy.door import Door
from labkit.shards.base import ShardFailure
from tests.support.mocks import turn_until


def test_servers_hear_of_no_variable_meant_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """PG* and REDIS* variables are removed; all others are passed on."""
    for name in ("PGHOST", "PGANYTHING", "REDISCLI_AUTH"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    told = environment()
    assert not [name for name in told if name.startswith(("PG", "REDIS"))]
    assert told["DOCKER_HOST"] == "unix:///x"


def test_helpers_find_nothing_in_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty and relative entries of search paths are removed: they mean the working folder, which may be untrusted."""
    monkeypatch.setenv("PYTHONPATH", ":/one:relative:.:/two:")
    monkeypatch.setenv("PATH", ":/bin:./bin:")
    told = environment()
    assert told["PYTHONPATH"].split(":")[1:] == ["/one", "/two"]
    assert told["PATH"] == "/bin"
    assert told["PYTHONSAFEPATH"] == "1"


def test_no_server_program_of_the_working_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the working folder is never run, not even with --version, whatever PATH says."""
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'mark'}\necho v=99.0\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}")
    assert binaries.redis_server() != Path("redis-server")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("named", ["nowhere", "file"])
def test_a_tmpdir_that_cannot_be_used_is_named(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unusable TMPDIR is an error that names it; it is not silently replaced."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / named))
    with pytest.raises(RuntimeError, match=f"TMPDIR is .*{named}.*correct it or unset it"):
        folders.data_folder()


def test_a_relative_tmpdir_is_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative TMPDIR is made absolute: servers run in another working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "here")
    assert folders.temporary() == str(tmp_path / "here")


def test_a_folder_that_others_may_not_enter_is_named(tmp_path: Path) -> None:
    """A folder that other users may not enter is an error: under root Postgres runs as another user."""
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(RuntimeError, match="no other user may enter"):
        folders.enterable(tmp_path / "closed" / "1")


class Asked:
    """A keeper that records what it is asked to run, and fails to run it if `fails`."""

    def __init__(self, fails: bool = False) -> None:
        self.ran: list[list[str]] = []
        self._fails = fails

    async def ask(self, do: Any, *arguments: Any, **_: Any) -> Any:
        """Same signature as `KeeperClient.ask`."""
        if do is Keeper.write_note:
            return f"/lab/{arguments[0]}"
        if do is Keeper.run:
            self.ran += arguments[0]
            if self._fails:
                raise LabError("unshare failed (1): not permitted")
        return None


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> postgres.PostgresProgram:
    """A Postgres with a home that does not exist."""
    monkeypatch.setattr(postgres, "postgres_home", lambda: Path("/pg"))
    return postgres.PostgresProgram("what it keeps of a password")


async def test_a_user_without_a_name_has_one_for_initdb(
    program: postgres.PostgresProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a user without an entry in /etc/passwd runs initdb under a made-up name."""
    keeper: Any = Asked()
    await program._initialise(keeper, "/data")
    monkeypatch.setattr(postgres.os, "geteuid", lambda: 4_000_000_000)
    await program._initialise(keeper, "/data")
    plain, named = keeper.ran
    assert plain[0] == "/pg/bin/initdb"
    assert named == [*postgres.AS_NOBODY, *plain]


async def test_a_user_who_can_have_no_name_is_told_so(
    program: postgres.PostgresProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that fails, the error says what to do."""
    monkeypatch.setattr(postgres.os, "geteuid", lambda: 4_000_000_000)
    keeper: Any = Asked(fails=True)
    with pytest.raises(LabError, match=r"needs an entry in /etc/passwd for user 4000000000.*not permitted"):
        await program._initialise(keeper, "/data")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_does_not_have_is_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stdout and stderr, characters outside the encoding are replaced."""
    for name in ("stdout", "stderr"):
        written = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding, write_through=True))
        console(stderr=name == "stderr").print("1 · ü ● 雪")
        assert written.getvalue().decode(encoding).startswith("1 ")


def test_a_stream_that_is_not_there_is_no_terminal() -> None:
    """None and closed streams, as in daemons, are not terminals."""
    closed = io.StringIO()
    closed.close()
    assert not _is_terminal(None)
    assert not _is_terminal(closed)


async def test_a_door_without_a_free_descriptor_rests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It retries about ten times a second, reports it once, and accepts a waiting client as soon as it can."""
    knocked: list[socket.socket] = []
    door, asked, full = Door(knocked.append), 0, True
    door.open()
    real = door._listener
    assert real is not None

    def accept() -> Any:
        nonlocal asked
        asked += 1
        if full:
            raise OSError(errno.EMFILE, "Too many open files")
        return real.accept()

    def fileno() -> int:
        return real.fileno()

    door.ignore()
    fake: Any = SimpleNamespace(accept=accept, fileno=fileno, listen=real.listen, close=real.close)
    monkeypatch.setattr(door, "_listener", fake)
    door.open()
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", door.port))
        await turn_until(lambda: asked > 0)
        await asyncio.sleep(0.35)
        assert asked <= 5
        assert capsys.readouterr().err.count("Too many open files") == 1
        full = False
        await turn_until(lambda: bool(knocked))
    for one in knocked:
        one.close()
    door.close()


async def test_a_request_given_up_half_way_does_not_harm_the_next() -> None:
    """The rest of a cancelled request is sent before the next one, and its late answer is skipped."""
    client: Any = object.__new__(KeeperClient)  # without starting a process
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client._control, client._channel, client._turn = None, ours, asyncio.Lock()
    client._received, client._unsent, client._numbers = bytearray(), bytearray(), iter(range(1, 9))
    task = asyncio.create_task(client.ask(Keeper.log, "x" * 5_000_000))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reader, writer = await asyncio.open_connection(sock=theirs, limit=sys.maxsize)
    asking = asyncio.create_task(client.ask(Keeper.log, "y"))
    for answer in (b'{"number": 1, "value": "late"}\n', b'{"number": 2, "value": "right"}\n'):
        assert (await reader.readline()).endswith(b"}\n")
        writer.write(answer)
    assert await asking == "right"
    writer.close()
    ours.close()


class Ailing:
    """A shard that fails in the given order and records how much time each read had."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.given: list[float] = []

    async def read(self, ask: Any) -> None:
        """Raises the failures in order; the last one repeats."""
        self.given.append(ask.deadline - asyncio.get_running_loop().time())
        if self._failures:
            raise self._failures[0] if len(self._failures) == 1 else self._failures.pop(0)


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ((ShardFailure(Status.UNREACHABLE, "connection refused"), TimeoutError()), "unreachable: connection refused"),
        ((TimeoutError(),), "no answer before the deadline"),
        ((TimeoutError(), ShardFailure(Status.REJECTED, "LOADING")), "rejected: LOADING"),
    ],
)
async def test_a_shard_that_does_not_answer_is_named_with_its_cause(
    failures: tuple[Exception, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the last cause other than a timeout; the shard is queried several times."""
    monkeypatch.setattr(lab_module, "RECOVERY", 0.3)
    monkeypatch.setattr(lab_module, "FIRST_ASK", 0.05)
    lab, shard = Lab("redis"), Ailing(*failures)
    lab._reader = SimpleNamespace(shards={2: shard})  # type: ignore[assignment]
    with pytest.raises(LabError, match=f"shard 2 does not answer .* after its fault: .*{words}"):
        await lab._answered(2)
    assert len(shard.given) >= 3
    assert shard.given[0] <= 0.05
