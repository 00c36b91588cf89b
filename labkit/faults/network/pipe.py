"""What a toxic does to one direction of a connection: a pure plan of which bytes leave when, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from random import Random

__all__ = ["End", "Flow", "Piece", "Pipe"]


class End(Enum):
    """How a direction ends."""

    FIN = "fin"
    """The sender has finished: passed on after its last bytes."""
    HALF = "half"
    """The receiver sees a FIN, though the sender goes on."""
    CLOSE = "close"
    """The connection is closed, both ways."""
    RESET = "reset"
    """The connection is reset, both ways."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes, or an end, that leave not before `due` (seconds, the loop's clock). Pieces never overtake."""

    data: bytes
    due: float
    end: End | None = None

    def later(self, seconds: float) -> Piece:
        """The same piece, `seconds` later."""
        return Piece(self.data, self.due + seconds, self.end)


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a connection, as a toxic sees it."""

    random: Random
    """Its random numbers: the same for the same seed, shard, toxic, direction and number of the connection."""
    fired: Callable[[], None]
    """Called when the toxic acts."""
    new: bool = True
    """Whether the connection is newer than the toxic."""


class Pipe:
    """What one toxic does to one direction. By default everything passes unchanged."""

    over: bool = False
    """Whether it has ended or silenced the direction; then nothing passes it by, even if a condition limits the toxic
    to some questions."""

    def opened(self, now: float) -> Iterable[Piece]:
        """The toxic is attached to the connection, a new or an existing one."""
        return ()

    def takes_over(self, before: Pipe) -> None:
        """The toxic was updated: this pipe goes on where the one before has got to. `opened` is called next."""

    def data(self, piece: Piece) -> Iterable[Piece]:
        """Bytes arrived."""
        return (piece,)

    def ended(self, piece: Piece) -> Iterable[Piece]:
        """An end arrived."""
        return (piece,)

    def end_sent(self) -> None:
        """An end that this toxic planned has reached the receiver."""

    def removed(self, now: float) -> Iterable[Piece]:
        """The toxic is removed. What it held back is sent first; these pieces follow."""
        return ()
