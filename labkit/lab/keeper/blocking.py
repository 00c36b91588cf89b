"""What is asked of one container, by testcontainers. Every call blocks until the engine has answered."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import PurePosixPath
from typing import Any

import requests
from docker.errors import APIError, DockerException
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer

__all__ = [
    "address",
    "binding",
    "exit_code",
    "full",
    "kill",
    "last_line",
    "make",
    "pause",
    "place",
    "resume",
    "write_file",
]

LOOPBACK = "127.0.0.1"
LOCALHOSTS = ("localhost", LOOPBACK, "::1")
RUNS = "cannot resume a running process"
"""What containerd says of a container that is not paused."""
PATIENCE = 10.0
"""Seconds that the engine may take to hear of it."""
LINES = 20
"""Lines of a log among which the last that is not empty is looked for."""


class Postgres(PostgresContainer):
    """Does not wait: the lab itself asks until the server answers, at first and after every restart."""

    def _connect(self) -> None: ...


class Redis(RedisContainer):
    """As above."""

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self._wait_strategy = None


CLASSES: dict[str, Callable[..., DockerContainer]] = {"postgres": Postgres, "redis": Redis}


def make(kind: str, image: str, options: dict[str, str], command: list[str], env: dict[str, str]) -> DockerContainer:
    """A container of testcontainers' class for that kind of server, not yet started."""
    return CLASSES[kind](image, **options).with_command(command).with_envs(**env)


def full(image: str) -> str:
    """The name that testcontainers takes for the image: TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX stands before it."""
    return testcontainers_config.hub_image_name_prefix + image


def binding(container: DockerContainer, network: str) -> Any:
    """Where the engine opens the port: to this machine only. Within a container of the engine's machine that is the
    address at which the lab's `network` has that machine. Of an engine elsewhere it is every interface, which is None.
    """
    client = container.get_docker_client()
    mode = client.get_connection_mode()
    if mode is ConnectionMode.gateway_ip:
        return _gateway(client.client.networks.get(network).attrs["IPAM"]["Config"][0]), None
    elsewhere = mode is ConnectionMode.docker_host and client.host() not in LOCALHOSTS
    return None if elsewhere else (LOOPBACK, None)


def _gateway(pool: dict[str, str]) -> str:
    """An engine that was told the range of addresses may not say which is its own: it is the first."""
    gateway = pool.get("Gateway") or str(next(ip_network(pool["Subnet"]).hosts()))
    return gateway.partition("/")[0]


def place(container: DockerContainer, port: int) -> tuple[str, int] | None:
    """Where the server is dialled: the port is another after every start. None while it has none."""
    client = container.get_docker_client()
    try:
        host = container.get_container_host_ip()
        mapped = client.get_connection_mode().use_mapped_port
        return (LOOPBACK if host in LOCALHOSTS else host), int(
            client.port(container.get_container_id(), port) if mapped else port
        )
    except (ConnectionError, KeyError):
        return None  # it has ended already, or is off its network


def address(container: DockerContainer, network: str) -> str | None:
    """Its own address on a network, None while it has none."""
    return _fresh(container).attrs["NetworkSettings"]["Networks"].get(network, {}).get("IPAddress") or None


def last_line(container: DockerContainer) -> str:
    """The last line that the container wrote."""
    lines = container.get_wrapped_container().logs(tail=LINES).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _fresh(container: DockerContainer) -> Any:
    """The engine's view of the container, as it is now."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    return wrapped


def pause(container: DockerContainer) -> None:
    """Freezes a container that runs; does nothing to any other."""
    fresh = _fresh(container)
    if fresh.status == "running":
        fresh.pause()


def resume(container: DockerContainer) -> None:
    """Thaws a container that is paused; does nothing to any other.

    The engine hears from below what is paused. Under load it hears it so late that a container is paused once more, in
    its books, which was thawed meanwhile: then it is asked until it has heard of that too.
    """
    until = time.monotonic() + PATIENCE
    while (fresh := _fresh(container)).status == "paused":
        try:
            fresh.unpause()
            return
        except APIError as error:
            if RUNS not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.02)


def kill(container: DockerContainer) -> None:
    """SIGKILL, also to a paused one; does nothing to one that has ended."""
    try:
        container.get_wrapped_container().kill()
    except APIError as error:
        if error.status_code != requests.codes.conflict:  # 409: it does not run
            raise


def write_file(container: DockerContainer, path: str, text: str) -> None:
    """Puts a file into the container, running or not, for everybody to read."""
    where, data, archive = PurePosixPath(path), text.encode(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(where.name)
        entry.size, entry.mode = len(data), 0o644
        tar.addfile(entry, io.BytesIO(data))
    container.get_wrapped_container().put_archive(str(where.parent), archive.getvalue())


def exit_code(container: DockerContainer) -> int:
    """Waits for the end of the container; one that can no longer be asked about has ended."""
    with contextlib.suppress(DockerException, requests.RequestException):
        return int(container.get_wrapped_container().wait(timeout=None)["StatusCode"])
    return -1
