"""Queries that the server itself gives up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.aside import quoted
from labkit.faults.server.guard import guard
from labkit.faults.server.seconds import check_seconds
from labkit.report import Status

__all__ = ["StatementTimeout"]

_RAISES = """
RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    RAISE query_canceled USING MESSAGE = 'canceling statement due to statement timeout';
END $$
"""


@dataclass(frozen=True)
class StatementTimeout(Fault):
    """The server ends every query on the table after `seconds`, with the SQLSTATE and the words of statement_timeout.

    A statement_timeout cannot be imposed from outside, since each session may set its own: so a view stands in the
    table's place, in which each query sleeps and then meets a function that raises what the timeout would, 57014,
    "canceling statement due to statement timeout". Undone: the table takes its place again. Raises `UsageError` for
    `seconds` that are not positive.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_DATA

    seconds: float = 0.1

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds)

    async def start(self, target: Target, undo: Undo) -> None:
        give_up = f"{quoted(f'give_up_{target.table}')}()"

        async def drop() -> None:
            await (await target.admin()).execute(f"DROP FUNCTION IF EXISTS {give_up}")

        undo.push(drop)
        await (await target.admin()).execute(f"CREATE FUNCTION {give_up} {_RAISES}")
        # CASE evaluates in this order.
        await guard(target, undo, f"CASE WHEN pg_sleep({self.seconds!r}) IS NOT NULL THEN {give_up} END")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(round(timeout / 20, 3)), {Status.TIMEOUT})]
