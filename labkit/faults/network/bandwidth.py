"""A narrow line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from labkit.errors import UsageError
from labkit.faults.base import Sample
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["Bandwidth"]

STEP = 0.1
"""Seconds' worth of bytes that leave at once, as in Toxiproxy."""


@dataclass(frozen=True)
class Bandwidth(Toxic):
    """At most `rate` KB a second pass (1 KB = 1,000 bytes), for each connection."""

    rate: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate == 0:
            raise UsageError("Bandwidth: rate must be above 0; for nothing at all take faults.Timeout(0)")

    def pipe(self, flow: Flow) -> Pipe:
        return _Narrow(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # What a shard of the matrix answers is some kilobytes.
        return [Sample.of(cls(100), {Status.OK}), Sample.of(cls(0.2 / timeout), {Status.TIMEOUT})]


class _Narrow(Pipe):
    def __init__(self, toxic: Bandwidth, flow: Flow) -> None:
        self.rate, self.flow = toxic.rate * 1000, flow
        self.free = 0.0
        """When the line has passed on all that came before."""

    def data(self, piece: Piece) -> Iterable[Piece]:
        self.flow.fired()
        return self._parts(piece)

    def _parts(self, piece: Piece) -> Iterator[Piece]:
        most = max(int(self.rate * STEP), 1)
        self.free = max(self.free, piece.due)
        for start in range(0, len(piece.data), most):
            part = piece.data[start : start + most]
            self.free += len(part) / self.rate
            yield Piece(part, self.free)
