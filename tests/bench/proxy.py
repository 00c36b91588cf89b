"""The cost of the proxy, and the accuracy of its latency: `python -m tests.bench.proxy [--json FILE]`.

pgbench and redis-benchmark run in turns directly on a server's unix socket and through its proxy, so that a busy moment
of the machine hits both. Figures are medians of all rounds, and their ratio.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import click
from rich.console import Console
from rich.table import Table

from labkit import Lab, faults
from labkit.lab.launchers.binaries import postgres_home

LATENCY = 50
PINGS = 200

Rates: TypeAlias = dict[str, float]
"""Operations per second, by kind."""
Places: TypeAlias = dict[str, list[str]]
"""The options of a program for each place."""

PING = f"""
import json, socket, sys, time
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
client.sendall(b"AUTH %b\\r\\n" % sys.argv[2].encode())
assert client.recv(64) == b"+OK\\r\\n"
times = []
for _ in range({PINGS}):
    began = time.perf_counter()
    client.sendall(b"PING\\r\\n")
    assert client.recv(64) == b"+PONG\\r\\n"
    times.append((time.perf_counter() - began) * 1000)
print(json.dumps(times))
"""
"""A Redis client that prints how many milliseconds each answer took."""


@dataclass
class Cost:
    """The rates of one kind of load, direct and through the proxy, one per round."""

    load: str
    direct: list[float]
    proxy: list[float]

    @property
    def ratio(self) -> float:
        return median(self.proxy) / median(self.direct)


@dataclass
class Lateness:
    """Milliseconds that answers took through Latency, as seen by a client process."""

    owner: str
    p50: float
    p95: float
    most: float


async def ran(*command: str, password: str = "") -> str:
    """The output of a program; if it fails, a click.ClickException with the end of its stderr."""
    env = {**os.environ, "PGPASSWORD": password}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise click.ClickException(f"{command[0]} failed: {errors.decode()[-500:]}")
    return output.decode()


async def compared(
    name: str,
    rounds: int,
    password: str,
    command: list[str],
    places: dict[str, list[str]],
    read: Callable[[str], Rates],
) -> list[Cost]:
    """Runs a command at both places in turns; `read` finds the rates in its output."""
    costs: dict[str, Cost] = {}
    for number in range(rounds):
        order = list(places.items())
        for place, options in order if number % 2 else reversed(order):
            for what, rate in read(await ran(*command, *options, password=password)).items():
                cost = costs.setdefault(what, Cost(f"{name}{what}", [], []))
                getattr(cost, place).append(rate)
    return list(costs.values())


async def of_postgres(rounds: int, seconds: int) -> list[Cost]:
    """pgbench, SELECT only, with one client and with eight clients."""

    def tps(text: str) -> Rates:
        found = re.search(r"tps = ([\d.]+)", text)
        assert found, text
        return {"": float(found[1])}

    async with Lab("postgres", launcher="embedded") as lab:
        shard = lab._shards[1]
        places = {
            "direct": ["-h", str(Path(str(shard.place)).parent), "-p", "5432", "postgres"],
            "proxy": ["-h", "127.0.0.1", "-p", str(shard.port), "postgres"],
        }
        program = [str(postgres_home() / "bin/pgbench"), "-U", "labkit"]
        password = urlsplit(lab.urls[1]).password or ""
        await ran(*program, "-i", "-q", *places["direct"], password=password)
        costs = []
        for clients in (1, 8):
            command = [*program, "-n", "-S", "-c", str(clients), "-T", str(seconds)]
            costs += await compared(f"pgbench -n -S -c {clients}", rounds, password, command, places, tps)
        return costs


async def of_redis(rounds: int) -> list[Cost]:
    """redis-benchmark: plain, pipelined, and with values of 64 KB."""
    loads = {
        "": ["-t", "get", "-n", "30000"],
        " -P 32": ["-t", "get", "-n", "300000", "-P", "32"],
        " -d 65536": ["-t", "set,get", "-n", "4000", "-d", "65536"],
    }

    def rps(text: str) -> Rates:
        lines = [line.replace('"', "").split(",") for line in text.splitlines()]
        return {f" {name}": float(rate) for name, rate, *_ in lines if name in ("GET", "SET")}

    async with Lab("redis", launcher="embedded") as lab:
        shard = lab._shards[1]
        password = urlsplit(lab.urls[1]).password or ""
        places = {"direct": ["-s", str(shard.place)], "proxy": ["-p", str(shard.port)]}
        costs = []
        for options, command in loads.items():
            program = ["redis-benchmark", "--csv", "-a", password, *command]
            costs += await compared(f"redis-benchmark{options}", rounds, password, program, places, rps)
        return costs


async def of_latency() -> list[Lateness]:
    """PINGs through Latency, while the lab's owner is idle and while two of its threads compute."""
    async with Lab("redis", launcher="embedded") as lab, lab.fault(1, faults.Latency(LATENCY)):
        place = urlsplit(lab.urls[1])
        idle = await lateness("idle", place)
        with computing(2):
            return [idle, await lateness("computing in 2 threads", place)]


async def lateness(owner: str, place: SplitResult) -> Lateness:
    times = json.loads(await ran(sys.executable, "-c", PING, str(place.port), place.password or ""))
    cuts = quantiles(times, n=100)
    return Lateness(owner, cuts[49], cuts[94], max(times))


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Keeps this many threads of this process busy during the block."""
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            sum(range(10_000))

    busy = [threading.Thread(target=count) for _ in range(threads)]
    for thread in busy:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in busy:
            thread.join()


def tables(costs: list[Cost], late: list[Lateness]) -> Iterator[Table]:
    """The tables to print."""
    table = Table("load", "direct /s", "proxy /s", "ratio", title="Cost of the proxy: medians, direct is 1")
    for cost in costs:
        table.add_row(cost.load, f"{median(cost.direct):,.0f}", f"{median(cost.proxy):,.0f}", f"{cost.ratio:.2f}")
    yield table
    table = Table("owner of the lab", "p50 ms", "p95 ms", "most ms", title=f"{PINGS} PINGs through Latency({LATENCY})")
    for seen in late:
        table.add_row(seen.owner, f"{seen.p50:.1f}", f"{seen.p95:.1f}", f"{seen.most:.1f}")
    yield table


def to_dict(costs: list[Cost], late: list[Lateness]) -> dict[str, Any]:
    """All numbers as JSON types."""
    return {
        "costs": [{**asdict(cost), "ratio": cost.ratio} for cost in costs],
        "latency": [asdict(seen) for seen in late],
    }


async def measured(console: Console, rounds: int, seconds: int) -> tuple[list[Cost], list[Lateness]]:
    console.print("pgbench …", style="dim")
    costs = await of_postgres(rounds, seconds)
    if shutil.which("redis-benchmark"):
        console.print("redis-benchmark …", style="dim")
        costs += await of_redis(rounds)
    else:
        console.print("no redis-benchmark on PATH (install Debian's redis-tools): skipping Redis", style="yellow")
    console.print(f"Latency({LATENCY}) …", style="dim")
    return costs, await of_latency()


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="Runs of each load at each place.")
@click.option("--seconds", default=1, show_default=True, help="Duration of each pgbench run.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all numbers here.")
def main(rounds: int, seconds: int, file: Path | None) -> None:
    console = Console()
    costs, late = asyncio.run(measured(console, rounds, seconds))
    for table in tables(costs, late):
        console.print(table)
    if file is not None:
        file.write_text(json.dumps(to_dict(costs, late), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
