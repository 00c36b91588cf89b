"""The kinds of server and fault requested by name; one clear line for a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labkit._checks import unknown
from labkit.errors import UsageError
from labkit.faults import ALL
from labkit.lab.backends import BACKENDS, backend

__all__ = ["known_backends", "known_faults", "refuse_impossible"]

TAGGED = "redis-cluster"
"""The kind of server whose keys are not data_N."""


def known_backends(names: Iterable[str], *, takes_tables: bool = True) -> list[str]:
    """The kinds of server, each once; without names, all that the reader can read.

    A reader that is not passed the tables assumes data_N: `UsageError` for a named kind whose tables are called
    otherwise.
    """
    wanted = [backend(name).name for name in dict.fromkeys(_listed(names))]
    if TAGGED in wanted and not takes_tables:
        raise UsageError(f"keys in a {TAGGED} have hash tags: give the reader a second parameter, {{shard: key}}")
    return wanted or [name for name in BACKENDS if takes_tables or name != TAGGED]


def known_faults(names: Iterable[str]) -> list[str]:
    """The kinds of fault, each once; [] without names."""
    wanted = list(dict.fromkeys(_listed(names)))
    for name in wanted:
        if name not in ALL:
            raise UsageError(unknown("fault", name, ALL))
    return wanted


def refuse_impossible(names: Sequence[str], backends: Sequence[str], launcher: str) -> None:
    """`UsageError` for a fault that cannot act on any of these backends; launcher "auto" may still become docker."""
    for name in names:
        entry = ALL[name]
        if not set(entry.backends) & set(backends):
            needed = " or ".join(entry.backends)
            raise UsageError(f"{name} acts on {needed}, not on {' or '.join(backends)}: choose backend {needed}")
        if entry.layer == "container" and launcher == "embedded":
            raise UsageError(f"{name} acts on a container, and launcher embedded has none: choose launcher docker")


def _listed(names: Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
