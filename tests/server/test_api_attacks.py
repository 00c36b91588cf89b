"""Attacks on the access point while ordinary clients read: these are still answered, and nothing piles up."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from labkit import Lab, RangeRouter
from labkit.api import Limits, Server
from labkit.topology import ShardPlace, Topology
from tests.support.loading import loading, percentile
from tests.support.watching import PATIENCE, cold

FILES = 400
"""Files the server may open: half of them are for clients."""
CONNECTIONS = FILES // 2
WINDOWS = 20
UNSENT = 16 << 20
ORDINARY = 20
ROWS = 60_000
SECONDS = 3.0
"""How long each attack lasts; the time limits on silent and deaf clients are one second."""
LATE = 2.2
FLAT = 160 << 20
"""Bytes by which the server may grow: data waiting for clients, plus concurrent reads of the whole table."""
HOST = b"Host: 127.0.0.1\r\n"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'labkit'"

Port = int
Attack = Callable[[Port, Counter[str]], Awaitable[None]]


@asynccontextmanager
async def connected(port: Port) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is closed after the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def status(reader: asyncio.StreamReader) -> str:
    """The status of a response; "none" if the connection ended without one."""
    try:
        async with asyncio.timeout(PATIENCE):
            return (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return "none"


async def silent(port: Port, seen: Counter[str]) -> None:
    """Sends nothing, and reconnects as soon as it is closed."""
    async with connected(port) as (reader, _):
        seen[await status(reader)] += 1


async def deaf(port: Port, seen: Counter[str]) -> None:
    """Requests the whole table and never reads it."""
    async with connected(port) as (reader, writer):
        writer.write(b"GET /data HTTP/1.1\r\n" + HOST + b"\r\n")
        seen[await status(reader)] += 1
        await asyncio.sleep(2)


async def verbose(port: Port, seen: Counter[str]) -> None:
    """Sends oversized and malformed requests, up to a megabyte, and reads the responses."""
    quotes, parameters = b'Accept: "' + b'\\"' * 29_000 + b"\r\n", b"/data?" + b"a&" * 30_000
    for request in (
        b"GET /data HTTP/1.1\r\n" + HOST + quotes + b"\r\n",
        b"GET " + parameters + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /data HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01" * 100,
    ):
        async with connected(port) as (reader, writer):
            writer.write(request)
            seen[await status(reader)] += 1


async def watcher(port: Port, seen: Counter[str]) -> None:
    """Watches its own window for a second."""
    async with connected(port) as (reader, writer):
        number = seen["asked"] = seen["asked"] + 1
        writer.write(b"GET /data/watch?low=%d&high=%d HTTP/1.1\r\n%b\r\n" % (number, number + 5, HOST))
        seen[await status(reader)] += 1
        await asyncio.sleep(1)


async def repeat(attack: Attack, port: Port, seen: Counter[str]) -> None:
    while True:
        try:
            await attack(port, seen)
        except OSError as error:
            seen[type(error).__name__] += 1
        await asyncio.sleep(0.01)  # this process also runs the ordinary clients


@asynccontextmanager
async def attacked(attack: Attack, count: int, port: Port) -> AsyncIterator[Counter[str]]:
    """Runs `count` attackers during the block; counts the responses they got."""
    seen: Counter[str] = Counter()
    tasks = [asyncio.create_task(repeat(attack, port, seen)) for _ in range(count)]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled(), task.exception()


class Service:
    """`labkit serve` in a separate process that may open few files."""

    def __init__(self, process: subprocess.Popen[str], port: Port, log: Path) -> None:
        self.process, self.port, self.log = psutil.Process(process.pid), port, log

    def lines(self) -> list[str]:
        """The lines it has logged."""
        return self.log.read_text().splitlines()


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


@pytest.fixture(scope="module")
def large() -> Any:
    """A lab with 60,000 rows: 3.6 MB of JSON."""
    third = ROWS // 3
    router = RangeRouter({number: [(third * (number - 1) + 1, third * number)] for number in (1, 2, 3)})
    return Lab("postgres", launcher="embedded", router=router, rows=[(i, f"Row {i:030}") for i in range(1, ROWS + 1)])


@asynccontextmanager
async def serving(lab: Lab, folder: Path) -> AsyncIterator[Service]:
    file, log = folder / "lab.toml", folder / "log"
    places = {shard: ShardPlace(url, lab.tables[shard]) for shard, url in lab.urls.items()}
    file.write_text(Topology(lab.timeout, lab.router, places).to_toml())
    limits = ["--max-windows", str(WINDOWS), "--max-unsent", str(UNSENT), "--head-timeout", "1", "--send-timeout", "1"]
    command = [sys.executable, "-m", "labkit", "serve", "--topology", str(file), "--port", "0", *limits]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=few_files) as process,  # noqa: ASYNC220
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found is not None
            yield Service(process, int(found[1]), log)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0
        finally:
            process.kill()


def judge(status: int, body: bytes) -> str:
    """Asserts that an answer is complete and right."""
    assert status == 200, body
    answer = json.loads(body)
    assert answer["complete"], answer["shards"]
    assert [row["id"] for row in answer["rows"]] == list(range(19_991, 20_011))
    return "right"


ATTACKS: dict[str, tuple[Attack, int, set[str]]] = {
    # The attack, the number of attackers, and the responses that at least one of them must get.
    "silent": (silent, 300, {"none", "503"}),
    "deaf": (deaf, 120, {"200", "503"}),
    "verbose": (verbose, 20, {"431", "400"}),
    "windows": (watcher, 100, {"200", "503"}),
}


@pytest.mark.alone
@pytest.mark.timeout(180)
async def test_ordinary_clients_are_answered_whatever_strangers_do(large: Lab, tmp_path: Path) -> None:
    """Ordinary clients get only right answers, in time, during four attacks in turn.

    The server's memory stays within its limits, it logs at most one line per second and cause, and it stops cleanly.
    """
    figures: dict[str, Any] = {}
    async with large as lab, serving(lab, tmp_path) as service:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=PATIENCE) as client:
            assert (
                len((await client.get("/data")).json()["rows"]) == ROWS
            )  # from then on the server knows how large it is
        async with loading(service.port, "/data?low=19991&high=20010", judge, ORDINARY) as load:
            async with asyncio.timeout(PATIENCE):
                while load.kinds["right"] < 10 * ORDINARY:
                    await asyncio.sleep(0.01)
            for name, (attack, count, told) in ATTACKS.items():
                first, lines, grown, before = len(load.latencies), len(service.lines()), 0, time.monotonic()
                warm = service.process.memory_info().rss
                async with attacked(attack, count, service.port) as seen:
                    while time.monotonic() < before + SECONDS or not told <= seen.keys():
                        assert time.monotonic() < before + 10 * PATIENCE, (name, seen)
                        grown = max(grown, service.process.memory_info().rss - warm)
                        await asyncio.sleep(0.1)
                seconds = time.monotonic() - before
                latencies = load.latencies[first:]
                slow = percentile(latencies, 0.99)
                logged = service.lines()[lines:]
                figures[name] = {**seen, "answers": len(latencies), "p99": slow, "MB": grown >> 20, "log": len(logged)}
                assert slow < LATE, figures
                assert grown < FLAT, figures
                assert len(logged) <= len({re.sub(r"\d+", "", line) for line in logged}) * (seconds + 2), logged
                assert not [line for line in logged if "Traceback" in line], logged
                assert not [one for one in seen if one.startswith("5") and one != "503"], figures
        assert not load.errors, figures
    print(figures)  # noqa: T201 - shown with -s


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_thousand_windows_leave_the_databases_to_others() -> None:
    """200 windows are watched and 800 refused, with one listener per shard; others can still connect and read."""
    asked = 1000
    async with Lab("postgres", launcher="embedded") as lab, AsyncExitStack() as stack:
        reader = await stack.enter_async_context(cold(lab))
        server = await stack.enter_async_context(Server(reader, limits=Limits(connections=asked + 20)))
        port = int(server.url.rpartition(":")[2])
        told: Counter[str] = Counter()

        async def watch(number: int) -> None:
            reading, writer = await stack.enter_async_context(connected(port))
            writer.write(b"GET /data/watch?low=%d HTTP/1.1\r\n%b\r\n" % (-number, HOST))
            told[found := await status(reading)] += 1
            if found == "200":
                async with asyncio.timeout(PATIENCE * 3):
                    while not (await reading.readline()).startswith(b"event: result"):
                        pass

        for first in range(0, asked, 100):
            await asyncio.gather(*(watch(number) for number in range(first, first + 100)))
        assert told == {"200": Limits().windows, "503": asked - Limits().windows}
        for shard, url in lab.urls.items():
            other = await _other(url)
            try:
                # Ten in the pool and one listener, besides the sessions of the lab itself.
                assert 1 <= await other.fetchval(SESSIONS) <= 11 + _OWN, shard
            finally:
                await other.close()
        await lab.put(12, "new")  # every watch is notified: sharing loses nothing
        await lab.put(12, "Test 12")


_OWN = 10
"""Sessions of the lab's own reader and writer, which have the same application name."""


async def _other(url: str) -> Any:
    import asyncpg

    return await asyncpg.connect(url, timeout=PATIENCE)
