"""Where a proxy listens and what is behind it, as text: addresses, URLs, and the same URL through the proxy.

No error repeats a URL: any part of it may be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from labkit._checks import shown
from labkit.errors import UsageError
from labkit.lab.proxy.dial import Upstream
from labkit.lab.proxy.door import LOOPBACK, Address
from labkit.topology.url import CLUSTER, POSTGRES, REDIS

__all__ = ["URL", "Route", "listen_address", "of_url", "route", "text_of", "upstream_of", "with_address"]

ARROW = "->"
WRITE = "write host:port, listen->host:port, or a URL such as postgresql://user@host:5432/database"
DEFAULT_PORTS = {**dict.fromkeys(POSTGRES, 5432), **dict.fromkeys(REDIS, 6379)}
MAX_PORT = 65535
URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/?#]*@)?(?P<hosts>[^/?#@]*)(?P<path>[^?#]*)(?P<rest>.*)"
)
KINDS = {**dict.fromkeys(POSTGRES, "postgres"), **dict.fromkeys(REDIS, "redis")}
"""The kind of server, by the scheme of its URL."""


@dataclass(frozen=True)
class Route:
    """Clients of `listen` (port 0: any free one) reach `upstream`."""

    listen: Address
    upstream: Upstream
    url: str | None = None
    """The server's URL, if it was given."""

    @property
    def kind(self) -> str:
        """The kind of server, "" if it is not known."""
        return KINDS.get((self.url or "").partition("://")[0].lower(), "")


def route(text: Any) -> Route:
    """The route that a text describes; `UsageError` if it describes none."""
    if not isinstance(text, str):
        raise UsageError(f"{shown(text)} is not an address: {WRITE}")
    before, arrow, after = text.partition(ARROW)
    if not arrow or "://" in before:
        before, after = "", text
    listen = listen_address(before.strip()) if before.strip() else LOOPBACK
    if "://" in after:
        return of_url(after.strip(), listen)
    return Route(listen, upstream_of(after.strip()))


def of_url(url: str, listen: Address = LOOPBACK) -> Route:
    """The route to the server that a URL names."""
    found = URL.fullmatch(url)
    if found is None:
        raise UsageError(f"its URL is not one: {WRITE}")
    scheme, hosts = found["scheme"].lower(), found["hosts"]
    if scheme in CLUSTER:
        raise UsageError(
            "the nodes of a Redis Cluster announce their own addresses, so clients would go past a proxy: put each "
            "node behind a proxy of its own (host:port) and have it announce that one (cluster-announce-port)"
        )
    if scheme == "unix":
        return Route(listen, _path(unquote(found["path"])), url)
    options = dict(parse_qsl(found["rest"].removeprefix("?"))) if scheme in POSTGRES else {}
    if not hosts and options.get("host", "").startswith("/"):
        port = options.get("port", str(DEFAULT_PORTS[scheme]))
        return Route(listen, _path(f"{options['host']}/.s.PGSQL.{port}"), url)
    if {"host", "port", "hostaddr"} & options.keys() or "," in hosts or not hosts:
        raise UsageError("its URL must name one server, as in postgresql://user@host:5432/database")
    if not hosts.rpartition("]")[2].count(":") and scheme in DEFAULT_PORTS:
        hosts = f"{hosts}:{DEFAULT_PORTS[scheme]}"
    try:
        return Route(listen, _host_and_port(hosts), url)
    except ValueError:
        raise UsageError("its URL has no valid host and port: write redis://host:6379 with a port from 1 on") from None


def with_address(url: str, address: str) -> str:
    """The URL with this address (host:port) in place of the server's; all else stays as it is written."""
    found = URL.fullmatch(url)
    if found is None:
        raise UsageError(f"its URL is not one: {WRITE}")
    scheme, path, rest = found["scheme"], found["path"], found["rest"]
    if scheme.lower() == "unix":
        scheme, path = "redis", ""
    elif scheme.lower() in POSTGRES and not found["hosts"]:
        kept = [(name, value) for name, value in parse_qsl(rest.removeprefix("?")) if name not in ("host", "port")]
        rest = f"?{urlencode(kept)}" if kept else ""
    return f"{scheme}://{found['user'] or ''}{address}{path}{rest}"


def listen_address(text: str) -> Address:
    """An address to listen at: of this machine alone, unless another one is written out in digits.

    `5541`, `:5541` and `localhost:5541` are 127.0.0.1:5541.
    """
    try:
        host, port = _host_and_port(f":{text}" if text.isdecimal() else text, least=0)
        return str(ip_address({"": "127.0.0.1", "localhost": "127.0.0.1"}.get(host.lower(), host))), port
    except ValueError:
        raise UsageError(
            f"cannot listen at {shown(text)}: write an address in digits and a port, such as 127.0.0.1:5541"
        ) from None


def upstream_of(text: str) -> Upstream:
    """A server's (host, port), or the path of its unix socket."""
    if text.startswith("/"):
        return _path(text)
    try:
        host, port = _host_and_port(text)
    except ValueError:
        host, port = "", 0
    if not host or "@" in host:
        raise UsageError(f"{'that' if '@' in text else shown(text)} is not an address: {WRITE}")
    return host, port


def text_of(place: Upstream) -> str:
    """The address as it is written."""
    if isinstance(place, str):
        return place
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_and_port(text: str, least: int = 1) -> tuple[str, int]:
    """ValueError unless it is host:port or [address]:port."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or not least <= int(port) <= MAX_PORT:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        host = str(ip_address(host[1:-1]))
    elif ":" in host or re.search(r"[\s/\[\]]", host):
        raise ValueError(text)
    return host, int(port)


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise UsageError("the path of a unix socket must be absolute: /var/run/redis.sock")
    return path
