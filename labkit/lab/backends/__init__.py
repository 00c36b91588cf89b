"""The kinds of servers that a lab can have, seen from their client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.errors import UsageError
from labkit.faults.base import BACKENDS

if TYPE_CHECKING:
    from labkit.lab.backends.base import Backend

__all__ = ["BACKENDS", "backend"]


def backend(name: str, **options: Any) -> Backend:
    """The backend of that name. `UsageError` for an unknown one, and for `options` of a cluster on any other."""
    if name == "redis-cluster":
        from labkit.lab.cluster.backend import RedisClusterBackend

        return RedisClusterBackend(**options)
    given = [f"{option}={value!r}" for option, value in options.items() if value]
    if given and name in BACKENDS:
        raise UsageError(f"{', '.join(given)}: only a cluster has that; start Lab('redis-cluster')")
    if name == "postgres":
        from labkit.lab.backends.postgres import PostgresBackend

        return PostgresBackend()
    if name == "redis":
        from labkit.lab.backends.redis import RedisBackend

        return RedisBackend()
    raise UsageError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
