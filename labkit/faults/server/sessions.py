"""Connections to Postgres that a fault holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labkit.faults.base import Target
from labkit.faults.server.until import until

__all__ = ["hang_up", "wait_for_end"]

_GONE = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY($1::int[])"


async def hang_up(target: Target, connections: Sequence[Any]) -> None:
    """Closes them and returns when the server has ended their sessions, with all that these held."""
    # Of a server that was killed meanwhile nothing is left; another one may use the same numbers again.
    pids = [connection.get_server_pid() for connection in connections if not connection.is_closed()]
    for connection in connections:
        connection.terminate()
    await wait_for_end(target, pids)


async def wait_for_end(target: Target, pids: Sequence[int]) -> None:
    """Returns when the server has no such sessions any more."""

    async def gone() -> bool:
        return bool(await (await target.admin()).fetchval(_GONE, list(pids)))

    if pids:
        await until(gone, "the end of sessions")
