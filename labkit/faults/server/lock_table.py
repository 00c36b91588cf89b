"""A table that somebody else has locked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.aside import quoted
from labkit.faults.server.sessions import hang_up
from labkit.report import Status

__all__ = ["LockTable"]


@dataclass(frozen=True)
class LockTable(Fault):
    """An open transaction holds the table in ACCESS EXCLUSIVE mode, as a migration does: every query on it waits.

    Undone: the transaction ends.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        connection = await target.connect()
        undo.push(lambda: hang_up(target, [connection]))
        await connection.execute(f"BEGIN; LOCK TABLE {quoted(target.table)} IN ACCESS EXCLUSIVE MODE")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.TIMEOUT})]
