"""A toxic that only observes: it detects that a client met a fault inside the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.faults.base import Sample
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic

__all__ = ["Detector"]


@dataclass(frozen=True)
class Detector(Toxic):
    """Fires when a client connects (`connects`), else when one sends data; changes nothing."""

    connects: bool = False

    def attributes(self) -> dict[str, object]:
        return {}

    def pipe(self, flow: Flow) -> Pipe:
        return _Observing(flow, self.connects)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return []


class _Observing(Pipe):
    def __init__(self, flow: Flow, connects: bool) -> None:
        self.flow, self.connects = flow, connects

    def opened(self, now: float) -> Iterable[Piece]:
        if self.connects and self.flow.new:
            self.flow.fired()
        return ()

    def data(self, piece: Piece) -> Iterable[Piece]:
        if not self.connects:
            self.flow.fired()
        return (piece,)
