"""Without a usable Docker engine or image: "docker" fails with one clear line, "auto" falls back and says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab, errors, faults
from labkit.lab.launchers.docker import build_it
from tests.support.containers import of_labs
from tests.support.watching import folders

NOBODYS_PORT = "127.0.0.1:1"
"""A registry on this machine that refuses at once."""


KINDS = ["no socket", "nobody listens", "silent", *(["no permission"] if os.geteuid() else [])]
"""Root has every permission, so `test_permission` runs as another user."""


@pytest.fixture(params=KINDS)
def no_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The DOCKER_HOST of an unusable engine, and the expected message."""
    path = tmp_path / "docker.sock"
    host = f"unix://{path}"
    with socket.socket(socket.AF_UNIX) as listener:
        if request.param == "no socket":
            yield host, f"no Docker engine at {host}: start Docker, or set DOCKER_HOST"
            return
        listener.bind(str(path))
        if request.param == "nobody listens":
            yield host, f"no Docker engine at {host}: start Docker, or set DOCKER_HOST"
            return
        listener.listen()
        if request.param == "silent":
            yield host, f"the Docker engine at {host} does not answer: is it healthy?"
            return
        path.chmod(0)
        yield host, f"no permission on the Docker engine at {host}: join its group"


async def test_docker_that_cannot_be_used_is_one_clear_line(
    no_engine: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launcher "docker" says in one line what is wrong and what to do, and leaves nothing behind."""
    host, words = no_engine
    monkeypatch.setenv("DOCKER_HOST", host)
    before = folders()
    lab = Lab("redis", launcher="docker")
    with pytest.raises(errors.LabError) as caught:
        await lab.start()
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    assert lab.leftovers() == []
    assert folders() <= before


async def test_auto_falls_back_and_says_so(no_engine: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Launcher "auto" starts server processes and keeps the reason; the lab works like any other."""
    host, words = no_engine
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.delenv("LABKIT_LAUNCHER")
    async with Lab("redis", timeout=0.3) as lab:
        assert lab.launcher == "embedded"
        assert lab.launcher_reason.startswith(words)
        assert lab.launcher_reason in repr(lab)
        async with lab.fault(2, faults.Pause()):
            assert (await lab.read()).missing == ((11, 20), (41, 50))
        assert (await lab.read()).complete
    assert lab.leftovers() == []


DROP = """
import os, sys
from labkit.lab.keeper import engine
os.environ["DOCKER_HOST"] = "unix://" + sys.argv[1]
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    engine.reach()
except engine.EngineError as error:
    print(error)
"""


def test_permission(tmp_path: Path) -> None:
    """A socket closed to an ordinary user gives one line that names it and the group to join."""
    path = tmp_path / "docker.sock"
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(folder.stat().st_mode | 0o011)  # only the socket is closed to others, not its folders
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600 if os.geteuid() == 0 else 0)
        done = subprocess.run([sys.executable, "-c", DROP, str(path)], capture_output=True, text=True, timeout=30)
    line = f"no permission on the Docker engine at unix://{path}: join its group (usually docker) and log in again\n"
    assert (done.stdout, done.stderr) == (line, "")


async def test_without_testcontainers_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without testcontainers, an extra, "docker" says what to install, and "auto" starts server processes."""
    monkeypatch.setattr("labkit.lab.launchers.docker.find_spec", lambda name: None)
    with pytest.raises(
        errors.LabError, match="testcontainers is not installed: pip install 'sharded-read-lab\\[lab\\]'"
    ):
        await Lab("redis", launcher="docker").start()
    monkeypatch.delenv("LABKIT_LAUNCHER")
    async with Lab("redis") as lab:
        assert lab.launcher == "embedded"


@pytest.mark.docker
async def test_an_image_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a missing image, "docker" reports that it cannot be pulled; "auto" falls back without trying."""
    image = f"{NOBODYS_PORT}/nothing:1"
    monkeypatch.setenv("LABKIT_REDIS_IMAGE", image)
    before = of_labs()
    with pytest.raises(errors.LabError) as caught:
        await Lab("redis", launcher="docker").start()
    assert f"image {image} is not here and cannot be pulled: " in str(caught.value)
    assert "connection refused" in str(caught.value)
    assert f"check the name, or {build_it('redis')}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert of_labs() <= before
    monkeypatch.delenv("LABKIT_LAUNCHER")
    async with Lab("redis") as lab:
        assert lab.launcher == "embedded"
        assert lab.launcher_reason == (f"image {image} is not here: docker pull it, or {build_it('redis')}")
    assert of_labs() <= before


async def test_neither_containers_nor_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If "auto" can start neither processes nor containers, one line gives both reasons."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.delenv("LABKIT_LAUNCHER")

    def none(*_: object) -> None:
        raise errors.LabError("no redis-server here: it is nowhere")

    monkeypatch.setattr("labkit.lab.launchers.embedded.program", none)
    with pytest.raises(errors.LabError, match=r"no redis-server here: .* \(and no containers: no Docker engine at"):
        await Lab("redis").start()


def test_the_demo_says_what_it_took(no_engine: tuple[str, str]) -> None:
    """`labkit demo` shows the launcher and the reason; with --launcher docker it prints one line and exits 1."""
    host, words = no_engine
    plain = {key: value for key, value in os.environ.items() if key != "LABKIT_LAUNCHER"}
    environment = {**plain, "DOCKER_HOST": host, "COLUMNS": "300", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "labkit", "demo", "--backend", "redis", "--timeout", "1"]
    fallen_back = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (fallen_back.returncode, fallen_back.stderr) == (0, "")
    assert f"redis: 3 real servers, launcher embedded ({words}" in fallen_back.stdout
    refused = subprocess.run(
        [*command, "--launcher", "docker"], capture_output=True, text=True, timeout=60, env=environment
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"labkit: {words}")
    assert refused.stderr.count("\n") == 1
