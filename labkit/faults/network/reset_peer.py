"""A connection that is reset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.faults.base import Sample
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.status import Status

__all__ = ["Cut", "ResetPeer"]


@dataclass(frozen=True)
class ResetPeer(Toxic):
    """The connection is reset `timeout` milliseconds after it was made, and nothing passes before.

    With `after_bytes` (which Toxiproxy does not have), that many bytes pass first.
    """

    timeout: float = 0
    after_bytes: int = 0

    def pipe(self, flow: Flow) -> Pipe:
        return Cut(flow, End.RESET, self.after_bytes, self.timeout / 1000)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        reset = {Status.DISCONNECTED, Status.UNREACHABLE}
        return [Sample.of(cls(), reset), Sample.of(cls(0, 200), reset)]


class Cut(Pipe):
    """Passes `most` bytes on, then ends the connection."""

    def __init__(self, flow: Flow, end: End, most: int, delay: float = 0) -> None:
        self.flow, self.end, self.left, self.delay = flow, end, most, delay
        self.over = False

    def opened(self, now: float) -> Iterable[Piece]:
        return self._ending(now) if self.left == 0 else ()

    def data(self, piece: Piece) -> Iterable[Piece]:
        if self.over:
            return ()
        passed = piece.data[: self.left]
        self.left -= len(passed)
        rest = self._ending(piece.due) if self.left == 0 else ()
        return (Piece(passed, piece.due), *rest)

    def ended(self, piece: Piece) -> Iterable[Piece]:
        return () if self.over else (piece,)

    def _ending(self, now: float) -> tuple[Piece, ...]:
        self.over = True
        self.flow.fired()
        return (Piece(b"", now + self.delay, self.end),)
