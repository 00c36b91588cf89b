"""`labkit doctor`: what labs can use on this machine, and what to do about the rest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "State"]


class State(StrEnum):
    """`LOW` is for what is here, but less than labs can use."""

    OK = "ok"
    LOW = "low"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    part: str
    """The section that it belongs to."""
    name: str
    state: State
    found: str
    """What and where it is, or why it is missing."""
    fix: str = ""
    """What to do about it, if possible a command."""
