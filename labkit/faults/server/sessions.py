"""Faults of Postgres's sessions: terminated, exhausted, or lost in a crash of the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from labkit.errors import LabError
from labkit.faults.base import Fault, Fires, Sample, Target, Undo, wait_until
from labkit.report import Status

__all__ = ["CrashRecovery", "ExhaustConnections", "TerminateBackends", "hang_up", "wait_for_end"]

_GONE = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY($1::int[])"


async def hang_up(target: Target, connections: Sequence[Any]) -> None:
    """Closes connections; returns when the server has ended their sessions, with everything that these held."""
    # Skip those that a killed server closed: its successor may reuse their PIDs.
    pids = [connection.get_server_pid() for connection in connections if not connection.is_closed()]
    for connection in connections:
        connection.terminate()
    await wait_for_end(target, pids)


async def wait_for_end(target: Target, pids: Sequence[int]) -> None:
    """Returns when the server has ended these sessions."""

    async def gone() -> bool:
        return bool(await (await target.admin()).fetchval(_GONE, list(pids)))

    if pids:
        await wait_until(gone, "the end of sessions")


_CLIENTS = """
SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name <> current_setting('application_name')
AND datname = current_database()
"""


@dataclass(frozen=True)
class TerminateBackends(Fault):
    """The server ends the sessions of all clients, by pg_terminate_backend, as a failover or an upgrade does.

    Those of other databases and the lab administrator's stay. New clients are served, so there is nothing to undo.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    own_servers: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        admin = await target.admin()
        pids = [row["pid"] for row in await admin.fetch(_CLIENTS)]
        await admin.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids)
        await wait_for_end(target, pids)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # The server's last message may still be in flight when a pooled connection is used.
        return [Sample.of(cls(), {Status.OK}, warm={Status.OK, Status.DISCONNECTED})]


BATCH = 8
"""Connections opened side by side."""
FULL = "53300"
"""SQLSTATE "too many connections"."""

_NONE_LEFT = """
SELECT count(*) >= current_setting('max_connections')::int FROM pg_stat_activity WHERE backend_type = 'client backend'
"""


@dataclass(frozen=True)
class ExhaustConnections(Fault):
    """All of max_connections are taken, superusers' too: new clients get "sorry, too many clients already".

    Existing connections go on. Undone: the fault's connections are closed.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True
    own_servers: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        admin = await target.admin()
        held: list[Any] = []
        undo.push(lambda: hang_up(target, held))

        async def one_more() -> None:
            held.append(await target.connect())

        async def none_left() -> bool:
            outcomes = await asyncio.gather(*(one_more() for _ in range(BATCH)), return_exceptions=True)
            errors = [error for error in outcomes if error is not None]
            for error in errors:
                if getattr(error, "sqlstate", None) != FULL:
                    raise error
            # A session that is just ending still holds its place, and will free it.
            return bool(errors) and bool(await admin.fetchval(_NONE_LEFT))

        await wait_until(none_left, "the server's last connection")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED}, warm={Status.OK})]


# The shell's parent is the session that runs this.
_SUICIDE = "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'"


@dataclass(frozen=True)
class CrashRecovery(Fault):
    """SIGKILL to one session of the server, as the kernel does when memory is short: Postgres ends all others, replays
    its log and goes on. Undone: it answers again.

    Not on servers that labkit did not start: it would end the sessions of other databases too, and with
    restart_after_crash=off the server would stay down.
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
            raise LabError("the server could not kill one of its sessions: it needs a shell with `kill`")

        async def all_ended() -> bool:
            return bool(admin.is_closed())

        await wait_until(all_ended, "the end of all sessions after a crash")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.OK, Status.DISCONNECTED, Status.UNREACHABLE})]
