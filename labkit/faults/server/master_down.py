"""A replica that has lost its master."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.setting import change
from labkit.report import Status

__all__ = ["MasterDown"]

NOBODY = ("127.0.0.1", "1")
"""Where no master is."""


@dataclass(frozen=True)
class MasterDown(Fault):
    """The server is a replica whose master is not there, and may not serve stale data: "MASTERDOWN" to every read.

    Its data stay, since there is no master that it could copy. Undone: REPLICAOF NO ONE, and
    replica-serve-stale-data is put back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis",)
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        await change(target, undo, "replica-serve-stale-data", "no")
        undo.push(partial(_replica_of, target, "NO", "ONE"))
        await _replica_of(target, *NOBODY)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]


async def _replica_of(target: Target, host: str, port: str) -> None:
    await (await target.admin()).execute_command("REPLICAOF", host, port)
