"""A connection that breaks in the middle of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Sample
from labkit.faults.network.pipe import End, Flow, Pipe
from labkit.faults.network.reset_peer import Cut
from labkit.faults.network.toxic import Toxic
from labkit.report import Status

__all__ = ["LimitData"]


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
