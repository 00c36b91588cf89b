"""Queries that the server itself gives up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.guard import guard
from labkit.faults.server.seconds import check_seconds
from labkit.status import Status

__all__ = ["StatementTimeout"]


@dataclass(frozen=True)
class StatementTimeout(Fault):
    """The server cancels every query on the table after `seconds`, with SQLSTATE 57014 as its statement_timeout does.

    A session's own statement_timeout cannot be imposed from outside, since the session may set another one: so a view
    stands in the table's place, in which each query sleeps and then cancels itself with pg_cancel_backend. The code is
    the same, the words are "due to user request". Undone: the table takes its place again. Raises `UsageError` for
    `seconds` that are not positive.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_DATA

    seconds: float = 0.1

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds)

    async def start(self, target: Target, undo: Undo) -> None:
        # CASE evaluates in this order. The cancellation is a signal, which the second sleep waits for.
        slept, cancelled = f"pg_sleep({self.seconds!r}) IS NOT NULL", "pg_cancel_backend(pg_backend_pid())"
        await guard(target, undo, f"CASE WHEN {slept} THEN CASE WHEN {cancelled} THEN pg_sleep(60) IS NOT NULL END END")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(round(timeout / 20, 3)), {Status.TIMEOUT})]
