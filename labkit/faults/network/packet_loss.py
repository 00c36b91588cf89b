"""Bytes that get lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.errors import UsageError
from labkit.faults.base import Sample
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["PacketLoss"]


@dataclass(frozen=True)
class PacketLoss(Toxic):
    """Each chunk is dropped with probability `loss_rate`, and `correlation` more directly after a dropped one.

    Both are from 0 to 1, and their sum counts as at most 1; with a correlation, losses come in bursts.
    As in Toxiproxy's packet_loss, a chunk is what arrived at once (here at most 16 KB), and its bytes are gone for
    good: nothing is sent again, so the receiver waits for the rest or cannot make sense of it. A real network that
    loses packets only delays the bytes of TCP: that is `Latency` with jitter. The lab's seed decides which chunks of a
    connection are dropped. Undone, connections that lost bytes are closed.
    """

    loss_rate: float = 0.1
    correlation: float = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("loss_rate", "correlation"):
            if getattr(self, name) > 1:
                raise UsageError(f"PacketLoss: {name} must be a number from 0 to 1, not {getattr(self, name)!r}")

    def pipe(self, flow: Flow) -> Pipe:
        return _Lossy(self, flow)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # A lower rate may spare the few chunks of a read.
        return [Sample.of(cls(1), {Status.TIMEOUT})]


class _Lossy(Pipe):
    def __init__(self, toxic: PacketLoss, flow: Flow) -> None:
        self.toxic, self.flow = toxic, flow
        self.dropped = self.lost = False

    def data(self, piece: Piece) -> Iterable[Piece]:
        rate = self.toxic.loss_rate + (self.toxic.correlation if self.dropped else 0)
        self.dropped = self.flow.random.random() < rate
        if not self.dropped:
            return (piece,)
        self.lost = True
        self.flow.fired()
        return ()

    def removed(self, now: float) -> Iterable[Piece]:
        return (Piece(b"", now, End.CLOSE),) if self.lost else ()
