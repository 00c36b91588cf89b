"""A connection that swallows everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.faults.base import Sample
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["Timeout"]


@dataclass(frozen=True)
class Timeout(Toxic):
    """No byte passes, and the connection is closed after `timeout` milliseconds (0: never).

    When either side closes it, it is closed at once. Undone, connections that lost bytes are closed, since the rest
    would make no sense.
    """

    timeout: float = 0

    def pipe(self, flow: Flow) -> Pipe:
        return _Swallow(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        soon = cls(round(timeout * 100))
        closed = {Status.DISCONNECTED, Status.UNREACHABLE}  # a connection being made, or one in use
        return [Sample.of(cls(0), {Status.TIMEOUT}), Sample.of(soon, closed)]


class _Swallow(Pipe):
    def __init__(self, toxic: Timeout, flow: Flow) -> None:
        self.toxic, self.flow = toxic, flow
        self.lost = False

    def takes_over(self, before: Pipe) -> None:
        self.lost = isinstance(before, _Swallow) and before.lost

    def opened(self, now: float) -> Iterable[Piece]:
        self.over = True
        if not self.toxic.timeout:
            return ()
        return (Piece(b"", now + self.toxic.timeout / 1000, End.CLOSE),)

    def data(self, piece: Piece) -> Iterable[Piece]:
        self.flow.fired()
        self.lost = True
        return ()

    def end_sent(self) -> None:
        self.flow.fired()  # perhaps before any byte came

    def removed(self, now: float) -> Iterable[Piece]:
        return (Piece(b"", now, End.CLOSE),) if self.lost else ()
