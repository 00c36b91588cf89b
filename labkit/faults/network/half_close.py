"""One direction ends, the other goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Sample
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["HalfClose"]


@dataclass(frozen=True)
class HalfClose(Toxic):
    """One direction is ended (a FIN) after `after_bytes` bytes, the other stays open: the server hears every
    question, and the client has been told that no answer will come. Toxiproxy does not have it.

    Undone, such connections are closed.
    """

    whole: ClassVar[tuple[str, ...]] = ("after_bytes",)

    after_bytes: int = 0

    def pipe(self, flow: Flow) -> Pipe:
        return _Half(flow, self.after_bytes)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.DISCONNECTED, Status.UNREACHABLE})]


class _Half(Pipe):
    def __init__(self, flow: Flow, after_bytes: int) -> None:
        self.flow, self.left = flow, after_bytes
        self.over = False

    def opened(self, now: float) -> Iterable[Piece]:
        return self._ending(now) if self.left == 0 else ()

    def data(self, piece: Piece) -> Iterable[Piece]:
        if self.over:
            return ()
        passed = piece.data[: self.left]
        self.left -= len(passed)
        return (Piece(passed, piece.due), *(self._ending(piece.due) if self.left == 0 else ()))

    def removed(self, now: float) -> Iterable[Piece]:
        return (Piece(b"", now, End.CLOSE),) if self.over else ()

    def _ending(self, now: float) -> tuple[Piece, ...]:
        self.over = True
        self.flow.fired()
        return (Piece(b"", now, End.HALF),)
