"""URLs of Redis servers: of one, or of several nodes of a cluster."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url

from labkit.errors import UsageError

__all__ = ["as_url", "cluster_addresses", "options_of", "shown"]

PORT = 6379
CLUSTER = ("redis+cluster", "rediss+cluster", "redis", "rediss")


def as_url(url: str) -> str:
    """`url`, which is one of a server; `UsageError`, without the URL, where it is not."""
    try:
        parts = urlsplit(url)
        database = parts.path.strip("/")
        server = parts.scheme in ("redis", "rediss") and parts.netloc and (not database or database.isdecimal())
        known = (server and parts.port != 0) or (parts.scheme == "unix" and database)
    except (ValueError, TypeError, AttributeError):
        known = False
    if not known:
        raise UsageError("not a Redis URL; write redis://host:port/0 (or rediss://, unix://)")
    return url


def options_of(url: str) -> dict[str, Any]:
    """What redis-py is told of a URL that was checked: password, TLS, options; host and port are the first node's."""
    scheme, separator, rest = url.partition("://")
    user, at, hosts = _authority(rest).rpartition("@")
    tail = rest[len(_authority(rest)) :]
    return dict(parse_url(f"{scheme.removesuffix('+cluster')}{separator}{user}{at}{hosts.split(',')[0]}{tail}"))


def cluster_addresses(url: str) -> tuple[tuple[str, int], ...]:
    """(host, port) of each node that the URL of a cluster names, `redis+cluster://[user:password@]host:port,host:port`.

    Raises `UsageError`, without the URL, for one of another kind, and for a database other than 0, since a cluster
    has no other.
    """
    try:
        scheme, _, rest = url.partition("://")
        parts = urlsplit(url)
        found = tuple(_address(host) for host in _authority(rest).rpartition("@")[2].split(","))
        known = scheme in CLUSTER and parts.path.strip("/") in ("", "0") and len(set(found)) == len(found)
    except (ValueError, TypeError, AttributeError):
        known = False
    if not known:
        raise UsageError(
            "not the URL of a Redis Cluster; write redis+cluster://host:port,host:port (or rediss+cluster://), "
            "database 0 or none, each node once"
        )
    return found


def shown(url: str) -> str:
    """The URL without what may hold a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _authority(rest: str) -> str:
    """Of what follows ://, the part up to the path, query or fragment."""
    ends = [place for sign in "/?#" if (place := rest.find(sign)) >= 0]
    return rest[: min(ends, default=len(rest))]


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    port = PORT if parts.port is None else parts.port
    if not parts.hostname or not port:
        raise ValueError(host)
    return parts.hostname, port
