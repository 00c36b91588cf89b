"""The Docker engine, without one: what its refusals mean, and which containers are removed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests
from docker.errors import APIError, DockerException
from testcontainers.core.config import ConnectionMode
from urllib3.exceptions import ProtocolError

from labkit.lab.keeper import blocking, engine
from labkit.lab.keeper.folders import LOCK

HERE = "unix:///run/some.sock"


def wrapped(cause: BaseException) -> DockerException:
    """A system error as docker-py raises it: nested among the arguments of the cause."""
    inner = requests.ConnectionError(ProtocolError("Connection aborted.", cause))
    outer = DockerException(f"Error while fetching server API version: {inner}")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            wrapped(FileNotFoundError(2, "No such file")),
            f"no Docker engine at {HERE}: start Docker, or set DOCKER_HOST",
        ),
        (wrapped(ConnectionRefusedError(111, "refused")), f"no Docker engine at {HERE}: start Docker, or set"),
        (wrapped(PermissionError(13, "denied")), f"no permission on the Docker engine at {HERE}: join its group"),
        (requests.ReadTimeout("read timed out"), f"the Docker engine at {HERE} does not answer"),
        (DockerException("Invalid bind\naddress"), f"the Docker engine at {HERE} cannot be used: Invalid bind address"),
        (APIError("500 Server Error", explanation="no space\n left on device"), "no space left on device"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """System errors are found at any depth; the engine's own messages are passed on."""
    monkeypatch.setenv("DOCKER_HOST", HERE)
    assert engine.explained(error).startswith(line)
    assert "\n" not in engine.explained(error)


def test_a_loop_of_causes_ends() -> None:
    """Errors that are each other's cause are visited once."""
    one, two = DockerException("one"), DockerException("two")
    one.__cause__, two.__cause__ = two, one
    assert "one" in engine.explained(one)


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("folder", "keeper", "machine", "orphan"),
    [
        ("gone", "ended", "ours", True),
        ("unlocked", "ended", "ours", True),
        ("locked", "ended", "ours", False),
        ("gone", "running", "ours", False),
        ("gone", "ended", "another", False),
        ("fifo", "ended", "ours", False),
        ("gone", "what is no number", "ours", False),
    ],
)
def test_only_what_nobody_can_own_is_an_orphan(
    folder: str, keeper: str, machine: str, orphan: bool, tmp_path: Path
) -> None:
    """A held lock, a running keeper or another machine: any one of them protects a container from removal."""
    home = tmp_path / "labkit-test"
    labels = engine.labels(home)
    labels[engine.KEEPER] = {"running": str(os.getpid()), "ended": str(ended_process())}.get(keeper, keeper)
    if machine == "another":
        labels[engine.MACHINE] = "elsewhere"
    if folder != "gone":
        home.mkdir()
        os.mkfifo(home / LOCK) if folder == "fifo" else (home / LOCK).touch()
    with open(home / LOCK if folder in ("locked", "unlocked") else os.devnull) as lock:
        if folder == "locked":
            fcntl.flock(lock, fcntl.LOCK_EX)
        container = SimpleNamespace(attrs={"Config": {"Labels": labels}})
        assert engine._is_orphan(container) is orphan
        assert engine._is_orphan(SimpleNamespace(attrs={"Labels": labels})) is orphan  # a network, a volume


@pytest.mark.namespaces
def test_what_another_pid_namespace_has_is_no_orphan(tmp_path: Path) -> None:
    """A container of another PID namespace is kept: neither its folder nor its keeper can be seen from here."""
    code = """
import json, pathlib
from labkit.lab.keeper import engine
print(json.dumps(engine.labels(pathlib.Path("/gone"))))
"""
    words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    told = subprocess.run(words, capture_output=True, check=True, timeout=30)
    labels = {**json.loads(told.stdout), engine.KEEPER: str(ended_process())}
    assert not engine._is_orphan(SimpleNamespace(attrs={"Labels": labels}))
    labels[engine.MACHINE] = engine.labels(tmp_path)[engine.MACHINE]
    assert engine._is_orphan(SimpleNamespace(attrs={"Labels": labels}))


def dialled(mode: ConnectionMode, host: str, **pool: str) -> Any:
    """The part of a container that says how it is reached."""
    network = SimpleNamespace(attrs={"IPAM": {"Config": [pool]}})
    client = SimpleNamespace(networks=SimpleNamespace(get=lambda name: {"labkit-net": network}[name]))
    told = SimpleNamespace(client=client, get_connection_mode=lambda: mode, host=lambda: host)
    return SimpleNamespace(get_docker_client=lambda: told)


@pytest.mark.parametrize(
    ("container", "binding"),
    [
        (dialled(ConnectionMode.docker_host, "localhost"), ("127.0.0.1", None)),
        (dialled(ConnectionMode.bridge_ip, "localhost"), ("127.0.0.1", None)),
        (dialled(ConnectionMode.bridge_ip, "192.0.2.1"), ("127.0.0.1", None)),
        (dialled(ConnectionMode.gateway_ip, "localhost", Gateway="192.0.2.9"), ("192.0.2.9", None)),
        (dialled(ConnectionMode.gateway_ip, "localhost", Subnet="192.0.2.0/24"), ("192.0.2.1", None)),
        (dialled(ConnectionMode.docker_host, "engine.example"), None),
    ],
)
def test_a_port_is_open_to_this_machine_only(container: Any, binding: Any) -> None:
    """A port is published to this machine only, or, by an engine elsewhere, on every interface."""
    assert blocking.binding(container, "labkit-net") == binding


class Stubborn:
    """An engine's item whose removal succeeds at the second attempt."""

    def __init__(self, engine_items: dict[str, list[Any]], error: Exception) -> None:
        self.items = engine_items
        self.error: Exception | None = error

    def remove(self, **_: Any) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        for kept in self.items.values():
            if self in kept:
                kept.remove(self)


def _refused(status: int) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response)


def test_removal_goes_round_until_nothing_is_held() -> None:
    """A removal already in progress or a network still in use is retried without an error."""
    items: dict[str, list[Any]] = {"containers": [], "volumes": [], "networks": []}
    items["containers"] = [Stubborn(items, _refused(409)), Stubborn(items, docker.errors.NotFound("gone"))]
    items["networks"] = [Stubborn(items, _refused(403))]
    client: Any = SimpleNamespace(
        **{kind: SimpleNamespace(list=lambda kind=kind, **_: list(items[kind])) for kind in items}
    )
    engine.remove(client, "labkit-test")
    assert items == {"containers": [], "volumes": [], "networks": []}


def test_what_the_engine_cannot_remove_is_an_error() -> None:
    """An engine error is raised rather than retried forever."""
    items: dict[str, list[Any]] = {"containers": [], "volumes": [], "networks": []}
    items["containers"] = [Stubborn(items, _refused(500))]
    client: Any = SimpleNamespace(
        **{kind: SimpleNamespace(list=lambda kind=kind, **_: list(items[kind])) for kind in items}
    )
    with pytest.raises(APIError):
        engine.remove(client, "labkit-test")
