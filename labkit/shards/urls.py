"""Checks URLs before anything is dialled. Errors repeat only known names: a password may be anywhere in a URL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from labkit._checks import did_you_mean
from labkit.errors import UsageError

__all__ = ["AMBIGUOUS", "check_options", "check_values"]

AMBIGUOUS = "the URL has one of / ? # @ in its user or password: write it percent-encoded (/ is %2F, @ is %40)"
"""The error if part of a password would be parsed as the host, the database or an option."""


def check_options(options: Iterable[tuple[str, str]], known: Collection[str], *, ignored: Collection[str] = ()) -> None:
    """Raises `UsageError` for an option that is neither `known` nor `ignored`, has no value, or occurs twice."""
    seen = set()
    for name, value in options:
        if name not in known and name not in ignored:
            raise UsageError(f"the URL has an unknown option after its ?; {did_you_mean(name, sorted(known))}")
        if not value:
            raise UsageError(f"the URL's option {name} has no value: write {name}=…, or leave it out")
        if name in seen:
            raise UsageError(f"the URL has the option {name} twice: write it once")
        seen.add(name)


def check_values(options: Iterable[str], make: Callable[[Collection[str]], object], *errors: type[Exception]) -> None:
    """Raises `UsageError` if `make(options)` raises one of `errors`; names the option that fails on its own.

    The library's error is neither repeated nor chained: it contains the value.
    """
    names = tuple(dict.fromkeys(options))
    if not _fails(make, names, errors):
        return
    wrong = [name for name in names if _fails(make, (name,), errors)]
    if len(wrong) == 1:
        raise UsageError(f"the URL's option {wrong[0]} has a wrong value: correct it, or leave it out")
    raise UsageError(f"the URL's options contradict each other: correct or leave out one of {', '.join(names)}")


def _fails(
    make: Callable[[Collection[str]], object], names: Collection[str], errors: tuple[type[Exception], ...]
) -> bool:
    try:
        make(names)
    except errors:
        return True
    return False
