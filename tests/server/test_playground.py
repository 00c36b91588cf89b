"""The permanent playground of cluster/: compose starts what the topology files say, and reads of it are right."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit import CLASSIC, ReadResult
from labkit.cli.cluster import compose_command
from labkit.lab.launchers.docker import IMAGES
from labkit.lab.truth import truth
from labkit.tables import to_frame
from labkit.topology import Topology, load
from tests.support.containers import engine_client
from tests.support.fronted import assert_every_network_fault_is_exact, assert_the_killed_proxy_leaves_nothing
from tests.support.watching import becomes_true

CLUSTER = Path(__file__).parents[2] / "cluster"
TOPOLOGIES = {"postgres": "lab.toml", "redis": "lab-redis.toml"}
PUBLISHED = r"127\.0\.0\.1:(\d+)"


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]
    return found


def with_ports(backend: str, ports: dict[str, str], folder: Path) -> Topology:
    """The topology of that backend's shards on other ports."""
    text = (CLUSTER / TOPOLOGIES[backend]).read_text()
    (folder / TOPOLOGIES[backend]).write_text(re.sub(PUBLISHED, lambda m: f"127.0.0.1:{ports[m[1]]}", text))
    return load(folder / TOPOLOGIES[backend])


@pytest.mark.parametrize("backend", TOPOLOGIES)
def test_compose_and_topology_agree(backend: str) -> None:
    """Each shard of a topology file is a service with the same port, table and IDs, and no service is left over."""
    topology = load(CLUSTER / TOPOLOGIES[backend])
    assert topology.router == CLASSIC
    assert {name for name in services() if name.startswith(backend)} == {f"{backend}-{s}" for s in topology.shards}
    for shard, ranges in topology.router.prune().items():
        place, service = topology.shards[shard], services()[f"{backend}-{shard}"]
        [published] = service["ports"]
        environment = service["environment"]
        assert re.search(PUBLISHED, place.url)[0] == published.rpartition(":")[0]  # type: ignore[index]
        assert environment["LABKIT_TABLE"] == place.table
        assert environment["LABKIT_IDS"] == " ".join(f"{low}-{high}" for low, high in ranges)
        if backend == "postgres":
            user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
            assert place.url.startswith(f"postgresql+asyncpg://{user}@")
            assert f"/{database}?" in place.url


def test_services_are_checked_and_closed_to_the_network() -> None:
    """Each service has a healthcheck, ports on loopback only, and the image that labs use."""
    assert len(services()) == 6
    for name, service in services().items():
        backend = name.partition("-")[0]
        assert service["healthcheck"]["test"]
        assert all(re.match(PUBLISHED, port) for port in service["ports"])
        assert service["image"] == f"${{LABKIT_{backend.upper()}_IMAGE:-{IMAGES[backend]}}}"


class Playground:
    """The compose project under its own name and on its own ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = (CLUSTER / "compose.yaml").read_text()
        with ExitStack() as held:
            self.ports = {port: _free_port(held) for port in re.findall(PUBLISHED, text)}
        self.project = f"labkit-test-{os.getpid()}"
        file = folder / "compose.yaml"
        file.write_text(re.sub(PUBLISHED, lambda m: f"127.0.0.1:{self.ports[m[1]]}", text))
        where = ["--project-directory", str(CLUSTER), "--file", str(file), "--project-name", self.project]
        self._command = [*compose_command(), *where]

    def compose(self, *words: str) -> None:
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def of_project(self) -> list[Any]:
        """Its containers, volumes and networks, by the label that compose sets."""
        mine = {"label": f"com.docker.compose.project={self.project}"}
        with engine_client() as client:
            containers = client.containers.list(all=True, filters=mine, ignore_removed=True)
            return [*containers, *client.networks.list(filters=mine), *client.volumes.list(filters=mine)]

    def health(self) -> list[str]:
        mine = {"label": f"com.docker.compose.project={self.project}"}
        with engine_client() as client:
            containers = client.containers.list(filters=mine, ignore_removed=True)
            return [str(container.attrs["State"]["Health"]["Status"]) for container in containers]

    def read(self, backend: str) -> ReadResult:
        """One read of all shards of that backend, by its topology file."""

        async def read() -> ReadResult:
            async with with_ports(backend, self.ports, self.folder).reader() as reader:
                return await reader.read()

        return asyncio.run(read())


def _free_port(held: ExitStack) -> str:
    """A free port, held until all ports are chosen, so that no two are the same."""
    probe = held.enter_context(socket.socket())
    probe.bind(("127.0.0.1", 0))
    return str(probe.getsockname()[1])


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    """The project, up and healthy; after the test it is removed with its volumes."""
    project = Playground(tmp_path)
    try:
        project.compose("up", "--detach")
        assert becomes_true(lambda: project.health() == ["healthy"] * 6), project.health()
        yield project
    finally:
        project.compose("down", "--volumes")
        assert project.of_project() == []


@pytest.mark.docker
@pytest.mark.compose
@pytest.mark.timeout(180)
def test_proxies_in_front_of_the_playground(playground: Playground, tmp_path: Path) -> None:
    """All network faults are exact in front of servers that Compose started, and a killed proxy leaves them as they
    were.
    """
    for backend in TOPOLOGIES:
        topology = with_ports(backend, playground.ports, playground.folder)
        asyncio.run(assert_every_network_fault_is_exact(topology))
        (mine := tmp_path / backend).mkdir()
        asyncio.run(assert_the_killed_proxy_leaves_nothing(topology, mine))


@pytest.mark.docker
@pytest.mark.compose
@pytest.mark.timeout(180)
def test_the_playground_reads_right_and_loses_what_is_killed(playground: Playground) -> None:
    """A healthy playground has 60 rows per backend; with a shard killed, 40 and its gaps; restarted, 60 again."""
    for backend in TOPOLOGIES:
        assert playground.read(backend).frame.equals(to_frame(truth(CLASSIC, None)))
    playground.compose("kill", "postgres-2", "redis-2")
    for backend in TOPOLOGIES:
        result = playground.read(backend)
        assert (len(result.frame), result.missing) == (40, ((11, 20), (41, 50)))
    playground.compose("start", "postgres-2", "redis-2")
    assert becomes_true(lambda: playground.health() == ["healthy"] * 6), playground.health()
    for backend in TOPOLOGIES:
        assert playground.read(backend).frame.equals(to_frame(truth(CLASSIC, None)))
