"""Whether there is a Docker engine to test with, and containers as seen from outside a lab."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import docker
import pytest

from labkit.cli.cluster import compose_command
from labkit.lab.keeper import engine

NEEDED = os.environ.get("LABKIT_TEST_DOCKER") == "require"

LAUNCHERS = [pytest.param("embedded"), pytest.param("docker", marks=pytest.mark.docker)]
"""For tests that run with both launchers."""


ASK = """
from labkit.lab.launchers.docker import IMAGES, image_of
from labkit.lab.keeper import engine
try:
    client = engine.reach()
    missing = [image_of(name) for name in IMAGES if not engine.has_image(client, image_of(name))]
    print(f"no image {missing[0]} here: docker pull it, or build it (cluster/images/build)" if missing else "")
except engine.EngineError as error:
    print(error)
"""


@cache
def why_not() -> str | None:
    """Why containers cannot be used here, or None.

    Checked in another process: when it cannot connect, docker-py leaves a socket to the garbage collector.
    """
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip() or None


def why_no_compose() -> str | None:
    """Why no compose project can be started here, or None."""
    return None if compose_command() else "neither `docker compose` nor docker-compose is installed"


@contextmanager
def engine_client() -> Iterator[docker.DockerClient]:
    """A client of the engine that labs use."""
    client = engine.reach()
    try:
        yield client
    finally:
        client.close()


def of_labs() -> set[str]:
    """Names of the current containers, volumes and networks of labs of this test process and its children."""
    with engine_client() as client:
        return {str(item.name) for _, item in engine.held(client) if _is_ours(item)}


def _is_ours(item: Any) -> bool:
    """Whether its lab's folder is in this test process's TMPDIR."""
    return Path(engine._label(item, engine.FOLDER)).is_relative_to(tempfile.gettempdir())


def status_of(name: str) -> str:
    """The status that `docker ps` shows."""
    with engine_client() as client:
        return str(client.containers.get(name).status)


def tell(name: str, what: str) -> None:
    """Runs `docker pause`, `unpause` or `kill` behind the lab's back."""
    with engine_client() as client:
        getattr(client.containers.get(name), what)()
