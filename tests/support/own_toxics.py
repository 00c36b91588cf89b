"""A toxic as somebody would write his own: it stands in a module, so that the proxy can load it too."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

from labkit import Status
from labkit.faults import Flow, Piece, Pipe, Sample, Toxic

__all__ = ["Freezes", "Renames"]


@dataclass(frozen=True)
class Renames(Toxic):
    """Every "Test" becomes "Rest" on its way, which is as long, and so no reader can know."""

    def pipe(self, flow: Flow) -> Pipe:
        return _Renames(flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.OK})]


@dataclass(frozen=True)
class Freezes(Renames):
    """Every "Test" becomes how many objects the garbage collector leaves alone where the proxy is, 9999 at the most."""

    def pipe(self, flow: Flow) -> Pipe:
        return _Renames(flow, b"%04d" % min(gc.get_freeze_count(), 9999))


class _Renames(Pipe):
    def __init__(self, flow: Flow, name: bytes = b"Rest") -> None:
        self.flow, self._name = flow, name

    def data(self, piece: Piece) -> Iterable[Piece]:
        if b"Test" in piece.data:
            self.flow.fired()
        return [Piece(piece.data.replace(b"Test", self._name), piece.due)]
