"""Calls on one container, by testcontainers. Each blocks until the engine has answered."""

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
"""containerd's error for a container that is not paused."""
BUSY = "unable to freeze"
"""runc's error for a container that it could not freeze in time."""
FREEZER_TIMEOUT = 10.0
"""Seconds until a container must be frozen, and until the engine must know that it is thawed."""
LINES = 20
"""Last lines of a log that are searched for one that is not empty."""


class Postgres(PostgresContainer):
    """Does not wait: the lab itself polls the server until it answers, after every start."""

    def _connect(self) -> None: ...


class Redis(RedisContainer):
    """As above."""

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self._wait_strategy = None


CLASSES: dict[str, Callable[..., DockerContainer]] = {"postgres": Postgres, "redis": Redis}


def make(kind: str, image: str, options: dict[str, str], command: list[str], env: dict[str, str]) -> DockerContainer:
    """A container of testcontainers' class for that kind of server, not started yet."""
    return CLASSES[kind](image, **options).with_command(command).with_envs(**env)


def full(image: str) -> str:
    """The image's name as testcontainers uses it, prefixed with TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX."""
    return testcontainers_config.hub_image_name_prefix + image


def binding(container: DockerContainer, network: str) -> Any:
    """The address that the engine publishes the port on, for this machine only. Inside a container that is the gateway
    of the lab's `network`. For an engine elsewhere it is every interface, which is None.
    """
    client = container.get_docker_client()
    mode = client.get_connection_mode()
    if mode is ConnectionMode.gateway_ip:
        return _gateway(client.client.networks.get(network).attrs["IPAM"]["Config"][0]), None
    elsewhere = mode is ConnectionMode.docker_host and client.host() not in LOCALHOSTS
    return None if elsewhere else (LOOPBACK, None)


def _gateway(pool: dict[str, str]) -> str:
    """An engine that was given the subnet may not report its gateway: it is the first address."""
    gateway = pool.get("Gateway") or str(next(ip_network(pool["Subnet"]).hosts()))
    return gateway.partition("/")[0]


def place(container: DockerContainer, port: int) -> tuple[str, int] | None:
    """The address to dial the server at; the port changes with every start. None while there is none."""
    client = container.get_docker_client()
    try:
        host = container.get_container_host_ip()
        mapped = client.get_connection_mode().use_mapped_port
        return (LOOPBACK if host in LOCALHOSTS else host), int(
            client.port(container.get_container_id(), port) if mapped else port
        )
    except (ConnectionError, KeyError):
        return None  # it has ended, or is off its network


def address(container: DockerContainer, network: str) -> str | None:
    """Its address on a network, None while it has none."""
    return _fresh(container).attrs["NetworkSettings"]["Networks"].get(network, {}).get("IPAddress") or None


def last_line(container: DockerContainer) -> str:
    """The last line that the container wrote."""
    lines = container.get_wrapped_container().logs(tail=LINES).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _fresh(container: DockerContainer) -> Any:
    """The container, with the engine's current view of it."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    return wrapped


def pause(container: DockerContainer) -> None:
    """Freezes a running container; does nothing to any other.

    With cgroups v1, runc tries for a few milliseconds, then thaws what it has frozen and gives up. On a busy machine
    that is too short, so it is asked again.
    """
    _turn(container, "running", "pause", unless=BUSY)


def resume(container: DockerContainer) -> None:
    """Thaws a paused container; does nothing to any other.

    containerd notifies the engine of what is paused. Under load that notice is so late that the engine lists a thawed
    container as paused again: poll until it has heard of the thaw as well.
    """
    _turn(container, "paused", "unpause", unless=RUNS)


def _turn(container: DockerContainer, status: str, call: str, unless: str) -> None:
    """Calls it while the container has that status, again if the engine refuses with the words `unless`."""
    until = time.monotonic() + FREEZER_TIMEOUT
    while (fresh := _fresh(container)).status == status:
        try:
            getattr(fresh, call)()
            return
        except APIError as error:
            if unless not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.02)


def kill(container: DockerContainer) -> None:
    """SIGKILL, to a paused container too; does nothing to one that has ended."""
    try:
        container.get_wrapped_container().kill()
    except APIError as error:
        if error.status_code != requests.codes.conflict:  # 409: it is not running
            raise


def write_file(container: DockerContainer, path: str, text: str) -> None:
    """Writes a world-readable file into the container, running or not."""
    where, data, archive = PurePosixPath(path), text.encode(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(where.name)
        entry.size, entry.mode = len(data), 0o644
        tar.addfile(entry, io.BytesIO(data))
    container.get_wrapped_container().put_archive(str(where.parent), archive.getvalue())


def exit_code(container: DockerContainer) -> int:
    """Waits for the end of the container; -1 if the engine cannot report it any more."""
    with contextlib.suppress(DockerException, requests.RequestException):
        return int(container.get_wrapped_container().wait(timeout=None)["StatusCode"])
    return -1
