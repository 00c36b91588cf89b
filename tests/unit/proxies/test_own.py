"""Faults inside own servers: what is refused before anything is dialled, with one clear line and no password."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit import Proxies, faults
from labkit.cli import main
from labkit.cli.proxy import _made
from labkit.errors import UsageError
from labkit.faults import UndoCommand
from labkit.proxies.fronts import Front
from labkit.proxies.journal import Entry, Journal
from labkit.proxies.own import Owned
from labkit.proxies.routes import route

BOTH = r"admin=\{.*\}, own=True \(labkit proxy --admin eu=URL --i-own-this-server\)"
ADMIN = "redis://ops:hunter22@127.0.0.1:6379"
PING = UndoCommand(("PING",))
LISTEN = ("proxy", "--listen", "eu=0->redis://127.0.0.1:6379", "--api", "none")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the journal."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"admin": {"eu": ADMIN}}, BOTH),
        ({"own": True}, BOTH),
        ({"admin": ADMIN, "own": True}, BOTH),
        ({"admin": {"eu": ADMIN}, "own": "yes"}, BOTH),
        ({"admin": {"us": ADMIN}, "own": True}, "unknown shard 'us': there is a proxy for 'eu'"),
        ({"tables": {"us": "orders"}}, "unknown shard 'us': there is a proxy for 'eu'"),
        (
            {"admin": {"eu": "postgresql://ops:hunter22@db"}, "own": True},
            "'eu' is redis, and its administrator's URL is p",
        ),
        ({"admin": {"eu": "127.0.0.1:6379"}, "own": True}, "the administrator of shard 'eu': .* is given by a URL"),
        ({"admin": {"eu": 6379}, "own": True}, "the administrator of shard 'eu': .* is given by a URL"),
        ({"admin": {"eu": "redis+cluster://ops:hunter22@a,b"}, "own": True}, "the nodes of a Redis Cluster announce"),
        ({"admin": {"eu": "http://ops:hunter22@a:1"}, "own": True}, "URL must begin with postgresql://, redis://"),
        ({"admin": {"eu": f"{ADMIN}?hunter22=1"}, "own": True}, "unknown option after its"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], why: str) -> None:
    """A wrong combination or URL is a UsageError that says what to write, and has no password."""
    with pytest.raises(UsageError, match=why) as refused:
        Proxies({"eu": "redis://127.0.0.1:6379"}, **given)
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--admin", f"eu={ADMIN}"), "admin={'eu': 'postgresql://…'}, own=True (labkit proxy --admin eu=URL"),
        (("--i-own-this-server",), "--i-own-this-server"),
        (("--admin", ADMIN, "--i-own-this-server"), "--admin takes NAME=URL"),
        (("--admin", f"eu={ADMIN}", "--admin", f"eu={ADMIN}", "--i-own-this-server"), "--admin names 'eu' twice"),
        (("--admin", "eu=redis://${NOBODY_SET_THIS}@a", "--i-own-this-server"), "NOBODY_SET_THIS, which is not set"),
        (("--table", "orders"), "--table takes NAME=TABLE, such as eu=orders"),
    ],
)
def test_the_command_refuses_in_one_line(words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line on stderr, without the URL."""
    with pytest.raises(SystemExit) as ended:
        main([*LISTEN, *words])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert why in err
    assert "hunter22" not in err


def test_undoing_names_a_server_that_cannot_be_reached(capsys: pytest.CaptureFixture[str]) -> None:
    """`labkit proxy --undo` names it in one line, exits 1 and keeps the entry; nothing has the password."""
    journal = Journal()
    path = journal.begin(Entry("eu", "Busy()", ("127.0.0.1:1",), "redis://:hunter22@127.0.0.1:1", 7, (PING,)))
    journal.close()
    code, out, err = undone(capsys)
    assert (code, out) == (1, "")
    assert err.startswith("labkit: eu (127.0.0.1:1): Busy() not undone: ")
    assert err.endswith("; its entry stays, so that you can try `labkit proxy --undo` again\n")
    assert "hunter22" not in err
    path.unlink()
    assert undone(capsys) == (0, "nothing to undo\n", "")


def undone(capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """The exit code of `labkit proxy --undo`, and what it prints on stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["proxy", "--undo"])
    return ended.value.code, *capsys.readouterr()


def test_one_fault_is_for_labs_only() -> None:
    """All faults inside a server but CrashRecovery can be undone surely on own servers."""
    inside = {name for name, entry in faults.ALL.items() if entry.layer == "server"}
    assert {name for name in inside if not faults.ALL[name].kind.own_servers} == {"CrashRecovery"}
    assert {name for name, entry in faults.ALL.items() if entry.kind.own_servers} < inside


def test_without_a_home_there_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults inside servers need a folder for the journal; proxies without them do not."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError, match="you have no home folder for labkit's journal: set XDG_STATE_HOME"):
        Proxies({"eu": "redis://127.0.0.1:6379"}, admin={"eu": ADMIN}, own=True)
    assert Owned({}, False, {}).left([Front("eu", route("127.0.0.1:6379"))]) == []


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


async def test_what_is_left_on_a_server_is_told_without_an_administrator() -> None:
    """Proxies in front of a server that a killed process has left a fault on say so, under any of its addresses."""
    journal = Journal()
    path = journal.begin(Entry("eu", "Busy()", ("127.0.0.1:6379", "db:6379"), ADMIN, 7, (PING,)))
    for where, told in (("localhost:6379", 1), ("redis://DB", 1), ("127.0.0.1:6380", 0)):
        async with Proxies({"us": where}) as through:
            assert len(through.left_on_servers()) == told
    journal.close()
    async with Proxies({"us": "[::1]:6379"}) as through:
        [line] = through.left_on_servers()
    assert line == (
        "shard 'us': Busy() of process 7, which was killed, was not undone on its server: "
        "run `labkit proxy --undo` first"
    )
    assert json.loads(path.read_text())["shard"] == "eu"


def test_the_command_knows_the_shards_and_tables_of_a_topology(tmp_path: Path) -> None:
    """Shards whose names are numbers are given as text; `--table` comes before the file's table."""
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[shards]]\nname = 1\nurl = "redis://a"\ntable = "data_1"\nranges = [[1, 10]]\n'
        '[[shards]]\nname = 2\nurl = "redis://b"\ntable = "data_2"\nranges = [[11, 20]]\n'
    )
    made = _made(str(file), [], [f"1={ADMIN}"], ["2=orders"], own=True, seed=0)
    assert (list(made._owned._administrators), made._owned._tables) == ([1], {1: "data_1", 2: "orders"})
