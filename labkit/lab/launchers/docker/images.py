"""What is needed to run a kind of server as a container: the image, and how it is set up."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from labkit.lab.access import ADMIN

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
    options: dict[str, str] = field(repr=False)
    """What testcontainers' class for it is told."""
    command: list[str]
    env: dict[str, str] = field(repr=False)


def image_of(backend: str) -> str:
    """The image for a backend; LABKIT_POSTGRES_IMAGE and LABKIT_REDIS_IMAGE name others."""
    return os.environ.get(f"LABKIT_{backend.upper()}_IMAGE") or IMAGES[backend]


def recipe(backend: str, credentials: str) -> Recipe:
    """The recipe for a backend, with its `credentials`. An image of another name must start as the official one does.

    A command can be read by all who use the machine, and has hashes only; so has the environment.
    """
    backend = "redis" if backend == "redis-cluster" else backend
    if backend == "postgres":
        from labkit.lab.backends import postgres

        settings = [word for name, value in postgres.SETTINGS.items() for word in ("-c", f"{name}={value}")]
        options = {"username": ADMIN, "password": credentials, "dbname": postgres.DATABASE}
        env = {
            "POSTGRES_HOST_AUTH_METHOD": "scram-sha-256",
            "POSTGRES_INITDB_ARGS": " ".join(postgres.INITDB),
        }
        return Recipe(backend, image_of(backend), postgres.PORT, options, ["postgres", *settings], env)
    from labkit.lab.backends import redis

    users = [word for line in credentials.splitlines() for word in f"--{line}".split()]
    command = ["redis-server", *redis.SETTINGS, *users]
    return Recipe(backend, image_of(backend), redis.PORT, {}, command, {})
