"""Bytes that trickle in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import UsageError
from labkit.faults.base import Sample
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["Slicer"]


@dataclass(frozen=True)
class Slicer(Toxic):
    """Bytes arrive in slices of `average_size` ± `size_variation` bytes, `delay` microseconds apart."""

    whole: ClassVar[tuple[str, ...]] = ("average_size", "size_variation")

    average_size: int = 1
    size_variation: int = 0
    delay: float = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.size_variation < self.average_size:
            raise UsageError(
                f"Slicer: size_variation must be below average_size, not {self.size_variation} of {self.average_size}"
            )

    def pipe(self, flow: Flow) -> Pipe:
        return _Slices(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        quick, trickle = cls(64, 32, 100), cls(1, 0, round(timeout * 200_000))
        return [Sample.of(quick, {Status.OK}), Sample.of(trickle, {Status.TIMEOUT})]


class _Slices(Pipe):
    def __init__(self, toxic: Slicer, flow: Flow) -> None:
        self.toxic, self.flow = toxic, flow
        self.free = 0.0
        """When the next slice may leave."""

    def data(self, piece: Piece) -> Iterable[Piece]:
        self.flow.fired()
        return self._slices(piece)

    def _slices(self, piece: Piece) -> Iterator[Piece]:
        self.free = max(self.free, piece.due)
        start, vary = 0, self.toxic.size_variation
        while start < len(piece.data):
            size = self.toxic.average_size + (self.flow.random.randint(-vary, vary) if vary else 0)
            yield Piece(piece.data[start : start + size], self.free)
            self.free += self.toxic.delay / 1_000_000
            start += size
