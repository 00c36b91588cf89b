"""What must hold in front of servers that labkit did not start, whoever started them: checks by their topology."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
from redis.asyncio import Redis

from labkit import CLASSIC, Lab, Proxies, ReadResult, Status, faults
from labkit.topology import ShardPlace, Topology, load
from tests.support.lateness import MARGIN, starved
from tests.support.watching import comes_true, refuses, running, tree

__all__ = ["assert_every_network_fault_is_exact", "assert_the_killed_proxy_leaves_nothing", "past_its_proxies"]

TIMEOUT, PLENTY = 0.6, 5.0
"""Seconds of a read that meets a fault, and of one that need not hurry."""


def past_its_proxies(lab: Lab) -> Topology:
    """The topology of an embedded lab's servers themselves, by their unix sockets."""
    made = Topology.of(lab)
    places = {}
    for shard, place in made.shards.items():
        path, url = lab._shards[shard].place, urlsplit(place.url)
        assert isinstance(path, str)
        user = url.netloc.rpartition("@")[0]
        if lab.backend == "postgres":
            direct = f"postgresql://{user}@{url.path}?host={Path(path).parent}&sslmode=disable"
        else:
            direct = f"unix://{user}@{path}"
        places[shard] = ShardPlace(direct, place.table)
    return Topology(made.timeout, made.router, places)


def assert_exact(result: ReadResult, allowed: frozenset[Status]) -> None:
    """Only shard 2 may have failed, as allowed; rows and gaps are exactly what that leaves, in time."""
    statuses = {shard: report.status for shard, report in result.reports.items()}
    assert statuses.pop(2) in allowed, (result.reports[2], allowed)
    assert set(statuses.values()) == {Status.OK}, result.reports
    there = [i for i in range(1, 61) if CLASSIC.locate(i) != 2 or result.reports[2].status is Status.OK]
    assert result.frame["id"].tolist() == there
    assert result.missing == (() if len(there) == 60 else ((11, 20), (41, 50)))
    assert result.elapsed < TIMEOUT + MARGIN + starved()


async def assert_every_network_fault_is_exact(topology: Topology) -> None:
    """Behind proxies, each network fault fires, cold and warm reads report it as promised with exact gaps, and without
    it they are complete again.
    """
    samples = [sample for entry in faults.ALL.values() if entry.layer == "network" for sample in entry.samples(TIMEOUT)]
    async with Proxies.of(topology.within(TIMEOUT)) as proxies, proxies.topology.reader() as warm:
        for sample in samples:
            while not (await warm.read()).complete:  # the pool may still have connections that the fault has ended
                await asyncio.sleep(0.01)
            seen = len(proxies.events)
            async with proxies.fault(2, sample.fault):
                async with proxies.topology.reader() as cold:
                    old, new = await asyncio.gather(warm.read(), cold.read())
                assert_exact(old, sample.warm)
                assert_exact(new, sample.cold)
                while all(event.kind != "fired" for event in (await proxies.record())[seen:]):
                    await asyncio.sleep(0.01)
            async with proxies.topology.within(PLENTY).reader() as cold:
                assert (await cold.read()).complete
    assert proxies.leftovers() == []


async def assert_the_killed_proxy_leaves_nothing(topology: Topology, folder: Path) -> None:
    """After SIGKILL of `labkit proxy`, with a fault before a shard, nothing of it runs, its ports refuse, and the
    servers are the same processes with the same settings, rows and number of clients.
    """
    (folder / "mine.toml").write_text(topology.to_toml())
    before, clients = await _states(topology), await _clients(topology)
    words = ["-m", "labkit", "proxy", "--topology", "mine.toml", "--api", "127.0.0.1:0"]
    pipe = asyncio.subprocess.PIPE
    proxy = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=folder, stdin=pipe, stdout=pipe)
    try:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        proxy.stdin.write(b"fault 2 Down\n")
        while line := await proxy.stdout.readline():
            if b"shard 2 has Down()" in line:
                break
        processes = tree(proxy.pid)
        through = load(folder / "proxy.toml").within(PLENTY)
        async with through.reader() as reader:
            assert (await reader.read()).missing == ((11, 20), (41, 50))
    finally:
        proxy.kill()
        await proxy.wait()
    assert await comes_true(lambda: not running(processes)), _words(processes)
    for place in through.shards.values():
        assert refuses(urlsplit(place.url).port or 0)
    assert await _states(topology) == before
    async with topology.within(PLENTY).reader() as reader:
        assert (await reader.read()).frame["id"].tolist() == list(range(1, 61))
    while await _clients(topology) != clients:
        await asyncio.sleep(0.01)


def _words(processes: list[psutil.Process]) -> list[str]:
    return [str(process) for process in running(processes)]


async def _states(topology: Topology) -> dict[Any, Any]:
    """What tells each server's process from another, and its settings."""
    found = {}
    for shard, place in topology.shards.items():
        if place.url.startswith("postgres"):
            connection = await _postgres(place)
            started = await connection.fetchval("SELECT pg_postmaster_start_time()")
            settings = await connection.fetch("SELECT name, setting FROM pg_settings ORDER BY name")
            found[shard] = started, [tuple(row) for row in settings]
            await connection.close()
        else:
            async with Redis.from_url(place.url) as client:
                about = await client.info("everything")
            kept = ("run_id", "process_id", "config_file", "role", "maxclients", "maxmemory")
            found[shard] = tuple(about.get(name) for name in kept)
    return found


async def _clients(topology: Topology) -> dict[Any, int]:
    """How many clients each server has, this one included."""
    found = {}
    for shard, place in topology.shards.items():
        if place.url.startswith("postgres"):
            connection = await _postgres(place)
            count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            found[shard] = await connection.fetchval(count)
            await connection.close()
        else:
            async with Redis.from_url(place.url) as client:
                found[shard] = (await client.info("clients"))["connected_clients"]
    return found


async def _postgres(place: ShardPlace) -> Any:
    return await asyncpg.connect(place.url.replace("+asyncpg", "").replace("ssl=", "sslmode="))
