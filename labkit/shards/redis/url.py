"""URLs of a Redis server, or of nodes of a Redis Cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

from labkit.errors import UsageError
from labkit.shards.secrets import Secrets
from labkit.shards.urls import AMBIGUOUS, check_options, check_values

__all__ = ["as_url", "cluster_addresses", "cluster_options", "options_of", "secrets_of", "shown"]

PORT = 6379
CLUSTER = ("redis+cluster", "rediss+cluster", "redis", "rediss")
OPTIONS = frozenset({"db", "username", "password", "client_name", "health_check_interval"})
"""Options allowed after the ? of a URL, under redis-py's names."""
OF_TCP = frozenset({"socket_keepalive"})
OF_TLS = frozenset(
    {"ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"}
    | {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_ciphers"}
    | {"ssl_include_verify_flags", "ssl_exclude_verify_flags"}
)
IGNORED = frozenset(
    {"protocol", "socket_timeout", "socket_connect_timeout", "retry_on_timeout", "max_connections", "socket_read_size"}
)
"""Accepted for the sake of other programs, without effect: here a read has a deadline and no retry."""


def as_url(url: str) -> str:
    """`url` if it is the URL of a server; else `UsageError`, which does not repeat it."""
    try:
        parts = urlsplit(url)
        database = parts.path.strip("/")
        server = parts.scheme in ("redis", "rediss") and parts.netloc and (not database or database.isdecimal())
        known = (server and parts.port != 0) or (parts.scheme == "unix" and database)
        known = known and url.partition("://")[0].lower() == parts.scheme  # urlsplit strips white space
    except (ValueError, TypeError, AttributeError):
        known = False
    _check_authority(url)
    if not known:
        raise UsageError("not a Redis URL; write redis://host:port/0 (or rediss://, unix://)")
    return url


def options_of(url: str) -> dict[str, Any]:
    """The keyword arguments for redis-py from a checked URL: password, TLS, options; host and port of the first node.

    Ignored options are left out. Raises `UsageError`, without the URL, for an option that is unknown or would change
    the type of answers, as `decode_responses` does, and for a value that redis-py rejects.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower().removesuffix("+cluster")
    user, at, hosts = _authority(rest).rpartition("@")
    tail = rest[len(_authority(rest)) :]
    known = OPTIONS | {"unix": frozenset(), "redis": OF_TCP, "rediss": OF_TCP | OF_TLS}[scheme]
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    check_options(given, known, ignored=IGNORED)
    plain = f"{scheme}{separator}{user}{at}{hosts.split(',')[0]}{tail.partition('?')[0]}"

    def parsed(names: Collection[str]) -> dict[str, Any]:
        query = urlencode([(name, value) for name, value in given if name in names])
        return {name: value for name, value in dict(parse_url(f"{plain}?{query}")).items() if name not in IGNORED}

    def make(names: Collection[str]) -> object:
        options = parsed(names)
        kind: Any = options.pop("connection_class", Connection)
        return kind(**options)

    names = [name for name, _ in given]
    if names:
        check_values(names, make, TypeError, ValueError, OSError, RedisError)
    return parsed(names)


def cluster_options(url: str) -> dict[str, Any]:
    """The same for the URL of a cluster; also raises `UsageError` for a database other than 0."""
    options = options_of(url)
    if options.get("db"):
        raise UsageError("a Redis Cluster has no database but 0: leave the URL's option db out")
    return options


def cluster_addresses(url: str) -> tuple[tuple[str, int], ...]:
    """(host, port) of each node that the URL of a cluster names, `redis+cluster://[user:password@]host:port,host:port`.

    Raises `UsageError`, without the URL, for a URL of another kind, and for a database other than 0, since a cluster
    has no other.
    """
    try:
        scheme, _, rest = url.partition("://")
        parts = urlsplit(url)
        found = tuple(_address(host) for host in _authority(rest).rpartition("@")[2].split(","))
        known = scheme in CLUSTER and parts.path.strip("/") in ("", "0") and len(set(found)) == len(found)
    except (ValueError, TypeError, AttributeError):
        known = False
    _check_authority(url)
    if not known:
        raise UsageError(
            "not the URL of a Redis Cluster; write redis+cluster://host:port,host:port (or rediss+cluster://), "
            "database 0 or none, each node once"
        )
    return found


def secrets_of(options: Mapping[str, Any]) -> Secrets:
    """The secrets among the options of `options_of`: passwords, or the user name if there is no password."""
    password, user = options.get("password"), options.get("username")
    return Secrets(password or user, options.get("ssl_password"), public=[user] if password else [])


def shown(url: str) -> str:
    """The URL without any part that may hold a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _authority(rest: str) -> str:
    """The part of `rest`, the URL after ://, before the path, query or fragment."""
    ends = [place for sign in "/?#" if (place := rest.find(sign)) >= 0]
    return rest[: min(ends, default=len(rest))]


def _check_authority(url: Any) -> None:
    """Raises `UsageError` if an @ follows the host: it would end a password."""
    rest = url.partition("://")[2] if isinstance(url, str) else ""
    if "@" in rest[len(_authority(rest)) :]:
        raise UsageError(AMBIGUOUS)


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    port = PORT if parts.port is None else parts.port
    if not parts.hostname or not port:
        raise ValueError(host)
    return parts.hostname, port
