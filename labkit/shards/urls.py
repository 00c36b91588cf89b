"""Mistakes in a URL are reported before anything is dialled, and nothing of it is repeated but known names: a password
may be where nobody expects it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from labkit._checks import did_you_mean
from labkit.errors import UsageError

__all__ = ["AMBIGUOUS", "check_options", "tried"]

AMBIGUOUS = "the URL has one of / ? # @ in its user or password: write it percent-encoded (/ is %2F, @ is %40)"
"""The error where part of a password would be read as the host, the database or an option."""


def check_options(options: Iterable[tuple[str, str]], known: Collection[str], *, ignored: Collection[str] = ()) -> None:
    """Refuses, as `UsageError`, an option that is neither `known` nor `ignored`, one without a value, and one that is
    there twice.
    """
    seen = set()
    for name, value in options:
        if name not in known and name not in ignored:
            raise UsageError(f"the URL has an unknown option after its ?; {did_you_mean(name, sorted(known))}")
        if not value:
            raise UsageError(f"the URL's option {name} has no value: write {name}=…, or leave it out")
        if name in seen:
            raise UsageError(f"the URL has the option {name} twice: write it once")
        seen.add(name)


def tried(options: Iterable[str], make: Callable[[Collection[str]], object], *errors: type[Exception]) -> None:
    """`UsageError` where `make(options)` raises one of `errors`; it names the option that is wrong by itself.

    What the library says is not repeated, and is not behind the error either: it has the value in it.
    """
    names = tuple(dict.fromkeys(options))
    if not _fails(make, names, errors):
        return
    wrong = [name for name in names if _fails(make, (name,), errors)]
    if len(wrong) == 1:
        raise UsageError(f"the URL's option {wrong[0]} has a wrong value: correct it, or leave it out")
    raise UsageError(f"the URL's options do not go together: correct or leave out one of {', '.join(names)}")


def _fails(
    make: Callable[[Collection[str]], object], names: Collection[str], errors: tuple[type[Exception], ...]
) -> bool:
    try:
        make(names)
    except errors:
        return True
    return False
