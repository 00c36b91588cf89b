"""URLs of Postgres servers, as SQLAlchemy and asyncpg take them."""

from __future__ import annotations

import re
from types import MappingProxyType

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from labkit.errors import UsageError
from labkit.shards.url_options import check_options

__all__ = ["as_url", "shown"]

WRITE = "write postgresql+asyncpg://user@host:port/database"
OPTIONS = frozenset(
    {"host", "port", "user", "password", "database", "passfile", "ssl", "target_session_attrs", "krbsrvname", "gsslib"}
)
"""What a URL may say after its ?: those settings of asyncpg that are text. Host and port may come more than once."""
IGNORED = frozenset({"prepared_statement_cache_size"})
"""SQLAlchemy's, without effect here."""
CHOICES = MappingProxyType(
    {
        "ssl": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
        "gsslib": ("gssapi", "sspi"),
    }
)
"""The values that asyncpg takes; it would say so at the first read only."""
_EMPTY = re.compile(r"[?&]([^=&?@/:]+)=?(?=&|$)")
"""An option without a value, which SQLAlchemy drops: `?ssl=` would be no TLS."""


def as_url(url: str) -> URL:
    """`url`, parsed; `UsageError`, without its password, for one of another kind and for options that are none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"not a Postgres URL; {WRITE}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+asyncpg")
    if parsed.drivername != "postgresql+asyncpg":
        raise UsageError(f"not a Postgres URL: {shown(parsed)!r}; {WRITE}")
    empty = [(name, "") for name in _EMPTY.findall(str(url))]
    check_options([*_options(parsed), *empty], OPTIONS, ignored=IGNORED)
    _check_values(parsed)
    return parsed


def shown(url: URL) -> str:
    """The URL without what may hold a password."""
    return url.set(query={}).render_as_string(hide_password=True)


def _options(url: URL) -> list[tuple[str, str]]:
    """Each with its value; host and port once, however many there are."""
    found = []
    for name, value in url.query.items():
        values = (value,) if isinstance(value, str) else value
        found += [(name, one) for one in (values[:1] if name in ("host", "port") else values)]
    return found


def _check_values(url: URL) -> None:
    for name, choices in CHOICES.items():
        value = url.query.get(name, choices[0])
        if value not in choices:
            raise UsageError(f"the URL's option {name} is {value!r}: write one of {', '.join(choices)}")
    try:
        url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(f"the URL has an option with a wrong value: {error}") from None
