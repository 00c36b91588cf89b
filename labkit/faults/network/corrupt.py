"""Flipped bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import UsageError
from labkit.faults.base import Sample
from labkit.faults.network.pipe import Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["Corrupt"]


@dataclass(frozen=True)
class Corrupt(Toxic):
    """One bit per `every` bytes of a connection is flipped, at a position drawn from the lab's seed.

    If the bits hit only names, no reader can know: the protocols have no checksum. With `every=1` no byte arrives as
    sent. Not in Toxiproxy.
    """

    whole: ClassVar[tuple[str, ...]] = ("every",)

    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise UsageError(f"Corrupt: every must be a positive number of bytes, not {self.every!r}")

    def pipe(self, flow: Flow) -> Pipe:
        return _Flips(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # Garbage may look like the start of a long message, or like no message at all.
        return [Sample.of(cls(), frozenset(Status) - {Status.OK, Status.SKIPPED})]


class _Flips(Pipe):
    def __init__(self, toxic: Corrupt, flow: Flow) -> None:
        self.every, self.flow = toxic.every, flow
        self.start = 0
        """Where the current block of `every` bytes begins, in bytes since the toxic took hold."""
        self.passed = 0
        self.place, self.bit = self._drawn()

    def data(self, piece: Piece) -> Iterable[Piece]:
        changed = bytearray(piece.data)
        end = self.passed + len(changed)
        while self.start + self.place < end:
            changed[self.start + self.place - self.passed] ^= 1 << self.bit
            self.flow.fired()
            self.start += self.every
            self.place, self.bit = self._drawn()
        self.passed = end
        return (Piece(bytes(changed), piece.due),)

    def _drawn(self) -> tuple[int, int]:
        return self.flow.random.randrange(self.every), self.flow.random.randrange(8)
