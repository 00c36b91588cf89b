"""An external reader in a separate process: everything it does is reported, and nothing of it is left."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from labkit import CLASSIC, ReadResult, ShardReader
from labkit.errors import UsageError
from labkit.matrix import process as module
from labkit.matrix.footprint import Footprint
from labkit.matrix.process import ReaderProcess, TheirReads
from labkit.matrix.trial import _timed_read
from labkit.shards import MemoryShard
from labkit.tables import SCHEMA, to_batch
from tests.support.lateness import shared_processor

pytestmark = pytest.mark.slow

URLS = {1: "redis://127.0.0.1:1", 2: "redis://127.0.0.1:2", 3: "redis://127.0.0.1:3"}
TABLES = {1: "data_1", 2: "data_2", 3: "data_3"}
ROWS = [(1, "one"), (2, None), (3, "")]
MINE = """
import asyncio, os, sys
STATE = {"reads": 0}
async def read(urls):
    STATE["reads"] += 1
    return [(STATE["reads"], str(os.getpid()))]
async def told(urls, tables):
    return [(1, tables[1])]
plain = 7
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a read half a second past its deadline, instead of three."""
    monkeypatch.setattr(module, "OVERRUN", 0.5)


@asynccontextmanager
async def reading(reader: Any, seconds: float = 1.0) -> Any:
    """The reads of a lab without servers by that reader."""
    lab: Any = SimpleNamespace(urls=URLS, tables=TABLES, timeout=seconds, router=CLASSIC)
    process = ReaderProcess(reader)
    try:
        await process.start()
        yield TheirReads(process, lab)
    finally:
        await process.aclose()


async def read_by(reader: Any, seconds: float = 1.0) -> Any:
    """One read by that reader."""
    async with reading(reader, seconds) as reads:
        [read] = await reads()
    assert read.who == "yours"
    return read


def put(name: str, text: object = "") -> None:
    """Writes a file atomically: it appears complete."""
    Path(f"{name}.new").write_text(str(text))
    Path(f"{name}.new").rename(name)


def number_in(name: str) -> int:
    """The number in a file, which may take up to twenty seconds to appear."""
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if Path(name).exists() and (text := Path(name).read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError(name)


def there(name: str) -> bool:
    """Whether the file exists."""
    return Path(name).exists()


def gone(pid: int) -> bool:
    """Whether the process ends within five seconds."""
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder."""
    (tmp_path / "mine_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return "mine_here"


async def test_it_is_called_with_the_urls_and_timed():
    """The reader gets {shard: url}; the time is that of the call alone."""

    async def reader(urls: dict[int, str]) -> Any:
        assert urls == URLS
        await asyncio.sleep(0.05)
        return ROWS

    seen = (await read_by(reader)).seen
    assert (seen.rows, seen.error, seen.missing, seen.statuses) == (ROWS, None, None, None)
    assert 0.05 <= seen.elapsed < 0.5


async def test_a_module_is_imported_there_and_nowhere_else(mine):
    """The module keeps its state, and so its connections, from one read to the next."""
    async with reading(f"{mine}:read") as reads:
        first, second = [(await reads())[0].seen.rows[0] for _ in range(2)]
    assert [first[0], second[0]] == [1, 2]
    assert first[1] == second[1] != str(os.getpid())
    assert mine not in sys.modules


async def test_its_event_loop_stays_from_read_to_read():
    """Connections belong to a loop, so all reads run on the same one."""
    loops: list[Any] = []

    async def reader(urls: dict[int, str]) -> Any:
        loops.append(asyncio.get_running_loop())
        return [(len(set(map(id, loops))), "")]

    async with reading(reader) as reads:
        assert [(await reads())[0].seen.rows for _ in range(3)] == [[(1, "")]] * 3
    assert loops == []


async def test_a_second_parameter_is_told_the_tables(mine):
    """`takes_tables` is known as soon as the process has started."""
    async with reading(f"{mine}:told") as reads:
        assert reads._process.takes_tables
        assert (await reads())[0].seen.rows == [(1, "data_1")]


@pytest.mark.parametrize(
    ("spec", "text", "words"),
    [
        ("mine", "", "is not module:function"),
        ("nowhere_at_all:read", "", "cannot be imported (ModuleNotFoundError"),
        ("broken_here:read", "import nothing_like_it", "No module named 'nothing_like_it'"),
        ("broken_here:read", "raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
        ("broken_here:read", "import os; os._exit(3)", "cannot be imported (its process ended with exit code 3)"),
        ("broken_here:read", "import os; os.kill(os.getpid(), 9)", "(its process was killed by SIGKILL)"),
        ("broken_here:read", "import time; time.sleep(60)", "was not imported within 1 s"),
        ("mine_here:other", "", "module 'mine_here' has no 'other'"),
        ("mine_here:plain", "", "is not a function: write `def` or `async def`"),
    ],
)
async def test_what_cannot_be_imported_is_one_line(mine, spec, text, words, tmp_path, monkeypatch):
    """A module that ends the process, or never finishes importing, gives one line too."""
    monkeypatch.setattr(module, "IMPORT", 1.0 if "sleep" in text else 20.0)
    (tmp_path / "broken_here.py").write_text(text)
    with pytest.raises(UsageError) as caught:
        await read_by(spec)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "rows", "missing"),
    [
        ((ROWS, [[11, 20]]), ROWS, ((11, 20),)),
        ({"rows": ROWS, "missing": []}, ROWS, ()),
        ([(1, "a"), (2, "b")], [(1, "a"), (2, "b")], None),
    ],
)
async def test_what_is_missing_comes_with_the_rows(answer, rows, missing):
    """`missing` is None if the reader says nothing about it."""

    async def reader(urls: dict[int, str]) -> Any:
        return answer

    seen = (await read_by(reader)).seen
    assert (seen.rows, seen.missing) == (rows, missing)


async def test_a_result_of_labkits_brings_its_report():
    """Gaps and statuses are taken from the result, which is kept for its timeline."""
    shards = {1: MemoryShard([]), 2: MemoryShard(error=ConnectionRefusedError()), 3: MemoryShard([])}

    async def reader(urls: dict[int, str]) -> Any:
        async with ShardReader(CLASSIC, shards, timeout=1.0) as it:
            return await it.read()

    read = await read_by(reader)
    assert read.seen.missing == ((11, 20), (41, 50))
    assert read.seen.statuses == {1: "ok", 2: "unreachable", 3: "ok"}
    assert read.result is not None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "what it returned cannot be understood: TypeError: NoneType"),
        ((ROWS, [[20, 11]]), "missing has [20, 11], whose low end is above its high end"),
        ([threading.Lock()], "what it returned cannot be understood: TypeError: cannot unpack"),
        ({"rows": ROWS, "missing": "11-20"}, "missing is '11-20'"),
    ],
)
async def test_what_is_no_answer_is_said(answer, words):
    """The complaint is kept, and the process goes on."""

    async def reader(urls: dict[int, str]) -> Any:
        return answer

    seen = (await read_by(reader)).seen
    assert seen.rows is None
    assert words in seen.malformed


@pytest.mark.parametrize("value", [threading.Lock(), lambda: 0, "x" * 50_000_000], ids=["lock", "lambda", "huge"])
async def test_values_that_cannot_be_passed_on_are_passed_on_as_text(value):
    """Values that cannot be pickled, and huge ones, become short text."""

    async def reader(urls: dict[int, str]) -> Any:
        return [(1, value)]

    [(_, name)] = (await read_by(reader)).seen.rows
    assert len(repr(name)) < 100


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no"), "ValueError: no"),
        (TimeoutError(), "TimeoutError"),
        (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 499 + "…"),
        (Odd(), "Odd"),
    ],
)
async def test_what_it_raises_is_told(error, words):
    """The complaint has the exception's name and is of limited length."""

    async def reader(urls: dict[int, str]) -> Any:
        raise error

    assert (await read_by(reader)).seen.error == words


async def test_a_wrong_signature_is_told():
    """A coroutine function without parameters raises when it is called."""

    async def reader() -> Any:
        return []

    assert "takes 0 positional arguments" in (await read_by(reader)).seen.error


async def raising(error: BaseException) -> None:
    raise error


async def in_a_task(error: BaseException) -> None:
    await asyncio.gather(asyncio.ensure_future(raising(error)))


async def doing(what: Any) -> None:
    what()


async def cancelling_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(1)


def segfault() -> None:
    faulthandler.disable()  # whose report would take pages
    ctypes.string_at(0)


def close_all() -> None:
    os.closerange(3, 1000)
    time.sleep(1)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (partial(raising, SystemExit(3)), "it raised SystemExit: 3, which ends its caller"),
        (partial(raising, KeyboardInterrupt()), "it raised KeyboardInterrupt, which ends its caller"),
        (partial(raising, asyncio.CancelledError()), "it raised CancelledError, which ends its caller"),
        (partial(in_a_task, SystemExit(3)), "it raised CancelledError"),
        (partial(doing, partial(os._exit, 3)), "its process ended with exit code 3"),
        (partial(doing, partial(os._exit, 0)), "its process ended with exit code 0"),
        (partial(doing, segfault), "its process was killed by SIGSEGV"),
        (partial(doing, os.abort), "its process was killed by SIGABRT"),
        (partial(doing, partial(os.kill, 0, signal.SIGKILL)), "its process was killed by SIGKILL"),
        (partial(doing, close_all), "its process"),
        (cancelling_all, "it raised CancelledError"),
    ],
    ids=[
        "SystemExit",
        "KeyboardInterrupt",
        "CancelledError",
        "in a task",
        "_exit(3)",
        "_exit(0)",
        "segfault",
        "abort",
        "kill",
        "closed",
        "all cancelled",
    ],
)
async def test_what_ends_its_process_is_told_and_it_is_started_again(what, words):
    """Each crash is reported, and the next read works like the first."""

    async def reader(urls: dict[int, str]) -> Any:
        if not there("again"):
            put("again")
            await what()
        return ROWS

    async with reading(reader) as reads:
        assert words in ((await reads())[0].seen.crashed or "")
        assert (await reads())[0].seen.rows == ROWS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test in its own folder."""
    monkeypatch.chdir(tmp_path)


def spin() -> None:
    while True:
        pass


def deaf() -> None:
    """Blocks and ignores signals."""
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)
    time.sleep(60)


@pytest.mark.parametrize(
    "block",
    [partial(time.sleep, 60), spin, deaf, partial(sum, range(10**12))],
    ids=["sleeps", "spins", "deaf", "holds the interpreter"],
)
async def test_one_that_blocks_is_ended_and_named(block):
    """The read is ended after a second and a half, while the owner's loop runs on, even if it holds the interpreter."""
    turns = 0

    async def reader(urls: dict[int, str]) -> Any:
        put("pid", os.getpid())
        block()

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    task = asyncio.ensure_future(turning())
    async with reading(reader) as reads:
        seen = (await reads())[0].seen
    task.cancel()
    assert (seen.rows, seen.error, seen.crashed) == (None, None, None)
    assert 1.5 <= seen.elapsed < 3
    assert 1.2 <= seen.blocked <= seen.elapsed
    assert turns > 20
    assert gone(number_in("pid"))


async def test_one_that_only_waits_is_ended_and_blocks_nothing():
    """A reader that ignores cancellation is ended all the same."""

    async def reader(urls: dict[int, str]) -> Any:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    seen = (await read_by(reader, 0.2)).seen
    assert (seen.rows, seen.error, seen.crashed) == (None, None, None)
    assert seen.elapsed >= 0.7
    assert seen.blocked < 0.5


async def test_a_read_that_blocked_for_a_while_says_how_long():
    """The block is measured even if the read returns on its own."""

    async def reader(urls: dict[int, str]) -> Any:
        time.sleep(0.6)  # noqa: ASYNC251 - the defect under test
        return ROWS

    seen = (await read_by(reader)).seen
    assert seen.rows == ROWS
    assert seen.blocked >= 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long a thread waited for a processor")
async def test_a_read_without_a_processor_says_how_long():
    """The wait is measured for an external reader and for one in this process."""

    async def reader(urls: dict[int, str]) -> Any:
        ends = time.monotonic() + 0.3
        while time.monotonic() < ends:
            pass
        return ROWS

    class Busy:
        async def read(self) -> Any:
            await reader(URLS)
            return ReadResult(to_batch(ROWS), {}, (), 0.3, 1.0)

    with shared_processor():
        for seen in ((await read_by(reader)).seen, (await _timed_read("warm", Busy(), SCHEMA)).seen):
            assert seen.rows == ROWS
            assert 0.05 < seen.starved < seen.elapsed


CHILD = "import os, sys, time; sys.stdout.write(str(os.getpid())); sys.stdout.flush(); time.sleep(60)"


@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize(
    "end", [lambda: time.sleep(60), lambda: os._exit(1), lambda: None], ids=["late", "crash", "end"]
)
async def test_its_children_end_with_it(end, daemon):
    """Even children in a new session, whose parent has exited, are ended."""

    async def reader(urls: dict[int, str]) -> Any:
        with open("child", "wb") as out:  # noqa: ASYNC230
            code = (
                f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True)"
            )
            subprocess.Popen([sys.executable, "-c", code if daemon else CHILD], stdout=out)  # noqa: ASYNC220
        number_in("child")
        end()

    await read_by(reader, 3.0)
    assert gone(number_in("child"))


@pytest.mark.parametrize("blocked", [False, True])
def test_nothing_is_left_when_the_owner_is_killed(blocked, tmp_path):
    """After SIGKILL to the owner during a read, the reader and its child are gone, even if it blocks."""
    (tmp_path / "mine_here.py").write_text(
        "import asyncio, os, subprocess, sys, time\n"
        "async def read(urls):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "    open('pids.new', 'w').write(f'{os.getpid()} {child.pid}'); os.rename('pids.new', 'pids')\n"
        f"    {'time.sleep(60)' if blocked else 'await asyncio.sleep(60)'}\n"
    )
    owner = (
        "import asyncio\nfrom labkit.matrix.process import ReaderProcess\n"
        "async def main():\n"
        "    process = ReaderProcess('mine_here:read')\n"
        "    await process.start()\n"
        "    await process.read(({},), 60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", owner], cwd=tmp_path) as running:
        ends = time.monotonic() + 20
        while not (tmp_path / "pids").exists() and time.monotonic() < ends:
            time.sleep(0.01)
        running.kill()
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


async def test_what_it_prints_is_not_on_stdout(capfd):
    """Output of every kind goes to stderr, and nothing of the owner's is printed twice."""

    async def reader(urls: dict[int, str]) -> Any:
        print("by print")  # noqa: T201
        sys.__stdout__.write("by __stdout__\n")
        os.write(1, b"by number\n")
        subprocess.run(["echo", "by a child"], check=True)  # noqa: ASYNC221
        return ROWS

    sys.stdout.write("the owner's\n")
    assert (await read_by(reader)).seen.rows == ROWS
    out, err = capfd.readouterr()
    assert out == "the owner's\n"
    assert all(f"by {way}" in err for way in ("print", "__stdout__", "number", "a child"))


async def test_its_working_directory_is_its_own(tmp_path):
    """Changes to its folder and environment do not affect this process."""

    async def reader(urls: dict[int, str]) -> Any:
        os.chdir("/")
        os.environ["LABKIT_TEST_MINE"] = "1"
        return ROWS

    await read_by(reader)
    assert Path.cwd() == tmp_path
    assert "LABKIT_TEST_MINE" not in os.environ


async def test_what_it_leaves_open_is_counted_there():
    """An open task and a socket are counted; what the garbage collector would free is not."""

    async def reader(urls: dict[int, str]) -> Any:
        kept.append(asyncio.ensure_future(asyncio.Event().wait()))
        kept.append(await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0))
        return ROWS

    kept: list[Any] = []
    async with reading(reader) as reads:
        before = await reads.footprint()
        await reads()
        after = await reads.footprint()
    assert (after.tasks - before.tasks, len(after.sockets) - len(before.sockets)) == (1, 1)
    assert kept == []


async def test_sockets_of_the_internet_are_counted_and_nothing_stays_open():
    """Neither socket pairs nor files are counted; counting leaves nothing open."""
    before, pair = Footprint.now(), socket.socketpair()
    kept = [*pair, open(os.devnull), socket.socket(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)]  # noqa: ASYNC230, SIM115
    files = len(os.listdir("/dev/fd"))
    assert [len(Footprint.now().sockets) - len(before.sockets) for _ in range(3)] == [2, 2, 2]
    assert len(os.listdir("/dev/fd")) == files
    for one in kept:
        one.close()
    assert Footprint.now() == before


def test_what_is_left_behind_names_its_shard():
    """Sockets are told by the shard they are connected to; as many as before are none, whichever they are."""
    before = Footprint(1, 1, 0, (("127.0.0.1", 1), ("127.0.0.1", 2)))
    names = {("127.0.0.1", 1): 1, ("127.0.0.1", 2): "two"}
    more = Footprint(2, 3, 2, (*before.sockets, ("127.0.0.1", 2), ("127.0.0.1", 2), None))
    assert more.beyond(before, names) == "1 task, 2 threads, 2 child processes, 2 sockets to shard two, 1 socket"
    assert more.beyond(before) == "1 task, 2 threads, 2 child processes, 3 sockets"
    assert Footprint(1, 1, 0, (("127.0.0.1", 1), ("127.0.0.1", 1))).beyond(before, names) == ""
    assert Footprint().beyond(before, names) == ""


async def test_a_cancelled_read_leaves_nothing():
    """The process ends when its read is cancelled, as by Ctrl-C."""

    async def reader(urls: dict[int, str]) -> Any:
        put("pid", os.getpid())
        time.sleep(60)  # noqa: ASYNC251

    before = len(asyncio.all_tasks())
    task = asyncio.ensure_future(read_by(reader, seconds=30))
    while not there("pid"):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(number_in("pid"))
    assert len(asyncio.all_tasks()) == before
