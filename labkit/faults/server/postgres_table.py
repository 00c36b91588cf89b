"""Faults of a table in Postgres: it is locked, slow, cut short by a timeout, or gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo, check_seconds
from labkit.faults.server.sessions import hang_up
from labkit.report import Status

__all__ = [
    "DropTable",
    "LockTable",
    "SlowQuery",
    "StatementTimeout",
    "aside",
    "bring_back",
    "guard",
    "put_aside",
    "quoted",
]

_KIND = "SELECT relkind FROM pg_class WHERE oid = to_regclass($1)"


def quoted(name: str) -> str:
    """The name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def put_aside(connection: Any, table: str) -> str:
    """Renames the table; returns the new name, quoted."""
    await connection.execute(f"ALTER TABLE {quoted(table)} RENAME TO {aside(table)}")
    return aside(table)


async def bring_back(connection: Any, table: str) -> None:
    """Undoes `put_aside`, and drops what stands in the table's place. Does nothing if the table was not put aside."""
    async with connection.transaction():
        if await connection.fetchval(_KIND, aside(table)):
            stand_in = await connection.fetchval(_KIND, quoted(table))
            if stand_in:
                kind = "VIEW" if stand_in == b"v" else "TABLE"
                await connection.execute(f"DROP {kind} {quoted(table)}")
            await connection.execute(f"ALTER TABLE {aside(table)} RENAME TO {quoted(table)}")


def aside(table: str) -> str:
    """The name of a table that was put aside, quoted."""
    # A prefix: the server truncates long names at their end, which must not yield the table's own name.
    return quoted(f"aside_{table}")


_CANCEL = """
SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE relation = to_regclass($1) AND relkind = 'v' AND granted AND pid <> pg_backend_pid()
"""


async def guard(target: Target, undo: Undo, condition: str) -> None:
    """Makes every query on the table evaluate `condition` (SQL) once, before it reads any row.

    Undone: queries still in it are cancelled, and the table takes its place again.
    """
    undo.push(target.bring_back)
    undo.push(lambda: _cancel(target))
    connection = await target.admin()
    async with connection.transaction():
        held = await put_aside(connection, target.table)
        # An uncorrelated subquery is evaluated once and ahead of the scan, even if the scan finds nothing.
        select = f"SELECT * FROM {held} WHERE (SELECT {condition})"  # noqa: S608 - quoted, and a fault's own SQL
        await connection.execute(f"CREATE VIEW {quoted(target.table)} AS {select}")


async def _cancel(target: Target) -> None:
    # The view cannot be dropped while it is being read.
    await (await target.admin()).execute(_CANCEL, quoted(target.table))


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


@dataclass(frozen=True)
class SlowQuery(Fault):
    """Every query on the table sleeps for `seconds` on the server before it reads.

    A view with pg_sleep stands in the table's place. Undone: queries that still sleep are cancelled, and the table
    takes its place again. Raises `UsageError` for `seconds` that are not positive.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    fires: ClassVar[str] = Fires.ON_DATA

    seconds: float = 5.0

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds)

    async def start(self, target: Target, undo: Undo) -> None:
        await guard(target, undo, f"pg_sleep({self.seconds!r}) IS NOT NULL")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        late = cls(round(1.5 * timeout, 3))
        return [Sample.of(cls(round(timeout / 20, 3)), {Status.OK}), Sample.of(late, {Status.TIMEOUT})]


_RAISES = """
RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    RAISE query_canceled USING MESSAGE = 'canceling statement due to statement timeout';
END $$
"""


@dataclass(frozen=True)
class StatementTimeout(Fault):
    """The server ends every query on the table after `seconds`, with the SQLSTATE and message of statement_timeout.

    A statement_timeout cannot be imposed from outside, since each session may set its own. So a view stands in the
    table's place, in which each query sleeps and then calls a function that raises what the timeout would: 57014,
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
        # CASE guarantees this order.
        await guard(target, undo, f"CASE WHEN pg_sleep({self.seconds!r}) IS NOT NULL THEN {give_up} END")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(round(timeout / 20, 3)), {Status.TIMEOUT})]


@dataclass(frozen=True)
class DropTable(Fault):
    """The table is gone: "relation does not exist". It is renamed, not dropped, so that nothing is lost.

    Undone: it has its name again.
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
