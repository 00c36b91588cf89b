"""Sessions that the server ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Sample, Target, Undo
from labkit.faults.server.sessions import wait_for_end
from labkit.report import Status

__all__ = ["TerminateBackends"]

_CLIENTS = """
SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name <> current_setting('application_name')
"""


@dataclass(frozen=True)
class TerminateBackends(Fault):
    """The server ends the sessions of all clients, with pg_terminate_backend, as a failover or an upgrade does.

    Those of the lab's administrator stay. Who connects after that is served, so there is nothing to undo.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)

    async def start(self, target: Target, undo: Undo) -> None:
        admin = await target.admin()
        pids = [row["pid"] for row in await admin.fetch(_CLIENTS)]
        await admin.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids)
        await wait_for_end(target, pids)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # The server's farewell may still be on its way when a pooled connection is used.
        return [Sample.of(cls(), {Status.OK}, warm={Status.OK, Status.DISCONNECTED})]
