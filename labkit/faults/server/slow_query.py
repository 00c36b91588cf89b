"""Queries that take their time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.guard import guard
from labkit.faults.server.seconds import check_seconds
from labkit.report import Status

__all__ = ["SlowQuery"]


@dataclass(frozen=True)
class SlowQuery(Fault):
    """Every query on the table sleeps for `seconds` on the server before it reads.

    A view with pg_sleep stands in the table's place. Undone: queries that still sleep are cancelled, and the table
    takes its place again. Raises `UsageError` for `seconds` that are not positive.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_DATA

    seconds: float = 5.0

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds)

    async def start(self, target: Target, undo: Undo) -> None:
        await guard(target, undo, f"pg_sleep({self.seconds!r}) IS NOT NULL")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        late = cls(round(1.5 * timeout, 3))
        return [Sample.of(cls(round(timeout / 20, 3)), {Status.OK}), Sample.of(late, {Status.TIMEOUT})]
