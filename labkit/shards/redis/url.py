"""URLs of Redis servers: of one, or of several nodes of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

from labkit.errors import UsageError
from labkit.shards.secrets import Secrets
from labkit.shards.urls import AMBIGUOUS, check_options, tried

__all__ = ["as_url", "cluster_addresses", "cluster_options", "options_of", "secrets_of", "shown"]

PORT = 6379
CLUSTER = ("redis+cluster", "rediss+cluster", "redis", "rediss")
OPTIONS = frozenset({"db", "username", "password", "client_name", "health_check_interval"})
"""What a URL may say after its ?, as redis-py calls it."""
OF_TCP = frozenset({"socket_keepalive"})
OF_TLS = frozenset(
    {"ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"}
    | {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_ciphers"}
    | {"ssl_include_verify_flags", "ssl_exclude_verify_flags"}
)
IGNORED = frozenset(
    {"protocol", "socket_timeout", "socket_connect_timeout", "retry_on_timeout", "max_connections", "socket_read_size"}
)
"""What it may say for other programs: here a read has a deadline and no retry, and the rest is ours as well."""


def as_url(url: str) -> str:
    """`url`, which is one of a server; `UsageError`, without the URL, where it is not."""
    try:
        parts = urlsplit(url)
        database = parts.path.strip("/")
        server = parts.scheme in ("redis", "rediss") and parts.netloc and (not database or database.isdecimal())
        known = (server and parts.port != 0) or (parts.scheme == "unix" and database)
        known = known and url.partition("://")[0].lower() == parts.scheme  # which may have lost white space
    except (ValueError, TypeError, AttributeError):
        known = False
    _check_authority(url)
    if not known:
        raise UsageError("not a Redis URL; write redis://host:port/0 (or rediss://, unix://)")
    return url


def options_of(url: str) -> dict[str, Any]:
    """What redis-py is told of a URL that was checked: password, TLS, options; host and port are the first node's.

    Options that are not for us are left out. Raises `UsageError`, without the URL, for one that is unknown, or would
    change what answers are made of as `decode_responses` does, and for a value that redis-py does not take.
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

    def told(names: Collection[str]) -> dict[str, Any]:
        query = urlencode([(name, value) for name, value in given if name in names])
        return {name: value for name, value in dict(parse_url(f"{plain}?{query}")).items() if name not in IGNORED}

    def make(names: Collection[str]) -> object:
        options = told(names)
        kind: Any = options.pop("connection_class", Connection)
        return kind(**options)

    names = [name for name, _ in given]
    if names:
        tried(names, make, TypeError, ValueError, OSError, RedisError)
    return told(names)


def cluster_options(url: str) -> dict[str, Any]:
    """The same of the URL of a cluster; `UsageError` as well for a database other than 0."""
    options = options_of(url)
    if options.get("db"):
        raise UsageError("a Redis Cluster has no database but 0: leave the URL's option db out")
    return options


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
    _check_authority(url)
    if not known:
        raise UsageError(
            "not the URL of a Redis Cluster; write redis+cluster://host:port,host:port (or rediss+cluster://), "
            "database 0 or none, each node once"
        )
    return found


def secrets_of(options: Mapping[str, Any]) -> Secrets:
    """What of the options of `options_of` a server may repeat and nobody is to see; a user where no password is."""
    password, user = options.get("password"), options.get("username")
    return Secrets(password or user, options.get("ssl_password"), public=[user] if password else [])


def shown(url: str) -> str:
    """The URL without what may hold a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _authority(rest: str) -> str:
    """Of what follows ://, the part up to the path, query or fragment."""
    ends = [place for sign in "/?#" if (place := rest.find(sign)) >= 0]
    return rest[: min(ends, default=len(rest))]


def _check_authority(url: Any) -> None:
    """What is behind the host has no @, which would be the end of a password."""
    rest = url.partition("://")[2] if isinstance(url, str) else ""
    if "@" in rest[len(_authority(rest)) :]:
        raise UsageError(AMBIGUOUS)


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    port = PORT if parts.port is None else parts.port
    if not parts.hostname or not port:
        raise ValueError(host)
    return parts.hostname, port
