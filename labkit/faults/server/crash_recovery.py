"""A server that crashes and recovers by itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import LabError
from labkit.faults.base import Fault, Sample, Target, Undo
from labkit.faults.server.until import until
from labkit.report import Status

__all__ = ["CrashRecovery"]

# The shell's parent is the session that runs the command.
_SUICIDE = "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'"


@dataclass(frozen=True)
class CrashRecovery(Fault):
    """SIGKILL to one session of the server, as the kernel does when memory is short: Postgres ends all others, replays
    its log and goes on by itself. Undone: it answers again.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)

    async def start(self, target: Target, undo: Undo) -> None:
        admin, victim = await target.admin(), await target.connect()
        undo.push(target.answers)
        with contextlib.suppress(Exception):
            await victim.execute(_SUICIDE)
        if not victim.is_closed():
            victim.terminate()
            raise LabError("the server could not be made to kill a session of its own: it needs a shell with `kill`")

        async def all_ended() -> bool:
            return bool(admin.is_closed())

        await until(all_ended, "the end of all sessions after a crash")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.OK, Status.DISCONNECTED, Status.UNREACHABLE})]
