"""`labkit up`, `read` and `serve` as users and scripts run them, against the servers of a lab."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pyarrow.csv
import pyarrow.parquet
import pytest

from labkit import CLASSIC, Lab, faults
from labkit.api import Server
from labkit.cli.formats import FORMATS
from labkit.cli.group import main
from labkit.lab.truth import truth
from labkit.tables import SCHEMA
from labkit.topology import load
from labkit.topology.file import check_free
from tests.support.watching import becomes_true, command_line, folders, running, send, tree

LABKIT = [sys.executable, "-m", "labkit"]
PLAIN = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
ROWS = truth(CLASSIC, None).to_pylist()


class Up:
    """A running `labkit up`."""

    def __init__(self, folder: Path, *options: str, stdin: int = subprocess.PIPE) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*LABKIT, "up", *options],
            cwd=folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=PLAIN,
        )
        self.greeting = self.until("help lists them.")

    @property
    def topology(self) -> Path:
        return self.folder / "lab.toml"

    def until(self, words: str) -> str:
        """Its output up to and including the line with these words."""
        said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said += line
            if words in line:
                return said
        raise AssertionError(f"it ended without {words!r}: {said}")

    def tell(self, command: str, words: str) -> str:
        """Sends it a command and returns its output up to these words."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.until(words)

    def ended(self) -> tuple[int, str]:
        """Its exit code and the rest of its output."""
        rest, _ = self.process.communicate(timeout=20)
        return self.process.returncode, rest


@contextmanager
def running_up(folder: Path, *options: str, **how: Any) -> Iterator[Up]:
    """`labkit up` in that folder; killed after the block, however that ends."""
    lab = Up(folder, *options, **how)
    try:
        yield lab
    finally:
        lab.process.kill()
        lab.process.communicate()


@pytest.fixture(scope="module")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `labkit up` with Postgres servers, shared by the tests of this module."""
    with running_up(tmp_path_factory.mktemp("up")) as lab:
        yield lab


@pytest.fixture
def up(shared_up: Up) -> Up:
    """The shared lab, with all shards healthy."""
    shared_up.tell("heal", "all shards answer")
    return shared_up


@pytest.fixture
def labkit(capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """A command in this process: `labkit("read", …)` returns (exit code, stdout, stderr)."""

    def run(*arguments: Any) -> tuple[int, bytes, str]:
        code: Any = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        out, err = capfdbinary.readouterr()
        return int(code or 0), out, err.decode()

    return run


def test_up_says_what_runs_and_where(up: Up) -> None:
    """`up` prints the addresses of all shards and writes them to a topology file. Only the file, readable by its owner
    alone, has the passwords.
    """
    topology = load(up.topology)
    assert topology.router == CLASSIC
    assert topology.timeout == 2.0
    for place in topology.shards.values():
        before, password, where = re.split(":([^:@]+)@", place.url)
        assert f"{before}:***@{where}" in up.greeting
        assert password not in up.greeting
    assert up.topology.stat().st_mode & 0o777 == 0o600
    assert "postgres: 3 real servers, launcher embedded" in up.greeting
    assert "labkit read --topology lab.toml" in up.greeting


def test_read_writes_every_format(up: Up, labkit: Any, tmp_path: Path) -> None:
    """Every format, on stdout or in a file with its suffix, has exactly the rows of the lab; stderr stays empty."""
    out: dict[str, bytes] = {}
    for name in ("csv", "json", "ndjson", "parquet"):
        code, out[name], said = labkit("read", "--topology", up.topology, "--format", name)
        assert (code, said) == (0, "")
        code, shown, said = labkit("read", "--topology", up.topology, "--output", tmp_path / f"rows.{name}")
        assert (code, shown, said) == (0, b"", "")
        if name in ("csv", "ndjson"):
            assert (tmp_path / f"rows.{name}").read_bytes() == out[name]
    assert json.loads(out["json"])["rows"] == ROWS
    assert [json.loads(line) for line in out["ndjson"].splitlines()] == ROWS
    assert pyarrow.csv.read_csv(tmp_path / "rows.csv").cast(SCHEMA).to_pylist() == ROWS
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == ROWS


def test_read_shows_a_table_and_a_window(up: Up, labkit: Any) -> None:
    """Without a format, `read` prints a table for people."""
    code, out, said = labkit("read", "--topology", up.topology, "--low", "15", "--high", "25")
    assert (code, said) == (0, "")
    assert out.decode().startswith("complete: 11 rows, nothing missing\n")


def test_read_pages_through_the_table(up: Up, labkit: Any) -> None:
    """Each page says on stderr how to continue; all pages together are the table."""
    rows: list[Any] = []
    after: list[str] = []
    for _ in range(3):
        code, out, said = labkit("read", "--topology", up.topology, "--format", "ndjson", "--limit", "25", *after)
        assert code == 0
        rows += [json.loads(line) for line in out.splitlines()]
        after = re.findall(r"--after \d+", said)[:1]
        after = after[0].split() if after else []
    assert after == []
    assert rows == ROWS


def test_a_read_with_a_dead_shard(up: Up, labkit: Any, tmp_path: Path) -> None:
    """`read` prints the rows it got and reports gaps on stderr; --strict exits 1 and leaves an existing file alone."""
    file = tmp_path / "rows.csv"
    file.write_text("before")
    up.tell("kill 2", "shard 2 has Kill()")
    cause = "shard 2 unreachable: connection refused"
    code, out, said = labkit("read", "--topology", up.topology, "--format", "ndjson")
    assert (code, len(out.splitlines())) == (0, 40)
    assert said == f"labkit: incomplete: 40 rows, missing 11–20, 41–50 (20 IDs); {cause}\n"
    code, out, said = labkit("read", "--topology", up.topology, "--output", file, "--strict")
    assert (code, out) == (1, b"")
    assert said == (
        "labkit: rows with these IDs are missing: 11-20, 41-50 (shard 2 is unreachable: connection refused)\n"
    )
    assert (os.listdir(tmp_path), file.read_text()) == (["rows.csv"], "before")
    code, _, _ = labkit("read", "--topology", up.topology, "--output", file, "--strict", "--high", "10")
    assert (code, len(file.read_text().splitlines())) == (0, 11)
    up.tell("restart 2", "shard 2 was started again")
    assert labkit("read", "--topology", up.topology, "--strict")[0] == 0


def test_a_timeout_of_the_command_line_counts_in_place_of_the_files(up: Up, labkit: Any) -> None:
    """A frozen shard times out after --timeout; a value that is not positive is one line and exit 2."""
    up.tell("pause 2", "shard 2 has Pause()")
    code, out, _ = labkit("read", "--topology", up.topology, "--timeout", "0.25", "--format", "json")
    up.tell("heal", "all faults are undone; all shards answer")
    answer = json.loads(out)
    assert (code, answer["timeout"], answer["shards"]["2"]["status"]) == (0, 0.25, "timeout")
    code, out, said = labkit("read", "--topology", up.topology, "--timeout", "0")
    assert (code, out, said) == (2, b"", "labkit: timeout must be a positive number of seconds, not 0.0\n")


def test_up_restarts_a_living_shard_and_one_that_was_killed_from_outside(up: Up, labkit: Any) -> None:
    """`restart` starts a new process at the same address."""

    def postmasters() -> set[int]:
        """PIDs of the Postgres servers without their children, which show the parent's command line until they set
        their own title and may end at any moment.
        """
        called = {process.pid: process for process in tree(up.process.pid) if "-D" in command_line(process)}
        found = set()
        for pid, process in called.items():
            with suppress(psutil.NoSuchProcess):
                if process.ppid() not in called:
                    found.add(pid)
        return found

    servers = postmasters()
    up.tell("restart 1", "shard 1 was started again")
    again = postmasters()
    assert len(again - servers) == len(servers - again) == 1
    send(signal.SIGKILL, next(iter(again & servers)))
    assert becomes_true(lambda: labkit("read", "--topology", up.topology, "--strict")[0] == 1)
    dead = re.findall(r"shard (\d) is", str(labkit("read", "--topology", up.topology, "--strict")[2]))
    up.tell(f"restart {dead[0]}", "was started again")
    assert labkit("read", "--topology", up.topology, "--strict")[0] == 0


def test_up_takes_commands(up: Up, labkit: Any) -> None:
    """`up` takes commands for faults, rows and reads, reports the faults that remain, and `heal` undoes them."""
    assert "shard 3 has Pause()" in up.tell("pause 3", "shard 3")
    assert "and still has Pause()" in up.tell("restart 3", "shard 3")
    up.tell("heal", "all faults are undone; all shards answer")
    up.tell("list", "no fault acts")
    assert "shard 1 has Down()" in up.tell("fault 1 down", "shard 1")
    assert "shard 2 has Latency(5)" in up.tell("fault 2 Latency latency=5", "shard 2")
    up.tell("list", "shard 2 has Latency(5)")
    assert "incomplete: 40 rows, missing 1–10, 31–40 (20 IDs)" in up.tell("read", "answered")
    up.tell("heal", "all faults are undone; all shards answer")
    up.tell("put 12  a [bold] näme ", "row 12 is written")
    up.tell("delete 13", "row 13 is deleted")
    _, out, _ = labkit("read", "--topology", up.topology, "--format", "ndjson", "--low", "12", "--high", "14")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": 12, "name": "a [bold] näme"},
        {"id": 14, "name": "Test 14"},
    ]
    up.tell("put 12 Test 12", "row 12 is written")
    up.tell("put 13 Test 13", "row 13 is written")
    assert "restart 2 " in up.tell("help", "quit")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("restrat 2", "unknown command 'restrat'; did you mean restart?"),
        ("\x1b[A", "unknown command '\N{REPLACEMENT CHARACTER}[A'; expected one of restart, kill, pause, "),
        ("restart 9", "unknown shard '9': choose one of 1, 2, 3"),
        ("fault 2", "unknown fault ''; expected one of Down, "),
        ("fault 2 Puase", "unknown fault 'Puase'; did you mean Pause?"),
        ("fault 2 Busy", "Busy acts on redis and redis-cluster, and shard 2 is postgres"),
        ("put x y", "an ID is an integer, not 'x'"),
        ("put 12", "put takes an ID and a name: put 12 text"),
        ("put 99 x", "no shard owns id 99"),
        ("delete", "an ID is an integer, not ''"),
    ],
)
def test_wrong_words_are_one_line_and_the_lab_stays(up: Up, command: str, words: str) -> None:
    """A wrong command is one line, and the lab goes on taking commands."""
    assert up.tell(command, words).startswith("labkit: ")


def test_a_fault_that_never_fired_is_said(up: Up) -> None:
    """A fault that never fired is reported on its own line."""
    up.tell("fault 1 Latency", "shard 1 has Latency()")
    assert "labkit: Latency() never fired on shard 1: no client met it\n" in up.tell("heal", "never fired")


async def _other_columns(url: str) -> None:
    connection = await asyncpg.connect(re.sub(r"\+asyncpg|\?.*", "", url), ssl=False)
    try:
        await connection.execute(
            'CREATE SCHEMA s CREATE TABLE people ("user id" BIGINT PRIMARY KEY, "N" TEXT, '
            "amount NUMERIC(12, 2), at TIMESTAMPTZ, tags TEXT[])"
        )
        await connection.execute(
            "INSERT INTO s.people VALUES (1, 'one', 12.5, '2026-11-28 12:00Z', '{a,NULL}'), (2, NULL, NULL, NULL, NULL)"
        )
    finally:
        connection.terminate()


def test_a_table_with_other_columns(up: Up, labkit: Any, tmp_path: Path) -> None:
    """A table in a schema, with names that need quoting, is read, filtered and counted under its own names."""
    url = load(up.topology).shards[1].url
    asyncio.run(_other_columns(url))
    (tmp_path / "t.toml").write_text(
        f'table = "s.people"\nkey = "user id"\n[[shards]]\nname = "all"\nurl = "{url}"\nranges = [[1, 10]]\n'
    )
    file = ("--topology", tmp_path / "t.toml")
    assert labkit("read", *file, "--format", "csv", "--strict", "--high", "5")[:2] == (
        0,
        b'"user id","N","amount","at","tags"\n1,"one",12.50,"2026-11-28T12:00:00.000000Z","[""a"", null]"\n2,,,,\n',
    )
    some = ("--columns", "amount", "--filter", "N is not null", "--limit", "1")
    assert labkit("read", *file, "--format", "ndjson", *some)[:2] == (0, b'{"user id": 1, "amount": "12.50"}\n')
    assert labkit("count", *file, "--filter", "amount>=12.5")[:2] == (0, b"1\n")
    assert labkit("count", *file, "--filter", "amuont>12")[0] == 2
    (tmp_path / "t.toml").write_text((tmp_path / "t.toml").read_text() + 'columns = ["N"]\n')
    assert labkit("read", *file, "--format", "csv")[:2] == (0, b'"user id","N"\n1,"one"\n2,\n')


def test_nobody_reads_on(up: Up) -> None:
    """When the reader of a pipe is gone, as after `| head`, `read` is silent and exits as if ended by SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    command = [*LABKIT, "read", "--topology", "lab.toml"]
    done = subprocess.run(command, cwd=up.folder, stdout=write, stderr=subprocess.PIPE, timeout=30, env=PLAIN)
    assert (done.returncode, done.stderr) == (141, b"")
    os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
def test_a_full_disk_is_one_line(up: Up, labkit: Any) -> None:
    """A full disk is one line with the system's message, and exit 1."""
    code, _, said = labkit("read", "--topology", up.topology, "--format", "csv", "--output", "/dev/full")
    assert (code, said) == (1, "labkit: '/dev/full' was not written: no space left on device\n")


def test_binary_is_not_for_a_terminal(up: Up) -> None:
    """Parquet on a terminal is refused before anything is read."""
    master, terminal = os.openpty()
    command = [*LABKIT, "read", "--topology", "lab.toml", "--format", "parquet"]
    done = subprocess.run(command, cwd=up.folder, stdout=terminal, stderr=subprocess.PIPE, timeout=30, env=PLAIN)
    os.close(terminal)
    os.close(master)
    assert (done.returncode, done.stderr) == (
        2,
        b"labkit: parquet is binary and cannot go to a terminal: pass --output FILE, or pipe it\n",
    )


@contextmanager
def serving(command: list[str], **how: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`labkit serve`, and the line it prints once it accepts connections."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=PLAIN, **how)
    try:
        assert server.stdout is not None
        yield server, server.stdout.readline()
    finally:
        server.kill()
        server.communicate()


def test_serve_says_where_and_stops_on_sigterm(up: Up) -> None:
    """The first line has the address, a dead shard is reported as a gap, and SIGTERM ends it gracefully with exit 0."""
    up.tell("kill 3", "shard 3 has Kill()")
    with serving([*LABKIT, "serve", "--topology", "lab.toml", "--port", "0"], cwd=up.folder) as (server, line):
        address = re.fullmatch(r"labkit: (http://127\.0\.0\.1:\d+) \(3 shards of lab\.toml; stop with Ctrl-C\)\n", line)
        assert address is not None, line
        body = httpx.get(f"{address[1]}/data").json()
        assert (len(body["rows"]), body["missing"]) == (40, [[21, 30], [51, 60]])
        server.send_signal(signal.SIGTERM)
        assert (*server.communicate(timeout=20), server.returncode) == ("", "", 0)


def test_serve_where_the_address_is_taken(up: Up, labkit: Any) -> None:
    """An address in use is one line and exit 2."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, out, said = labkit("serve", "--topology", up.topology, "--port", other.getsockname()[1])
    assert (code, out, said.count("\n")) == (2, b"", 1)
    assert "cannot serve at 127.0.0.1:" in said


def test_serve_without_its_libraries(up: Up, labkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its libraries, `serve` says in one line what to install and exits 1."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, out, said = labkit("serve", "--topology", up.topology)
    assert (code, out) == (1, b"")
    assert said == "labkit: the extra 'serve' is not installed (no uvicorn): pip install 'sharded-read-lab[serve]'\n"


def test_up_does_not_overwrite(up: Up, labkit: Any, tmp_path: Path) -> None:
    """`up` overwrites neither the file of a running lab nor one it did not write, and starts nothing."""
    mine = tmp_path / "mine.toml"
    mine.write_text("mine")
    code, _, said = labkit("up", "--backend", "redis", "--topology", up.topology)
    assert (code, said.count("\n")) == (2, 1)
    assert f"belongs to the labkit up of process {up.process.pid}, which is still running" in said
    code, _, said = labkit("up", "--backend", "redis", "--topology", mine)
    assert (code, said) == (
        2,
        f"labkit: {str(mine)!r} exists and was not written by labkit up: name another file, or pass --force\n",
    )
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_up_ends_and_leaves_nothing(end: str, tmp_path: Path) -> None:
    """On any of these signals `up` exits 0 and leaves no server or file. A closed stdin does not end it, and --force
    overwrites a foreign file.
    """
    before = folders()
    (tmp_path / "lab.toml").write_text("another's")
    with running_up(tmp_path, "--backend", "redis", "--force", stdin=subprocess.DEVNULL) as lab:
        below = tree(lab.process.pid)[1:]
        assert len(below) >= 4
        assert lab.topology.read_text().startswith("# Written by labkit up")
        lab.process.send_signal(signal.Signals[end])
        assert lab.ended() == (0, "The lab is stopped; nothing is left.\n")
        assert not running(below)
    assert os.listdir(tmp_path) == []
    assert folders() <= before


def test_up_takes_commands_from_a_file(tmp_path: Path) -> None:
    """`up` runs every command in the file, even the last one without a newline, and quits while faults act."""
    before = folders()
    (tmp_path / "commands").write_text("kill 1\nfault 2 Down\nread\n\nquit")
    descriptor = os.open(tmp_path / "commands", os.O_RDONLY)
    with running_up(tmp_path, "--backend", "redis", stdin=descriptor) as lab:
        code, said = lab.ended()
    os.close(descriptor)
    assert code == 0
    assert "incomplete: 20 rows, missing 1–20, 31–50 (40 IDs)" in said
    assert os.listdir(tmp_path) == ["commands"]
    assert folders() <= before


def test_a_killed_up_leaves_no_server(tmp_path: Path) -> None:
    """After SIGKILL servers and folder are gone; the file remains, marked as free for the next `labkit up`."""
    before = folders()
    with running_up(tmp_path, "--backend", "redis") as lab:
        below = tree(lab.process.pid)[1:]
        lab.process.kill()
        lab.process.wait()
        assert becomes_true(lambda: not running(below)), running(below)
        assert becomes_true(lambda: folders() <= before)
        check_free(lab.topology, "up")


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    """Ctrl-C during the start stops the half-started lab: exit 0, no file, nothing left."""
    before = folders()
    command = [*LABKIT, "up", "--backend", "postgres"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=PLAIN) as lab:
        assert becomes_true(lambda: any(list(folder.glob("1/*")) for folder in folders() - before))
        below = tree(lab.pid)[1:]
        lab.send_signal(signal.SIGINT)
        said, _ = lab.communicate(timeout=20)
    assert (lab.returncode, said) == (0, b"The lab is stopped; nothing is left.\n")
    assert becomes_true(lambda: not running(below))
    assert os.listdir(tmp_path) == []
    assert folders() <= before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["read"], "Missing option '--topology'"),
        (["read", "--topology", "no.toml"], "no.toml: no such file: name another, or have labkit up write one"),
        (["read", "--topology", "no.toml", "--format", "xml"], "'xml' is not one of 'table', 'csv'"),
        (["read", "--topology", "no.toml", "--output", "rows"], "the suffix of 'rows' does not name a format"),
        (["read", "--topology", "no.toml", "--output", "no/rows.csv"], "--output 'no/rows.csv' cannot be written"),
        (["read", "--topology", "no.toml", "--low", "9", "--high", "1"], "low must not be above high"),
        (["read", "--topology", "no.toml", "--limit", "0"], "the size of a page must be a positive integer, not 0"),
        (["read", "--topology", "no.toml", "--after", "5"], "--after 5 continues a page: pass --limit too"),
        (["serve", "--topology", "no.toml"], "no.toml: no such file"),
        (["serve", "--topology", "no.toml", "--port", "70000"], "70000 is not in the range"),
        (["up", "--backend", "mysql"], "unknown backend 'mysql': choose one of postgres, redis"),
        (["up", "--timeout", "0"], "timeout must be a positive number of seconds, not 0.0"),
        (["up", "--topology", "no/lab.toml"], "--topology 'no/lab.toml' cannot be written: there is no directory 'no'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    labkit: Any, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong use is one line on stderr and exit 2: no traceback, nothing on stdout, nothing started."""
    monkeypatch.chdir(tmp_path)
    code, out, said = labkit(*arguments)
    assert (code, out, said.count("\n")) == (2, b"", 1)
    assert said.startswith("labkit: ")
    assert words in said


@pytest.mark.parametrize("command", ["read", "serve", "up"])
def test_help_has_an_example(labkit: Any, command: str) -> None:
    """--help of each command has an example."""
    code, out, _ = labkit(command, "--help")
    assert code == 0
    assert f"Example:\n    labkit {command}" in out.decode()


PLANTED = "pl4nted"
LOGGERS = ("", "sqlalchemy", "asyncpg", "redis", "uvicorn", "fastapi", "asyncio", "labkit")


def write_rejected_topology(lab: Lab, file: Path) -> None:
    """Writes the topology of a lab with wrong passwords: one in the file, the others in a variable."""
    lines = []
    for shard, url in lab.urls.items():
        user = "labkit" if lab.backend == "postgres" else ""
        secret = f"{PLANTED}-in-the-file" if shard == 1 else "${LABKIT_TEST_PASSWORD}"
        spans = [[low, high] for low, high, owner in lab.router.spans if owner == shard]
        dialled = re.sub("//[^@]*@", f"//{user}:{secret}@", url)
        lines.append(f'[[shards]]\nname = {shard}\nurl = "{dialled}"\ntable = "data_{shard}"\nranges = {spans}\n')
    file.write_text("".join(lines))


async def responses_of(file: Path) -> list[str]:
    """The responses of an access point with the same reader as `labkit serve`."""
    paths = ("/data", "/data?require=complete", "/data/1", "/data/12", "/readyz", "/openapi.json", "/")
    async with (
        load(file).reader(circuit=True) as reader,
        Server(reader) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        return [(await client.get(path)).text for path in paths]


async def start_with_wrong_passwords(lab: Lab) -> None:
    await lab.start()
    await lab.inject({shard: faults.WrongPassword() for shard in lab.router.shards})


@pytest.mark.parametrize("backend", ["postgres", "redis"])
def test_a_password_that_is_rejected_is_never_shown(
    backend: str, labkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No command, response or log shows a rejected password, whether from the file or from a variable."""
    file = tmp_path / "lab.toml"
    monkeypatch.setenv("LABKIT_TEST_PASSWORD", f"{PLANTED}/v@r:%")
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, logger=name)
    lab = Lab(backend)
    with asyncio.Runner() as runner:  # this loop is idle while commands run on their own
        try:
            runner.run(start_with_wrong_passwords(lab))
            write_rejected_topology(lab, file)
            told = [str(labkit("read", "--topology", file, "--format", name)) for name in FORMATS]
            told += [str(labkit("read", "--topology", file, "--strict")), *runner.run(responses_of(file))]
        finally:
            runner.run(lab.stop())
    assert sum("rejected" in text for text in told) >= 8
    assert caplog.records
    for text in (*told, caplog.text, str([vars(record) for record in caplog.records])):
        assert PLANTED not in text
        assert lab._backend.access.client not in text  # type: ignore[attr-defined]
    assert file.read_text().count(PLANTED) == 1
