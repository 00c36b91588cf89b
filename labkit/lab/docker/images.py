"""What is needed to run a kind of server as a container: the image, and how it is set up."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Recipe", "image_of", "recipe"]

IMAGES = {"postgres": "postgres:18", "redis": "redis:8"}
"""The official images."""


@dataclass(frozen=True)
class Recipe:
    """How the containers of one backend are made."""

    kind: str
    image: str
    port: int
    """The port that the server listens on in the container."""
    options: dict[str, str]
    """What testcontainers' class for it is told."""
    command: list[str]
    env: dict[str, str]


def image_of(backend: str) -> str:
    """The image for a backend; LABKIT_POSTGRES_IMAGE and LABKIT_REDIS_IMAGE name others."""
    return os.environ.get(f"LABKIT_{backend.upper()}_IMAGE") or IMAGES[backend]


def recipe(backend: str) -> Recipe:
    """The recipe for a backend. An image of another name must start as the official one does."""
    backend = "redis" if backend == "redis-cluster" else backend
    if backend == "postgres":
        from labkit.lab import postgres

        settings = [word for name, value in postgres.SETTINGS.items() for word in ("-c", f"{name}={value}")]
        options = {"username": postgres.USER, "dbname": postgres.DATABASE}
        env = {
            "POSTGRES_HOST_AUTH_METHOD": "trust",  # the port is open to this machine only
            "POSTGRES_INITDB_ARGS": " ".join(postgres.INITDB),
        }
        return Recipe(backend, image_of(backend), postgres.PORT, options, ["postgres", *settings], env)
    from labkit.lab import redis

    # Without a password a Redis talks to its own machine only, and a container is a machine.
    command = ["redis-server", *redis.SETTINGS, "--protected-mode", "no"]
    return Recipe(backend, image_of(backend), redis.PORT, {}, command, {})
