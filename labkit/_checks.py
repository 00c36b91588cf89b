"""Checks of arguments that several modules share, and the words of their errors."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

from labkit.errors import UsageError

__all__ = [
    "MAX_SECONDS",
    "as_names",
    "did_you_mean",
    "positive_integer",
    "positive_seconds",
    "safe_repr",
    "shown",
    "unknown",
]

MAX_SECONDS = 2_147_483
"""About 24 days: Postgres counts the milliseconds of its `statement_timeout` in 32 bits."""
MAX_REPR = 60
"""Characters of a value that an error message shows."""


def positive_seconds(seconds: Any, what: str = "timeout") -> float:
    """`seconds` as a float; `UsageError` unless it is a positive number (numpy's count too) up to `MAX_SECONDS`."""
    number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < float("inf"):
        raise UsageError(f"{what} must be a positive number of seconds, not {shown(seconds)}")
    if seconds > MAX_SECONDS:
        raise UsageError(f"{what} must be at most {MAX_SECONDS:,} seconds, not {shown(seconds)}")
    return float(seconds)


def positive_integer(value: Any, what: str) -> int:
    """`value` as an int; `UsageError` unless it is an integer (numpy's count too, True does not) of at least 1."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"{what} must be a positive integer, not {shown(value)}")
    return number


def as_names(columns: Any) -> tuple[str, ...]:
    """The names of columns; `UsageError` unless they are a sequence of different texts."""
    names = tuple(columns) if isinstance(columns, Sequence) and not isinstance(columns, str) else (None,)
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise UsageError(f"columns must be a list of different names, not {shown(columns)}")
    return names


def shown(value: Any) -> str:
    """`repr(value)` for an error message, clipped to `MAX_REPR` characters."""
    text = safe_repr(value)
    return text if len(text) <= MAX_REPR else f"{text[: MAX_REPR - 1]}…"


def safe_repr(value: Any) -> str:
    """`repr(value)`, also where Python refuses: it writes no integer of more than 4,300 digits."""
    try:
        return repr(value)
    except ValueError:
        return f"a huge {type(value).__name__}"


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """The message for a name that is not one of `known`: "unknown fault 'Kil'; did you mean Kill?"."""
    return f"unknown {kind} {shown(name)}; {did_you_mean(name, known)}"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A hint: up to three of `known` that are close to `name`, ignoring case; all of `known` if none is."""
    by_lower = {one.lower(): one for one in known}
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower)]
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(known)}"
