"""What a toxic does to one direction of one connection: a pure plan of which bytes leave when, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from random import Random

__all__ = ["End", "Flow", "Piece", "Pipe"]


class End(Enum):
    """How a direction ends."""

    FIN = "fin"
    """The sender has said all it will: passed on as such, after what it said."""
    HALF = "half"
    """The receiver is told so, though the sender goes on."""
    CLOSE = "close"
    """The connection is closed, both ways."""
    RESET = "reset"
    """The connection is reset, both ways."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that leave at `due` at the earliest (seconds, the loop's clock), or an end. Pieces never overtake."""

    data: bytes
    due: float
    end: End | None = None

    def later(self, seconds: float) -> Piece:
        """The same piece, `seconds` later."""
        return Piece(self.data, self.due + seconds, self.end)


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of one connection, as a toxic sees it."""

    random: Random
    """Numbers of its own, the same for the same seed, shard, toxic, direction and number of the connection."""
    fired: Callable[[], None]
    """Called when the toxic does its work."""
    new: bool = True
    """Whether the connection was made while the toxic was there; else it was there before."""


class Pipe:
    """What one toxic does to one direction; what is not overridden passes on as it is."""

    def opened(self, now: float) -> Iterable[Piece]:
        """The toxic takes hold of the connection, a new one or one that was there."""
        return ()

    def data(self, piece: Piece) -> Iterable[Piece]:
        """Bytes arrived."""
        return (piece,)

    def ended(self, piece: Piece) -> Iterable[Piece]:
        """An end arrived."""
        return (piece,)

    def removed(self, now: float) -> Iterable[Piece]:
        """The toxic is taken away. What it held back is on its way; this comes after that."""
        return ()
