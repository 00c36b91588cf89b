"""A toxic as somebody would write his own: it stands in a module, so that the proxy can load it too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit import Status
from labkit.faults import Flow, Piece, Pipe, Sample, Toxic

__all__ = ["Renames"]


@dataclass(frozen=True)
class Renames(Toxic):
    """Every "Test" becomes "Rest" on its way, which is as long, and so no reader can know."""

    def pipe(self, flow: Flow) -> Pipe:
        return _Renames(flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.OK})]


class _Renames(Pipe):
    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def data(self, piece: Piece) -> Iterable[Piece]:
        if b"Test" in piece.data:
            self.flow.fired()
        return [Piece(piece.data.replace(b"Test", b"Rest"), piece.due)]
