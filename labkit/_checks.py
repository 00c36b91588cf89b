"""Arguments that are checked in more than one place."""

from __future__ import annotations

from numbers import Real
from typing import Any

from labkit.errors import UsageError

__all__ = ["LONGEST", "positive_seconds", "shown"]

LONGEST = 2_147_483
"""Seconds, some 24 days: Postgres counts the milliseconds of its `statement_timeout` in 32 bits."""
_CHARACTERS = 60


def positive_seconds(seconds: Any, what: str = "timeout") -> float:
    """`seconds` when it is a positive number (of numpy's as well) up to `LONGEST`; else `UsageError`."""
    number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < float("inf"):
        raise UsageError(f"{what} must be a positive number of seconds, not {shown(seconds)}")
    if seconds > LONGEST:
        raise UsageError(f"{what} must be at most {LONGEST:,} seconds, not {shown(seconds)}")
    return float(seconds)


def shown(value: Any) -> str:
    """A value as an error message shows it, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"
