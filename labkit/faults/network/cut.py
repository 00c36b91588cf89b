"""Faults that cut a connection: at once, after some bytes, or in one direction only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Sample
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["Cut", "HalfClose", "LimitData", "ResetPeer"]


@dataclass(frozen=True)
class ResetPeer(Toxic):
    """The connection is reset `timeout` milliseconds after it was made; nothing passes before.

    With `after_bytes` (not in Toxiproxy), that many bytes pass first.
    """

    whole: ClassVar[tuple[str, ...]] = ("after_bytes",)

    timeout: float = 0
    after_bytes: int = 0

    def pipe(self, flow: Flow) -> Pipe:
        return Cut(flow, End.RESET, self.after_bytes, self.timeout / 1000)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        reset = {Status.DISCONNECTED, Status.UNREACHABLE}
        return [Sample.of(cls(), reset), Sample.of(cls(0, 200), reset)]


class Cut(Pipe):
    """Passes `most` bytes on, then ends the connection."""

    def __init__(self, flow: Flow, end: End, most: int, delay: float = 0) -> None:
        self.flow, self.end, self.most, self.left, self.delay = flow, end, most, most, delay
        self.over = self.lost = False

    def takes_over(self, before: Pipe) -> None:
        if isinstance(before, Cut):
            self.lost = before.lost
            self.left = max(self.most - (before.most - before.left), 0)

    def opened(self, now: float) -> Iterable[Piece]:
        return self._ending(now) if self.left == 0 else ()

    def data(self, piece: Piece) -> Iterable[Piece]:
        passed = b"" if self.over else piece.data[: self.left]
        self.lost = self.lost or len(passed) < len(piece.data)
        if self.over:
            return ()
        self.left -= len(passed)
        rest = self._ending(piece.due) if self.left == 0 else ()
        return (Piece(passed, piece.due), *rest)

    def ended(self, piece: Piece) -> Iterable[Piece]:
        self.lost = self.lost or self.over
        return () if self.over else (piece,)

    def removed(self, now: float) -> Iterable[Piece]:
        # Removed before it ended the connection: after lost bytes the rest would make no sense.
        return (Piece(b"", now, self.end),) if self.lost else ()

    def _ending(self, now: float) -> tuple[Piece, ...]:
        self.over = True
        self.flow.fired()
        return (Piece(b"", now + self.delay, self.end),)


@dataclass(frozen=True)
class LimitData(Toxic):
    """The connection is closed after `bytes` bytes."""

    whole: ClassVar[tuple[str, ...]] = ("bytes",)

    bytes: int = 0

    def pipe(self, flow: Flow) -> Pipe:
        return Cut(flow, End.CLOSE, self.bytes)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        closed = {Status.DISCONNECTED, Status.UNREACHABLE}
        return [Sample.of(cls(200), closed)]


@dataclass(frozen=True)
class HalfClose(Toxic):
    """One direction ends (a FIN) after `after_bytes` bytes, the other stays open: the server receives every query, and
    the client knows that no answer will follow. Not in Toxiproxy.

    Undone, such connections are closed.
    """

    whole: ClassVar[tuple[str, ...]] = ("after_bytes",)

    after_bytes: int = 0

    def pipe(self, flow: Flow) -> Pipe:
        return _Half(flow, self.after_bytes)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.DISCONNECTED, Status.UNREACHABLE})]


class _Half(Pipe):
    def __init__(self, flow: Flow, after_bytes: int) -> None:
        self.flow, self.most, self.left = flow, after_bytes, after_bytes
        self.over = False

    def takes_over(self, before: Pipe) -> None:
        if isinstance(before, _Half):
            self.over = before.over
            self.left = max(self.most - (before.most - before.left), 0)

    def opened(self, now: float) -> Iterable[Piece]:
        return self._ending(now) if self.left == 0 and not self.over else ()

    def data(self, piece: Piece) -> Iterable[Piece]:
        if self.over:
            return ()
        passed = piece.data[: self.left]
        self.left -= len(passed)
        return (Piece(passed, piece.due), *(self._ending(piece.due) if self.left == 0 else ()))

    def removed(self, now: float) -> Iterable[Piece]:
        return (Piece(b"", now, End.CLOSE),) if self.over else ()

    def _ending(self, now: float) -> tuple[Piece, ...]:
        self.over = True
        self.flow.fired()
        return (Piece(b"", now, End.HALF),)
