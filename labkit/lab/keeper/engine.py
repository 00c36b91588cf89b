"""The Docker engine: how to reach it, what it holds for a lab, and its refusals explained in one line."""

from __future__ import annotations

import os
import re
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
    "place",
    "pull",
    "reach",
    "remove",
    "sweep",
    "volumes_of",
]

LAB, FOLDER, KEEPER, MACHINE = "labkit.lab", "labkit.folder", "labkit.keeper", "labkit.machine"
"""Labels of everything that a lab has on an engine: its name, its keeper's folder, PID and machine."""
CALL_TIMEOUT = 30.0
"""Seconds an engine may take to answer a call."""
PING_TIMEOUT = 3.0
"""Seconds an engine may take to answer the first ping."""
SOCKET = "unix:///var/run/docker.sock"
ROUNDS = 20


class EngineError(Exception):
    """The engine cannot do it; the text says why and what to do, in one line."""


def reach(environment: dict[str, str] | None = None) -> docker.DockerClient:
    """A client of the engine that testcontainers would use: by its properties file, DOCKER_HOST, Docker's context.

    An `environment`, if given, alone decides which engine. Raises `EngineError` if none answers.
    """
    try:
        if environment is None:
            client = DockerClient(timeout=PING_TIMEOUT).client  # which sets DOCKER_HOST to its choice
        else:
            by_shell = environment.get("DOCKER_HOST", "").startswith("ssh://")
            client = docker.from_env(environment=environment, timeout=PING_TIMEOUT, use_ssh_client=by_shell)
        client.ping()
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        raise EngineError(explained(error)) from error
    client.api.timeout = CALL_TIMEOUT
    return client


def has_image(client: docker.DockerClient, image: str) -> bool:
    """Whether the engine has the image, so that no pull is needed."""
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def pull(client: docker.DockerClient, image: str) -> None:
    """Has the engine pull the image; `EngineError` if it cannot."""
    try:
        client.images.pull(image)
    except (DockerException, requests.RequestException) as error:
        raise EngineError(f"image {image} is not here and cannot be pulled: {explained(error)}") from error


def labels(folder: Path) -> dict[str, str]:
    """The labels that a keeper puts on everything it makes on an engine, to find it again."""
    return {LAB: folder.name, FOLDER: str(folder), KEEPER: str(os.getpid()), MACHINE: _machine()}


def volumes_of(client: docker.DockerClient, image: str, folder: Path) -> list[Mount]:
    """The volumes that the image declares, labelled: nothing else says which lab a volume belongs to."""
    paths = client.images.get(image).attrs["Config"].get("Volumes") or {}
    return [Mount(target=path, source=None, type="volume", labels=labels(folder)) for path in paths]


def network_options(client: docker.DockerClient, folder: Path, *, fixed: bool) -> dict[str, Any]:
    """Options to make a lab's network with. `fixed`: containers can keep their addresses. That needs an explicit
    subnet: we pass the one that the engine would choose.
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
    """Whether a network could not be made because another one has its subnet now."""
    return isinstance(error, APIError) and "overlaps" in str(error)


def held(client: docker.DockerClient, lab: str | None = None) -> list[tuple[str, Any]]:
    """What the engine holds for that lab, or for all labs: (kind, item), in the order of removal."""
    filters = {"label": f"{LAB}={lab}" if lab else LAB}
    return [
        *(("container", item) for item in client.containers.list(all=True, filters=filters, ignore_removed=True)),
        *(("volume", item) for item in client.volumes.list(filters=filters)),
        *(("network", item) for item in client.networks.list(filters=filters)),
    ]


def remove(client: docker.DockerClient, lab: str) -> None:
    """Removes the containers of a lab, running, paused or dead, its volumes and its network.

    Repeats until nothing is left: the engine may still be finishing earlier requests.
    """
    for _ in range(ROUNDS):
        items = held(client, lab)
        containers = [item for kind, item in items if kind == "container"]
        if containers:
            with ThreadPoolExecutor(len(containers)) as threads:
                list(threads.map(_remove_container, containers))
        for kind, item in items:
            if kind != "container":
                with suppress(APIError):  # removed with its container, or still in use: next round
                    item.remove()
        if not items:
            return


def sweep(client: docker.DockerClient) -> None:
    """Removes what killed keepers of this machine left behind; leaves everything else alone."""
    for lab in {_label(item, LAB) for _, item in held(client) if _is_orphan(item)}:
        remove(client, lab)


def explained(error: BaseException) -> str:
    """One line on what went wrong with the engine, and what to do about it."""
    where = place()
    for cause in _causes(error):
        if isinstance(cause, PermissionError):
            return f"no permission on the Docker engine at {where}: join its group (usually docker) and log in again"
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return f"no Docker engine at {where}: start Docker, or set DOCKER_HOST"
        if isinstance(cause, TimeoutError | requests.Timeout):
            return f"the Docker engine at {where} does not answer: is it healthy?"
        if isinstance(cause, APIError) and cause.explanation:
            return " ".join(str(cause.explanation).split())
    return f"the Docker engine at {where} cannot be used: {_masked(' '.join(str(error).split()))}"


def place() -> str:
    """Where the engine is looked for, without the password that a URL may have."""
    return _masked(os.environ.get("DOCKER_HOST") or SOCKET)


def _masked(text: str) -> str:
    return re.sub(r"(://[^\s:@/]*):\S*@", r"\1:***@", text)


def _remove_container(container: Any) -> None:
    """Ignores status 409: a removal already in progress."""
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
    """Whether its keeper ran on this machine and is gone: the folder's lock is free and no process has its PID.

    Both, since a keeper may see a different /tmp. Other machines that share the engine sweep their own, and so do other
    users whose folders still exist.
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
    """Identifies a PID namespace: elsewhere, even in another namespace of this machine, a PID means another process."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/etc/machine-id").read_text().strip())
    with suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(filter(None, known))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, and exceptions among their arguments, where urllib3 has the system's error."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            inner = [cause.__cause__, cause.__context__, *cause.args]
            waiting += [item for item in inner if isinstance(item, BaseException)]
