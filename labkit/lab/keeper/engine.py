"""The Docker engine: how it is reached, what it holds of a lab, and what its refusals mean in one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import psutil
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import IPAMConfig, IPAMPool, Mount
from testcontainers.core.docker_client import DockerClient

from labkit.lab.keeper.folders import abandoned

__all__ = [
    "EngineError",
    "explained",
    "has_image",
    "held",
    "is_taken",
    "labels",
    "network_options",
    "pull",
    "reach",
    "remove",
    "sweep",
    "volumes_of",
]

LAB, FOLDER, KEEPER, MACHINE = "labkit.lab", "labkit.folder", "labkit.keeper", "labkit.machine"
"""Labels of all that a lab has on an engine: its name, its keeper's folder, PID and machine."""
PATIENCE = 30.0
"""Seconds an engine may take to answer a call."""
FIRST_PATIENCE = 3.0
"""Seconds an engine may take to say that it is there."""
SOCKET = "unix:///var/run/docker.sock"
ROUNDS = 20


class EngineError(Exception):
    """The engine cannot do it; the text says why and what to do, in one line."""


def reach(environment: dict[str, str] | None = None) -> docker.DockerClient:
    """A client of the engine that testcontainers would take: its properties file, DOCKER_HOST, Docker's context.

    Given an `environment`, that alone says where the engine is. Raises `EngineError` where none answers.
    """
    try:
        if environment is None:
            client = DockerClient(timeout=FIRST_PATIENCE).client  # which notes the choice in DOCKER_HOST
        else:
            by_shell = environment.get("DOCKER_HOST", "").startswith("ssh://")
            client = docker.from_env(environment=environment, timeout=FIRST_PATIENCE, use_ssh_client=by_shell)
        client.ping()
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        raise EngineError(explained(error)) from error
    client.api.timeout = PATIENCE
    return client


def has_image(client: docker.DockerClient, image: str) -> bool:
    """Whether the engine has the image, so that nothing need be pulled."""
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def pull(client: docker.DockerClient, image: str) -> None:
    """Has the engine fetch the image; `EngineError` says what else can be done."""
    try:
        client.images.pull(image)
    except (DockerException, requests.RequestException) as error:
        raise EngineError(f"image {image} is not here and cannot be pulled: {explained(error)}") from error


def labels(folder: Path) -> dict[str, str]:
    """What a keeper puts on all that it has on an engine, so that it is found again."""
    return {LAB: folder.name, FOLDER: str(folder), KEEPER: str(os.getpid()), MACHINE: _machine()}


def volumes_of(client: docker.DockerClient, image: str, folder: Path) -> list[Mount]:
    """The volumes that the image asks for, labelled, since nothing else tells whose a volume is."""
    paths = client.images.get(image).attrs["Config"].get("Volumes") or {}
    return [Mount(target=path, source=None, type="volume", labels=labels(folder)) for path in paths]


def network_options(client: docker.DockerClient, folder: Path, *, fixed: bool) -> dict[str, Any]:
    """What a lab's network is made with. `fixed`: containers can keep their addresses, which takes a range of addresses
    that the engine is told instead of choosing it; we tell it the one that it would choose.
    """
    options: dict[str, Any] = {"labels": labels(folder)}
    if fixed:
        probe = client.networks.create(f"{folder.name}-probe", **options)
        try:
            pools = probe.attrs["IPAM"]["Config"] or client.networks.get(probe.id).attrs["IPAM"]["Config"]
        finally:
            probe.remove()
        options["ipam"] = IPAMConfig(pool_configs=[IPAMPool(subnet=pool["Subnet"]) for pool in pools])
    return options


def is_taken(error: Exception) -> bool:
    """Whether a network could not be made since somebody else has its addresses now."""
    return isinstance(error, APIError) and "overlaps" in str(error)


def held(client: docker.DockerClient, lab: str | None = None) -> list[tuple[str, Any]]:
    """What the engine has of that lab, or of all labs: (kind, item), the kinds in the order of their removal."""
    filters = {"label": f"{LAB}={lab}" if lab else LAB}
    return [
        *(("container", item) for item in client.containers.list(all=True, filters=filters, ignore_removed=True)),
        *(("volume", item) for item in client.volumes.list(filters=filters)),
        *(("network", item) for item in client.networks.list(filters=filters)),
    ]


def remove(client: docker.DockerClient, lab: str) -> None:
    """Removes the containers of a lab, running, paused or dead, its volumes and its network.

    Goes round until there are none: the engine may still be finishing what it was asked before.
    """
    for _ in range(ROUNDS):
        items = held(client, lab)
        containers = [item for kind, item in items if kind == "container"]
        if containers:
            with ThreadPoolExecutor(len(containers)) as threads:
                list(threads.map(_remove_container, containers))
        for kind, item in items:
            if kind != "container":
                with suppress(APIError):  # gone with its container, or still in use: another round
                    item.remove()
        if not items:
            return


def sweep(client: docker.DockerClient) -> None:
    """Removes what keepers of this machine left that were killed before they could; others are let alone."""
    for lab in {_label(item, LAB) for _, item in held(client) if _is_orphan(item)}:
        remove(client, lab)


def explained(error: BaseException) -> str:
    """What went wrong between us and the engine, and what to do about it, in one line."""
    where = os.environ.get("DOCKER_HOST") or SOCKET
    for cause in _causes(error):
        if isinstance(cause, PermissionError):
            return f"no permission on the Docker engine at {where}: join its group (usually docker) and log in again"
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return f"no Docker engine at {where}: start Docker, or set DOCKER_HOST"
        if isinstance(cause, TimeoutError | requests.Timeout):
            return f"the Docker engine at {where} gives no answer: is it running well?"
        if isinstance(cause, APIError) and cause.explanation:
            return " ".join(str(cause.explanation).split())
    return f"the Docker engine at {where} cannot be used: {' '.join(str(error).split())}"


def _remove_container(container: Any) -> None:
    """409 is a removal that is under way already."""
    try:
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != requests.codes.conflict:
            raise


def _label(item: Any, name: str) -> str:
    held = item.attrs["Config"]["Labels"] if "Config" in item.attrs else item.attrs["Labels"]
    return str(held.get(name, ""))


def _is_orphan(item: Any) -> bool:
    """Whether its keeper, of this machine, is gone: nobody holds the folder's lock and no process has its PID.

    Both, since a keeper may see another /tmp than we do. A machine that shares the engine answers for its own, and so
    does another user whose folder is still there.
    """
    keeper = _label(item, KEEPER)
    if _label(item, MACHINE) != _machine() or not keeper.isdecimal() or _runs(int(keeper)):
        return False
    try:
        with abandoned(Path(_label(item, FOLDER))):
            return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """What has the same processes: elsewhere a PID is another one's, on the same machine too (in another namespace)."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/etc/machine-id").read_text().strip())
    with suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(filter(None, known))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and what either carries: urllib3 has the system's error among its arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            inner = [cause.__cause__, cause.__context__, *cause.args]
            waiting += [item for item in inner if isinstance(item, BaseException)]
