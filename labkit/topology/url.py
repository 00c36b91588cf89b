"""Shard URLs in a topology file: expands environment variables, and tells the kind of shard by the scheme.

No message names a URL or a part of it: any part may be a password.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from labkit.errors import TopologyError

__all__ = ["CLUSTER", "POSTGRES", "REDIS", "escaped", "expanded", "scheme_of"]

POSTGRES = ("postgresql", "postgres", "postgresql+asyncpg")
CLUSTER = ("redis+cluster", "rediss+cluster")
REDIS = ("redis", "rediss", "unix", *CLUSTER)
EXAMPLES = "postgresql+asyncpg://user@host:5432/database or redis://host:6379/0"

REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)(\})?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def expanded(text: str) -> str:
    """`text` with each `${NAME}` replaced by the variable's value, and `$${` by `${`.

    Before the @ a value is percent-encoded, so that any user and password work; elsewhere, and if there is no @, it is
    inserted as it is. Raises `TopologyError` for a variable that is not set.
    """
    user_ends = text.find("@")

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        if found[2] is None or not VARIABLE.fullmatch(found[1]):
            raise TopologyError("${…} in url must hold the name of a variable; write $${ for a plain ${")
        if found[1] not in os.environ:
            raise TopologyError(f"url needs the variable {found[1]}, which is not set: export it")
        inside = os.environ[found[1]]
        return quote(inside, safe="", errors="surrogateescape") if found.start() < user_ends else inside

    return _plain(REFERENCE.sub(value, text))


def escaped(url: str) -> str:
    """A URL escaped for a file, so that `expanded` returns it unchanged."""
    return url.replace("${", "$${")


def scheme_of(url: str) -> str:
    """The scheme of an expanded URL, in lower case; `TopologyError` if it is unknown or missing."""
    scheme, found, _ = url.partition("://")
    if not found or not SCHEME.fullmatch(scheme):
        raise TopologyError(f"url has no scheme: write {EXAMPLES}")
    if scheme.lower() not in POSTGRES + REDIS:
        raise TopologyError(f"url has an unknown scheme; expected one of {', '.join(POSTGRES + REDIS)}")
    return scheme.lower()


def _plain(url: str) -> str:
    """Refuses URLs that drivers parse differently, since one might then show part of the password as the host."""
    if not url.isprintable() or " " in url:
        raise TopologyError("url holds white space or a control character: write it percent-encoded (%20)")
    _, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if rest.count("@") > 1 or (rest.count("@") == 1 and "@" not in authority):
        raise TopologyError("url holds one of / ? # @ in user or password: write it percent-encoded, or use ${NAME}")
    return url
