"""A server that puts its clients off."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.seconds import check_seconds
from labkit.report import Status

__all__ = ["ClientPause"]

LONGEST = 60
"""Seconds; nobody can end it earlier."""


@dataclass(frozen=True)
class ClientPause(Fault):
    """CLIENT PAUSE: for `seconds` the server takes every command and answers none.

    It cannot be ended early, since CLIENT UNPAUSE is put off as well: undoing it waits for its end. Raises `UsageError`
    for `seconds` that are not positive, or more than 60.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    seconds: float = 3.0

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds, LONGEST)

    async def start(self, target: Target, undo: Undo) -> None:
        clock = asyncio.get_running_loop().time
        admin = await target.admin()
        ends = clock() + self.seconds

        async def over() -> None:
            await asyncio.sleep(ends - clock())
            await (await target.admin()).ping()

        undo.push(over)
        await admin.client_pause(max(1, round(self.seconds * 1000)))

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(round(timeout + 0.5, 3)), {Status.TIMEOUT})]
