"""Parameters that are a time."""

from __future__ import annotations

import math
from typing import Any

from labkit.errors import UsageError

__all__ = ["check_seconds"]


def check_seconds(fault: object, seconds: Any, most: float = math.inf) -> None:
    """`UsageError` for what is not a positive, finite number of seconds, `most` at the most."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < math.inf or seconds > most:
        limit = "" if most == math.inf else f" up to {most:g}"
        raise UsageError(f"{type(fault).__name__}: seconds must be a positive number{limit}, not {seconds!r}")
