"""How values from a topology file are shown in messages: short, and never one that may hold a password."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

__all__ = ["guess", "shown"]

LONGEST = 60
ADDRESS = re.compile(r"://|:.*@", re.DOTALL)


def shown(value: Any) -> str:
    """`repr(value)`, clipped; what looks like an address is only named as such."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "so large a number"
    if ADDRESS.search(text):
        return "an address (not shown: it may hold a password)"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def guess(word: str, known: list[str]) -> str:
    """What was meant by `word`, else all that could have been."""
    close = get_close_matches(word.lower(), [name.lower() for name in known], n=1)
    meant = next((name for name in known if close and name.lower() == close[0]), None)
    return f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"
