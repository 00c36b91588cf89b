"""Options of a URL, after its ?: what is wrong with them is said before anything is dialled."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from labkit.errors import UsageError

__all__ = ["check_options"]


def check_options(options: Iterable[tuple[str, str]], known: Collection[str], *, ignored: Collection[str] = ()) -> None:
    """Refuses, as `UsageError`, an option that is neither `known` nor `ignored`, one without a value, and one that is
    there twice.

    No word of the URL is repeated that is not a known one: a password may be where nobody expects it.
    """
    seen = set()
    for name, value in options:
        if name not in known and name not in ignored:
            near = get_close_matches(name, known, 1)
            fix = f"write {near[0]}" if near else f"known are {', '.join(sorted(known))}"
            raise UsageError(f"the URL has an unknown option after its ?: {fix}")
        if not value:
            raise UsageError(f"the URL's option {name} has no value: write {name}=…, or leave it out")
        if name in seen:
            raise UsageError(f"the URL has the option {name} twice: write it once")
        seen.add(name)
