"""The Docker engine, the images that labs use, and Compose."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec

from labkit._imports import install
from labkit.cli.cluster import compose_command
from labkit.cli.doctor import Finding, State
from labkit.lab.launchers.docker import IMAGES, build_it, image_of

__all__ = ["containers", "image_name"]

PART = "Containers"
PATIENCE = 8.0
"""Seconds for everything that is asked of an engine, which may be silent, or answer a byte at a time."""


def image_name(image: str) -> str:
    """The name of a finding about an image."""
    return f"image {image}"


def containers() -> Iterator[Finding]:
    """The engine and its images, as the launcher "docker" would find them, and Docker Compose."""
    yield from _in_time(PATIENCE)
    compose = compose_command()
    if compose:
        yield Finding(PART, "Compose", State.OK, " ".join(compose))
    else:
        found = "neither `docker compose` nor docker-compose runs; for labkit cluster compose"
        yield Finding(PART, "Compose", State.MISSING, found, "apt-get install docker-compose")


def _in_time(patience: float) -> list[Finding]:
    """What the engine says within that time. The thread that asks it may outlive that, but not this process."""
    answers: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_engine()), daemon=True).start()
    try:
        return answers.get(timeout=patience)
    except queue.Empty:
        return [
            _no_engine(f"the Docker engine does not answer within {patience:g} s", "restart it, or set DOCKER_HOST")
        ]


def _engine() -> list[Finding]:
    if find_spec("testcontainers") is None:
        return [_no_engine("not looked for: no testcontainers", install("lab"))]
    from labkit.lab.keeper import engine

    try:
        with closing(engine.reach()) as client:
            from labkit.lab.keeper.blocking import full  # loads many modules, and is of no use without an engine

            images = [_image(kind, engine.has_image(client, full(image_of(kind)))) for kind in IMAGES]
            version = f"{client.version()['Version']} at {engine.place()}"
    except engine.EngineError as error:
        return [_no_engine(str(error))]
    except Exception as error:
        return [_no_engine(engine.explained(error))]
    return [Finding(PART, "Docker engine", State.OK, version), *images]


def _no_engine(found: str, fix: str = "") -> Finding:
    return Finding(PART, "Docker engine", State.MISSING, found, fix)


def _image(kind: str, here: bool) -> Finding:
    image = image_of(kind)
    if here:
        return Finding(PART, image_name(image), State.OK, "on the engine")
    fix = f"docker pull {image}, or {build_it(kind)}"
    return Finding(PART, image_name(image), State.MISSING, "not on the engine", fix)
