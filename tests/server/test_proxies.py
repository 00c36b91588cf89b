"""`Proxies` and `labkit proxy` in front of servers that were there before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from labkit import Lab, Proxies, RangeRouter, errors, faults
from labkit.proxies import fronts
from labkit.topology import ShardPlace, Topology, load
from tests.support.echo import answered, echoing, opened
from tests.support.fronted import (
    assert_every_network_fault_is_exact,
    assert_the_killed_proxy_leaves_nothing,
    past_its_proxies,
)
from tests.support.watching import becomes_true, comes_true, folders, footprint, no_more_than, refuses, running, tree


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of an echo server."""
    async with echoing() as number:
        yield number


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_all_network_faults_are_exact_and_a_killed_proxy_leaves_nothing(backend: str, tmp_path: Path) -> None:
    """In front of real servers, by their unix sockets."""
    async with Lab(backend, launcher="embedded") as lab:
        topology = past_its_proxies(lab)
        await assert_every_network_fault_is_exact(topology)
        await assert_the_killed_proxy_leaves_nothing(topology, tmp_path)


async def test_a_fault_lasts_as_long_as_its_block(port: int) -> None:
    """By host and port: faults act and are undone, are recorded, and nothing is left, not even a thread."""
    before = footprint()
    async with Proxies({"eu": f"localhost:{port}", 2: f"127.0.0.1:{port}"}) as p:
        eu = p.addresses["eu"]
        assert await answered(eu) == b"hello"
        async with p.fault({"eu": faults.LimitData(2), 2: faults.LimitData(3)}):
            assert (await answered(eu), await answered(p.addresses[2])) == (b"he", b"hel")
        assert await answered(eu) == b"hello"
        await p.inject("eu", faults.Down())
        assert refuses(int(eu.rpartition(":")[2]))
        await p.heal()
        assert await answered(eu) == b"hello"
        kinds = [(event.kind, event.shard) for event in await p.record()]
        assert kinds.count(("fired", "eu")) == kinds.count(("stop", "eu")) == 2
        assert p.urls == {}
        with pytest.warns(errors.NeverFired, match=r"Latency\(5\) never fired on shard 2: no client met it"):
            async with p.fault(2, faults.Latency(5)):
                pass
    assert p.leftovers() == []
    assert await comes_true(no_more_than(before))


async def test_what_a_fault_takes_does_not_depend_on_anything_but_the_seed(port: int) -> None:
    """The same seed hits the same connections; another seed hits others."""

    async def hit(seed: int) -> list[bytes]:
        half = faults.LimitData(1, toxicity=0.5)
        async with Proxies({"eu": f"127.0.0.1:{port}"}, seed=seed) as p, p.fault("eu", half):
            return [await answered(p.addresses["eu"]) for _ in range(12)]

    first = await hit(1)
    assert set(first) == {b"h", b"hello"}
    assert (await hit(1), await hit(2) == first) == (first, False)


async def test_only_network_faults_act(port: int) -> None:
    """Any other is one line with what to do, as is an unknown shard and a fault of another kind of server."""
    async with Proxies({"eu": f"127.0.0.1:{port}", "pg": f"postgresql://u@127.0.0.1:{port}/x"}) as p:
        for fault, words in (
            (
                faults.Kill(),
                "Kill acts on a process, and shard 'eu' is not one: only network faults act through a proxy",
            ),
            (faults.Empty(), "Empty acts on a data"),
        ):
            with pytest.raises(errors.UsageError, match=words):
                await p.inject("eu", fault)
        with pytest.raises(errors.UsageError, match=r"unknown shard 'us': choose one of \['eu', 'pg'\]"):
            await p.inject("us", faults.Down())
        assert p.events == []


async def test_where_it_listens_can_be_chosen(port: int) -> None:
    """A chosen port is taken again at once after its proxies; in use, it is one error that names it, and nothing is
    left of the others; only who asks for it listens on every network; IPv6 works on both sides.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        chosen = f"127.0.0.1:{probe.getsockname()[1]}"
    for _ in range(2):
        async with Proxies({"eu": f"{chosen}->127.0.0.1:{port}"}) as p, opened(chosen) as (reader, writer):
            assert p.addresses == {"eu": chosen}
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            others = Proxies({"a": f"127.0.0.1:{port}", "b": f"{chosen}->127.0.0.1:{port}"})
            with pytest.raises(errors.UsageError, match=rf"^cannot listen at {chosen}: address already in use; choose"):
                await others.start()
            assert (others.leftovers(), others.addresses) == ([], {})
    every = Proxies({"every": f"0.0.0.0:0->redis://:pw@127.0.0.1:{port}/2"})
    async with every as p:
        where = p.addresses["every"].removeprefix("0.0.0.0:")
        assert p.urls == {"every": f"redis://:pw@127.0.0.1:{where}/2"}
        assert await answered(f"127.0.0.1:{where}") == b"hello"
    async with echoing("::1") as six, Proxies({"six": f"[::1]:0->[::1]:{six}"}) as p:
        assert p.addresses["six"].startswith("[::1]:")
        assert await answered(p.addresses["six"]) == b"hello"


async def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients are closed; `heal` and the end of a block name the server, and succeed once it is there."""
    monkeypatch.setattr(fronts, "RECOVERY", 0.1)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{server.getsockname()[1]}"
        async with Proxies({"eu": place, "us": "no-such-host.invalid:1"}) as p:
            for address in p.addresses.values():
                async with opened(address) as (reader, _):
                    assert await reader.read() == b""
            with pytest.raises(errors.LabError, match=rf"'eu', {place}, accepts no connection .*: connection refused"):
                async with p.fault("eu", faults.Down()):
                    pass
            with pytest.raises(errors.LabError, match=f"shard 'eu', {place}"):
                await p.heal()
            server.listen()
            await p.heal()


async def test_urls_and_topologies_go_through_the_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only addresses change: passwords in variables stay there, and tables, keys, columns, ranges and options stay."""
    monkeypatch.setenv("PW", "p@ss")
    monkeypatch.setenv("WHOLE", "redis://:secret@127.0.0.1:1/3")
    file = tmp_path / "mine.toml"
    file.write_text(
        'timeout = 3.0\n[[shards]]\nname = 1\nurl = "postgresql+asyncpg://u:${PW}@127.0.0.1:1/x?ssl=disable"\n'
        'table = "public.t"\nkey = "k"\ncolumns = ["a"]\nranges = [[1, 10], [21, 30]]\n'
        '[[shards]]\nname = "two"\nurl = "${WHOLE}"\ntable = "t"\nlayout = "hash"\nranges = [[11, 20]]\n'
    )
    topology = load(file)
    async with Proxies.of(topology) as p:
        one, two = p.addresses[1], p.addresses["two"]
        assert p.urls == {
            1: f"postgresql+asyncpg://u:p%40ss@{one}/x?ssl=disable",
            "two": f"redis://:secret@{two}/3",
        }
        through = p.topology
        assert f'url = "postgresql+asyncpg://u:${{PW}}@{one}/x?ssl=disable"' in through.to_toml()
        assert "p%40ss" not in through.to_toml()
        (tmp_path / "proxy.toml").write_text(through.to_toml())
        assert load(tmp_path / "proxy.toml") == through
    for shard, place in topology.shards.items():
        assert through.shards[shard].url == p_url(place.url, one if shard == 1 else two)
        assert vars(through.shards[shard]) | {"url": "", "written": ""} == vars(place) | {"url": "", "written": ""}
    assert (through.router, through.timeout) == (topology.router, topology.timeout)


def p_url(url: str, address: str) -> str:
    return url.replace("127.0.0.1:1", address)


def test_without_an_event_loop(port: int) -> None:
    """`Lab.sync`'s facade serves as it is, the API for blocking clients included."""
    threads = threading.active_count()
    with Proxies({"eu": f"127.0.0.1:{port}"}).sync() as p:
        api = p.api(port=0)
        httpx.post(f"{api}/proxies/eu/toxics", json={"type": "limit_data"}).raise_for_status()
        assert [active.fault for active in p.record()] == [faults.LimitData(0)]
        httpx.post(f"{api}/reset").raise_for_status()
        with p.fault("eu", faults.Down()):
            assert not httpx.get(f"{api}/proxies/eu").json()["enabled"]
    assert p.leftovers() == []
    assert threading.active_count() == threads


async def test_started_stopped_and_cancelled_in_any_order(port: int) -> None:
    """Starting and stopping twice does nothing more; a cancelled start leaves nothing; it can be started again."""
    p = Proxies({"eu": f"127.0.0.1:{port}"})
    for delay in (0, 0.01, 0.05, 0.1):
        starting = asyncio.create_task(p.start())
        await asyncio.wait([starting], timeout=delay)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
            await p.stop()
        assert p.leftovers() == []
    assert await p.start() is await p.start()
    assert await answered(p.addresses["eu"]) == b"hello"
    await p.stop()
    await p.stop()
    with pytest.raises(errors.UsageError, match="not running"):
        await p.heal()


# the command


class Running:
    """A running `labkit proxy`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labkit", "proxy", *options],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.greeting = self.until("help lists them.")

    def until(self, words: str) -> str:
        """Its output up to and including the line with these words."""
        assert self.process.stdout is not None
        said = ""
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


@contextmanager
def running_proxy(folder: Path, *options: str) -> Iterator[Running]:
    """`labkit proxy` in that folder; killed after the block, if it has not ended."""
    made = Running(folder, *options)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def read(path: Path) -> Any:
    async def once() -> Any:
        async with load(path).reader() as reader:
            return await reader.read()

    return asyncio.run(once())


def test_the_command_stands_in_front_and_takes_faults(tmp_path: Path) -> None:
    """It writes the topology that goes through it, private and without its passwords on the screen; takes faults by
    stdin and by the API; and ends cleanly, its file with it.
    """
    lying = folders()
    with Lab("redis", launcher="embedded", timeout=1.0).sync() as lab:
        (tmp_path / "mine.toml").write_text(Topology.of(lab).to_toml())
        options = ("--topology", "mine.toml", "--api", "127.0.0.1:0", "--out", "through.toml")
        with running_proxy(tmp_path, *options, "--listen", f"more=0->{lab.urls[1]}") as proxy:
            password = lab.urls[1].split(":")[2].partition("@")[0]
            assert password not in proxy.greeting
            assert "4 proxies, in front of what labkit did not start" in proxy.greeting
            through = tmp_path / "through.toml"
            assert through.stat().st_mode & 0o777 == 0o600
            assert read(through).complete
            proxy.tell("fault 2 Latency(9000, stream='upstream')", "shard 2 has Latency(9000, stream='upstream')")
            assert read(through).missing == ((11, 20), (41, 50))
            api = proxy.greeting.partition("API: ")[2].partition("\n")[0]
            [toxic] = httpx.get(f"{api}/proxies/2/toxics").json()
            assert (toxic["name"], toxic["attributes"]["latency"]) == ("latency_upstream", 9000)
            httpx.post(f"{api}/proxies/3", json={"enabled": False}).raise_for_status()
            listed = proxy.tell("list", "shard 3 has Down()")
            assert "  more  127.0.0.1:" in listed
            assert "shard 2 has Latency(9000, stream='upstream')" in listed
            assert read(through).missing == ((11, 30), (41, 60))
            assert "only network faults act" in proxy.tell("fault 2 Kill", "labkit: Kill acts on a process")
            proxy.tell("heal", "all faults are undone; all servers accept connections")
            assert read(through).complete
            processes = tree(proxy.process.pid)
            proxy.process.send_signal(signal.SIGTERM)
            rest, _ = proxy.process.communicate(timeout=20)
            assert (proxy.process.returncode, rest) == (0, "The proxies are stopped; nothing is left.\n")
            assert becomes_true(lambda: not running(processes))
            assert sorted(os.listdir(tmp_path)) == ["mine.toml"]
        assert lab.read().complete
    assert becomes_true(lambda: folders() <= lying)


def test_without_the_library_of_the_api_it_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with what to install, or which option to pass."""
    from labkit.cli.group import main

    real = find_spec
    monkeypatch.setattr("labkit._imports.find_spec", lambda name: None if name == "uvicorn" else real(name))
    with pytest.raises(SystemExit):
        main(["proxy", "--listen", "a=db:1"])
    said = capsys.readouterr().err
    assert said.startswith("labkit: the extra 'serve' is not installed (no uvicorn): pip install ")
    assert said.endswith(", or pass --api none\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "in front of what? Name --topology FILE, or --listen 'eu=127.0.0.1:5541->127.0.0.1:5432'"),
        (["--listen", "127.0.0.1:1"], "--listen takes NAME=LISTEN->SERVER"),
        (["--listen", "a=db:1", "--listen", "a=db:2"], "--listen names 'a' twice"),
        (["--listen", "a=db"], "shard 'a': 'db' is not an address"),
        (["--listen", "a=db:1", "--api", "db:1"], "cannot listen at 'db:1'"),
        (["--topology", "gone.toml"], "gone.toml: no such file"),
        (["--topology", "mine.toml", "--out", "mine.toml"], "'mine.toml' exists and was not written by labkit proxy"),
        (["--topology", "mine.toml", "--listen", "9=1"], "unknown shard '9': the topology has [1]"),
        (["--topology", "cluster.toml"], "shard 1: the nodes of a Redis Cluster announce their own addresses"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, before anything runs."""
    from labkit.cli.group import main

    monkeypatch.chdir(tmp_path)
    for name, url in (("mine", "redis://:secret@db:1"), ("cluster", "redis+cluster://:secret@db:1")):
        place = Topology(1.0, RangeRouter({1: [(1, 9)]}), {1: ShardPlace(url, "t")})
        Path(f"{name}.toml").write_text(place.to_toml())
    with pytest.raises(SystemExit) as end:
        main(["proxy", *options])
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert words in said.err
    assert "secret" not in said.err
