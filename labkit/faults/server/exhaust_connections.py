"""A server that has no connection left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.sessions import hang_up
from labkit.faults.server.until import until
from labkit.report import Status

__all__ = ["ExhaustConnections"]

BATCH = 8
"""Connections opened side by side."""
FULL = "53300"
"""SQLSTATE "too many connections"."""

_NONE_LEFT = """
SELECT count(*) >= current_setting('max_connections')::int FROM pg_stat_activity WHERE backend_type = 'client backend'
"""


@dataclass(frozen=True)
class ExhaustConnections(Fault):
    """All of max_connections are taken, those for superusers too: "sorry, too many clients already" to who comes now.

    Connections that were there before go on. Undone: those that the fault holds are closed.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True

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
            # A session that is just ending has its place still, and will leave it.
            return bool(errors) and bool(await admin.fetchval(_NONE_LEFT))

        await until(none_left, "the server's last connection")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED}, warm={Status.OK})]
