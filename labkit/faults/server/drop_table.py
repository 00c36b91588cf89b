"""A table that is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.aside import put_aside
from labkit.report import Status

__all__ = ["DropTable"]


@dataclass(frozen=True)
class DropTable(Fault):
    """The table is gone: "relation does not exist". So that nothing is lost, it is not dropped but has another name.

    Undone: it has its own again.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_DATA

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(target.bring_back)
        connection = await target.admin()
        async with connection.transaction():
            await put_aside(connection, target.table)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]
