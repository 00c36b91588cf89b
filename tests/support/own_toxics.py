"""User-defined toxics, in a module of their own so that the proxy can import them too."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

from labkit import Status
from labkit.faults import Flow, Piece, Pipe, Sample, Toxic

__all__ = ["Freezes", "Renames"]


@dataclass(frozen=True)
class Renames(Toxic):
    """Replaces every "Test" with "Rest", which has the same length, so no reader can notice."""

    def pipe(self, flow: Flow) -> Pipe:
        return _Renames(flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.OK})]


@dataclass(frozen=True)
class Freezes(Renames):
    """Replaces every "Test" with the number of objects frozen by the proxy's garbage collector, 9999 at most."""

    def pipe(self, flow: Flow) -> Pipe:
        return _Renames(flow, b"%04d" % min(gc.get_freeze_count(), 9999))


class _Renames(Pipe):
    def __init__(self, flow: Flow, name: bytes = b"Rest") -> None:
        self.flow, self._name = flow, name

    def data(self, piece: Piece) -> Iterable[Piece]:
        if b"Test" in piece.data:
            self.flow.fired()
        return [Piece(piece.data.replace(b"Test", self._name), piece.due)]
