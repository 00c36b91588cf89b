"""Readers in any language: a command, started for each read, and an HTTP service."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from labkit.errors import UsageError
from labkit.matrix import programs
from labkit.matrix.programs import Command, Malformed, Service, answer_of
from tests.unit.matrix.test_process import URLS, impatient, reading

__all__ = ["impatient"]

pytestmark = pytest.mark.slow


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """Writes a program, and returns its command line."""

    def write(code: str) -> Command:
        path = tmp_path / "it is a reader.py"
        path.write_text(textwrap.dedent(code))
        return Command(shlex.join([sys.executable, "-S", str(path)]))

    return write


async def read_by(reader: Any, seconds: float = 5.0) -> Any:
    """What is seen of one read."""
    async with reading(reader, seconds) as reads:
        [read] = await reads()
    return read.seen


async def test_a_command_is_told_all_that_it_needs(told: Any) -> None:
    """One line of JSON on stdin: where the shards are, what they own, the timeout, the key and the columns."""
    command = told(
        """
        import json, sys
        request = sys.stdin.read()
        assert request.count("\\n") == 1
        print(json.dumps({"rows": [[1, request]]}))
        """
    )
    [(_, request)] = (await read_by(command)).rows
    assert json.loads(request) == {
        "urls": {"1": URLS[1], "2": URLS[2], "3": URLS[3]},
        "tables": {"1": "data_1", "2": "data_2", "3": "data_3"},
        "ranges": {"1": [[1, 10], [31, 40]], "2": [[11, 20], [41, 50]], "3": [[21, 30], [51, 60]]},
        "timeout": 5.0,
        "key": "id",
        "columns": ["id", "name"],
    }


@pytest.mark.parametrize(
    ("printed", "rows", "missing"),
    [
        ('{"rows": [[1, "a"], [2, null]], "missing": [[11, 20]]}', [(1, "a"), (2, None)], ((11, 20),)),
        ('{"rows": [{"id": 1, "name": "a"}]}', [(1, "a")], None),
        ('{"rows": [{"name": "a", "id": 1}], "missing": [], "complete": true}', [(1, "a")], ()),
        ('[[1, "a"], [2, "b"]]', [(1, "a"), (2, "b")], None),
        ('[[[1, "a"]], [[2, 2]]]', [(1, "a")], ((2, 2),)),
        ('[1, "a"]\n[2, "b"]\n', [(1, "a"), (2, "b")], None),
        ('{"id": 1, "name": "a"}\n\n{"id": 2, "name": "b"}\n{"missing": [[3, 4]]}\n', [(1, "a"), (2, "b")], ((3, 4),)),
        ('{"id": 1, "name": "a"}', [(1, "a")], None),
        ('{"missing": [[1, 60]]}', [], ((1, 60),)),
        ('{"rows": [[1, "a"]]}\n{"rows": [[2, "b"]], "missing": [[3, 3]]}\n', [(1, "a"), (2, "b")], ((3, 3),)),
    ],
)
async def test_what_it_prints_is_rows_and_gaps(told: Any, printed: str, rows: Any, missing: Any) -> None:
    """JSON or lines of JSON; rows are lists or objects."""
    seen = await read_by(told(f"print({printed!r})"))
    assert (seen.rows, seen.missing, seen.malformed) == (rows, missing, None)


@pytest.mark.parametrize(
    ("code", "how", "text"),
    [
        ("print()", "malformed", 'it printed nothing: no rows are {"rows": []}'),
        ("print('[1, 2]\\nhello')", "malformed", "what it printed is not JSON, nor is line 2: b'hello'"),
        ("print('{\"rows\": 7}')", "malformed", "what it returned cannot be understood: TypeError: int"),
        ("print('[1, 2]\\n{\"rows\": 7}')", "malformed", "rows are 7, not a list"),
        ("print('x' * 11_000_000)", "malformed", "it printed more than 10,000,000 bytes"),
        ("import sys; sys.exit(3)", "error", "exited 3"),
        ("import sys; sys.exit('no\\nrows today')", "error", "exited 1: rows today"),
        ("import sys; sys.exit(139)", "crashed", "exited 139 (SIGSEGV)"),
        ("import os; os.kill(os.getpid(), 9)", "crashed", "exited 137 (SIGKILL)"),
        ("import sys; sys.exit(255)", "crashed", "exited 255"),
    ],
)
async def test_every_other_end_is_named(told: Any, code: str, how: str, text: str) -> None:
    """A small exit code is its exception, a large one or a signal a crash; anything else must be JSON."""
    seen = await read_by(told(code))
    assert seen.rows is None
    assert getattr(seen, how).startswith(text)
    assert [seen.error, seen.malformed, seen.crashed].count(None) == 2


async def test_a_command_that_hangs_is_ended_with_its_children(told: Any, tmp_path: Path) -> None:
    """Past its time it is killed, with what it started; the next read works."""
    command = told(
        f"""
        import os, subprocess, sys, time
        path = {str(tmp_path / "pids")!r}
        if os.path.exists(path):
            print('{{"rows": [[1, "a"]]}}')
            sys.exit()
        child = subprocess.Popen(["sleep", "60"])
        open(path, "w").write(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(60)
        """
    )
    async with reading(command, seconds=1.0) as reads:
        began = time.monotonic()
        [read] = await reads()
        assert read.seen.rows is read.seen.error is None
        assert time.monotonic() - began < 15
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        [read] = await reads()
        assert read.seen.rows == [(1, "a")]


async def test_its_start_up_is_not_lateness(told: Any) -> None:
    """The time until it has read its request counts as starting; what is beyond it can be late."""
    command = told('import sys, time; time.sleep(0.3); sys.stdin.read(); time.sleep(1); print("[]")')
    async with reading(command, 5.0) as reads:
        for _ in range(2):
            [read] = await reads()
            assert read.seen.elapsed >= 1.3
            assert read.seen.starved >= 0.3
            assert read.seen.elapsed - read.seen.starved >= 0.5  # a busy machine notices the end of start-up later
    seen = await read_by(told('import time; time.sleep(0.3); print("[]")'))
    assert seen.elapsed - seen.starved >= 0.2  # it never read its request


async def test_a_process_that_it_leaves_behind_is_counted(told: Any) -> None:
    """A command cannot leak sockets, since it ends; a child that goes on is left behind."""
    command = told(
        """
        import os, subprocess
        null = subprocess.DEVNULL
        subprocess.Popen(["sleep", "60"], stdin=null, stdout=null, stderr=null, start_new_session=True)
        print("[]")
        """
    )
    async with reading(command, 5.0) as reads:
        before = await reads.footprint()
        await reads()
        assert (await reads.footprint()).beyond(before) == "1 child process"
        await reads()
        assert (await reads.footprint()).beyond(before) == "2 child processes"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "the command is empty"),
        ("no-such-program x", "no program 'no-such-program' is on the PATH"),
        ("python 'x", "cannot be split into words (No closing quotation): check its quotes"),
    ],
)
def test_a_command_that_cannot_be_run_is_one_clear_error(line: str, why: str) -> None:
    """It is found before any server is started."""
    with pytest.raises(UsageError) as error:
        Command(line)
    assert why in str(error.value)


@contextmanager
def serving(answer: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A service that answers with (status, body), or with None not at all. Yields its URL, and the headers it got."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({"path": self.path, **self.headers})
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/data?x=1", asked
        finally:
            server.shutdown()
            thread.join()


async def test_a_service_is_asked_with_get_and_told_the_topology(tmp_path: Path, monkeypatch: Any) -> None:
    """The header names the file by its full path, wherever the service runs."""
    monkeypatch.chdir(tmp_path)
    with serving((200, b'{"rows": [[1, "a"]], "missing": [[2, 3]]}')) as (url, asked):
        seen = await read_by(Service(url, "shards.toml"))
    assert (seen.rows, seen.missing) == ([(1, "a")], ((2, 3),))
    [request] = asked
    assert request["path"] == "/data?x=1"
    assert request["Labkit-Topology"] == str(tmp_path / "shards.toml")


@pytest.mark.parametrize(
    ("answer", "how", "text"),
    [
        ((503, b"a shard is missing"), "error", "HTTP 503: a shard is missing"),
        ((404, b""), "error", "HTTP 404"),
        (None, "crashed", "it closed the connection without an answer (RemoteDisconnected)"),
        ((200, b""), "malformed", "it answered nothing"),
        ((200, b"<html>"), "malformed", "what it answered is not JSON, nor is line 1: b'<html>'"),
    ],
)
async def test_what_a_service_does_instead_is_named(answer: Any, how: str, text: str) -> None:
    """A status is its exception; no answer is a crash."""
    with serving(answer) as (url, _):
        seen = await read_by(Service(url))
    assert getattr(seen, how).startswith(text)


async def test_a_service_that_is_gone_has_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ended is named; one that never was is an error before the first read."""
    with serving((200, b"[]")) as (url, _):
        await Service(url).ready()
    assert "nothing listens on port" in (await read_by(Service(url))).crashed
    monkeypatch.setattr(programs, "PATIENCE", 0.0)
    with pytest.raises(UsageError, match=r"nothing answers at .*: start the service, which reads 'labkit-matrix.toml'"):
        await Service(url).ready()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://127.0.0.1/", "is not http://HOST:PORT/PATH"),
        ("127.0.0.1:80", "is not http://HOST:PORT/PATH"),
        ("http://127.0.0.1:eighty/", "Port could not be cast"),
        ("http://example.com/data", "is not on this machine, where the servers are: use 127.0.0.1"),
    ],
)
def test_a_service_is_on_this_machine(url: str, why: str) -> None:
    """The servers are on loopback, which nothing elsewhere can reach."""
    with pytest.raises(UsageError) as error:
        Service(url)
    assert why in str(error.value)


@pytest.mark.parametrize("text", [b"{}", b"[]", b"[[]]", b"null", b"7", b'"text"', b"[" * 100_000, b"\xff"])
def test_any_answer_is_understood_or_malformed(text: bytes) -> None:
    """Nothing that is printed is a traceback."""
    with suppress(Malformed):
        answer_of(text)


async def test_a_function_that_is_not_async_may_block() -> None:
    """It is called in a thread, so it may block as long as it is in time."""

    def blocking(urls: dict[int, str]) -> Any:
        time.sleep(0.7)
        return [(1, urls[1])]

    seen = await read_by(blocking)
    assert seen.rows == [(1, URLS[1])]
    assert seen.blocked < 0.5


async def test_a_function_that_is_not_async_is_ended_too() -> None:
    """One that never returns is killed past its time, and the next read works."""
    calls = []

    def stuck(urls: dict[int, str]) -> Any:
        calls.append(1)
        time.sleep(60)

    async with reading(stuck, seconds=0.5) as reads:
        for _ in range(2):
            began = time.monotonic()
            [read] = await reads()
            assert read.seen.rows is None
            assert time.monotonic() - began < 10
