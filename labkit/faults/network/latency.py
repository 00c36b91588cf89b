"""A delay of all bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.faults.base import Sample
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["Latency"]


@dataclass(frozen=True)
class Latency(Toxic):
    """All bytes arrive `latency` ± `jitter` milliseconds late; at most 4 MB are in flight, as in a TCP window."""

    latency: float = 1000
    jitter: float = 0

    def pipe(self, flow: Flow) -> Pipe:
        return _Late(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        late = cls(round(1500 * timeout))
        return [Sample.of(cls(round(10 * timeout), round(2 * timeout)), {Status.OK}), Sample.of(late, {Status.TIMEOUT})]


class _Late(Pipe):
    def __init__(self, toxic: Latency, flow: Flow) -> None:
        self.toxic, self.flow = toxic, flow

    def data(self, piece: Piece) -> Iterable[Piece]:
        self.flow.fired()
        jitter = self.flow.random.uniform(-1, 1) * self.toxic.jitter
        return (piece.later(max(self.toxic.latency + jitter, 0) / 1000),)
