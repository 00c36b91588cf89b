"""A delay of the end of a connection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.faults.base import Sample
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["SlowClose"]


@dataclass(frozen=True)
class SlowClose(Toxic):
    """The end of a connection arrives `delay` milliseconds late."""

    delay: float = 1000

    def pipe(self, flow: Flow) -> Pipe:
        return _Slow(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # Upstream, since the reader is the one that closes; a successful read closes nothing.
        return [Sample.of(cls(500, stream="upstream"), {Status.OK})]


class _Slow(Pipe):
    def __init__(self, toxic: SlowClose, flow: Flow) -> None:
        self.toxic, self.flow = toxic, flow

    def ended(self, piece: Piece) -> Iterable[Piece]:
        self.flow.fired()
        return (piece.later(self.toxic.delay / 1000),)
