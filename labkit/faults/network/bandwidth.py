"""A limit on throughput."""

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
"""Bytes are sent in portions worth this many seconds, as in Toxiproxy."""


@dataclass(frozen=True)
class Bandwidth(Toxic):
    """Each connection passes at most `rate` KB per second (1 KB = 1,000 bytes)."""

    rate: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate == 0:
            raise UsageError("Bandwidth: rate must be above 0; to pass nothing use faults.Timeout(0)")

    def pipe(self, flow: Flow) -> Pipe:
        return _Narrow(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # In the matrix a shard answers with a few kilobytes.
        return [Sample.of(cls(100), {Status.OK}), Sample.of(cls(0.2 / timeout), {Status.TIMEOUT})]


class _Narrow(Pipe):
    def __init__(self, toxic: Bandwidth, flow: Flow) -> None:
        self.rate, self.flow = toxic.rate * 1000, flow
        self.free = 0.0
        """When everything so far has been sent."""

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
