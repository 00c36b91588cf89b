"""URLs of Postgres servers, as in libpq and SQLAlchemy, and the arguments of asyncpg made from them.

A URL takes precedence. What it omits comes from the environment: PGUSER, PGPASSWORD, PGPASSFILE, PGDATABASE, PGSSLMODE
and the TLS files (PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, PGSSLCRL); PGHOST and PGPORT if it names no host. No other
variable counts: neither those that choose another server (PGTARGETSESSIONATTRS, PGSERVICE) nor those that change the
protocol (PGOPTIONS, PGSSLNEGOTIATION).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from labkit.errors import UsageError
from labkit.shards.secrets import Secrets
from labkit.shards.urls import AMBIGUOUS, check_options, check_values

__all__ = ["STATEMENT_TIMEOUT", "as_url", "connect_args", "secrets_of", "shown"]

WRITE = "write postgresql+asyncpg://user@host:port/database"
STATEMENT_TIMEOUT = "statement_timeout"
"""`?statement_timeout=off` is for poolers that refuse it as a start-up parameter."""
OPTIONS = frozenset(
    {
        *("host", "port", "user", "password", "database", "passfile", "ssl", "sslmode", "target_session_attrs"),
        *("krbsrvname", "gsslib", STATEMENT_TIMEOUT),
    }
)
"""Options allowed after the ? of a URL: asyncpg's text settings, libpq's sslmode, and ours. Host and port may occur
more than once."""
IGNORED = frozenset({"prepared_statement_cache_size"})
"""An option of SQLAlchemy, without effect here."""
SSL = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
CHOICES = MappingProxyType(
    {
        "ssl": SSL,
        "sslmode": SSL,
        "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
        "gsslib": ("gssapi", "sspi"),
        STATEMENT_TIMEOUT: ("off",),
    }
)
"""The values that asyncpg accepts; it would only complain at the first read."""
_EMPTY = re.compile(r"[?&]([^=&?@/:]+)=?(?=&|$)")
"""An option without a value. SQLAlchemy drops those, so that `?ssl=` would mean no TLS."""
_PARTS = re.compile(r"://(?P<user>[^:/]*(?::[^@]*)?@)?(?P<behind>.*)", re.DOTALL)
_OPTION = re.compile(r"\?\w+=")


def as_url(url: str) -> URL:
    """`url`, parsed; `UsageError`, which does not repeat it, for a URL of another kind or with unknown options."""
    parsed = _parsed(url)
    if parsed is not None and parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+asyncpg")
    if parsed is None or parsed.drivername != "postgresql+asyncpg":
        raise UsageError(f"not a Postgres URL; {WRITE}")
    _check_parts(str(url))
    empty = [(name, "") for name in _EMPTY.findall(str(url))]
    check_options([*_options(parsed), *empty], OPTIONS, ignored=IGNORED)
    _check_values(parsed)
    return _with_ssl(parsed)


def shown(url: URL) -> str:
    """The URL without any part that may hold a password."""
    return URL.create(url.drivername, host=url.host, port=url.port, database=url.database).render_as_string()


def secrets_of(url: URL) -> Secrets:
    """The secrets in the URL and the environment, which a server may repeat."""
    asked = url.query.get("password")
    asked = (asked,) if isinstance(asked, str) else asked or ()
    return Secrets(url.password, *asked, os.environ.get("PGPASSWORD"), public=(url.username, url.database))


def connect_args(url: URL) -> dict[str, Any]:
    """The arguments of `asyncpg.connect`, such that only the documented environment variables count.

    Raises `UsageError` for an environment variable with an invalid value.
    """
    _, args = url.difference_update_query([STATEMENT_TIMEOUT]).get_dialect()().create_connect_args(url)
    arguments: dict[str, Any] = {"target_session_attrs": "any", "direct_tls": False, "gsslib": "gssapi", **args}
    for ours in (STATEMENT_TIMEOUT, *IGNORED):
        arguments.pop(ours, None)
    if arguments.get("host"):
        arguments.setdefault("port", 5432)
    else:
        _check_ports()
    if "ssl" not in arguments:
        arguments["ssl"] = _ssl_of_environment()
    return arguments


def _parsed(url: str) -> URL | None:
    """None if it is not a URL. The caller raises the error, since the library's contains the URL."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        return None


def _check_parts(url: str) -> None:
    """Raises `UsageError` for an @ after the host, as SQLAlchemy parses it: it would end a password; and for options
    before the host.
    """
    found = _PARTS.search(url)
    if found and ("@" in found["behind"] or _OPTION.search(found["user"] or "")):
        raise UsageError(AMBIGUOUS)


def _options(url: URL) -> list[tuple[str, str]]:
    """The options with their values; host and port once, however often they occur."""
    found = []
    for name, value in url.query.items():
        values = (value,) if isinstance(value, str) else value
        found += [(name, one) for one in (values[:1] if name in ("host", "port") else values)]
    return found


def _check_values(url: URL) -> None:
    for name, choices in CHOICES.items():
        value = url.query.get(name, choices[0])
        if value not in choices:
            raise UsageError(f"the URL's option {name} has an unknown value: write one of {', '.join(choices)}")

    def make(names: Collection[str]) -> object:
        some = url.set(query={name: value for name, value in url.query.items() if name in names})
        return some.get_dialect()().create_connect_args(some)

    check_values(url.query, make, ArgumentError, ValueError)


def _with_ssl(url: URL) -> URL:
    """Renames libpq's sslmode to asyncpg's ssl."""
    mode = url.query.get("sslmode")
    if mode is None:
        return url
    if url.query.get("ssl", mode) != mode:
        raise UsageError(f"the URL's options ssl and sslmode differ: write sslmode={mode} alone")
    return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})


def _ssl_of_environment() -> str | None:
    """PGSSLMODE; None, for the driver's default, if it is not set."""
    mode = os.environ.get("PGSSLMODE") or None
    if mode is not None and mode not in SSL:
        raise UsageError(f"PGSSLMODE is {mode!r} in the environment: set it to one of {', '.join(SSL)}")
    return mode


def _check_ports() -> None:
    ports = os.environ.get("PGPORT", "")
    if ports and not all(port.isdecimal() for port in ports.split(",")):
        raise UsageError(f"PGPORT is {ports!r} in the environment: set it to a port number")
