"""Faults of a table in Postgres: it is locked, slow, cut short by a timeout, or gone."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex
from typing import Any, ClassVar

from labkit.errors import LabError
from labkit.faults.base import Fault, Fires, Sample, Target, Undo, UndoCommand, check_seconds
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
    "literal",
    "put_aside",
    "qualified",
    "quoted",
]

ASIDE = "aside_"
"""Before the name of a table that was put aside."""
_KIND = "SELECT relkind FROM pg_class WHERE oid = to_regclass($1)"


def quoted(name: str) -> str:
    """The name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def qualified(table: str) -> str:
    """A table's name, or `schema.name`, as quoted SQL identifiers."""
    schema, dot, name = table.rpartition(".")
    return f"{quoted(schema)}.{quoted(name)}" if dot else quoted(name)


def literal(text: str) -> str:
    """The text as a quoted SQL literal, for sessions with standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


async def put_aside(connection: Any, table: str) -> str:
    """Renames the table; returns the new name, quoted."""
    await connection.execute(f"ALTER TABLE {qualified(table)} RENAME TO {quoted(ASIDE + table.rpartition('.')[2])}")
    return aside(table)


async def bring_back(connection: Any, table: str) -> None:
    """Undoes `put_aside`, and drops what stands in the table's place. Does nothing if the table was not put aside."""
    async with connection.transaction():
        if await connection.fetchval(_KIND, aside(table)):
            stand_in = await connection.fetchval(_KIND, qualified(table))
            if stand_in:
                kind = "VIEW" if stand_in == b"v" else "TABLE"
                await connection.execute(f"DROP {kind} {qualified(table)}")
            await connection.execute(_rename_back(table))


def aside(table: str) -> str:
    """The name of a table that was put aside, quoted."""
    return qualified(_beside(table, ASIDE))


def _beside(table: str, prefix: str) -> str:
    """Another name in its schema. A prefix: the server truncates long names at their end, which must not yield the
    table's own name.
    """
    schema, dot, name = table.rpartition(".")
    return f"{schema}{dot}{prefix}{name}"


def _rename_back(table: str) -> str:
    return f"ALTER TABLE {aside(table)} RENAME TO {quoted(table.rpartition('.')[2])}"


_BRING_BACK = """
DECLARE
    stand_in oid;
BEGIN
    -- By its OID: what else has such a name is not the fault's.
    WHILE EXISTS (SELECT FROM pg_class WHERE oid = {oid} AND oid = to_regclass({aside})) LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '100ms', true);
            stand_in := (SELECT oid FROM pg_class WHERE oid = to_regclass({table}) AND relkind = 'v'
                         AND obj_description(oid, 'pg_class') = {mark});
            IF stand_in IS NOT NULL THEN
                -- The view cannot be dropped while it is being read.
                BEGIN
                    PERFORM pg_cancel_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database
                    WHERE relation = stand_in AND datname = current_database() AND granted AND pid <> pg_backend_pid();
                EXCEPTION WHEN insufficient_privilege THEN
                    NULL; -- then it takes as long as they read
                END;
                DROP VIEW {view};
            END IF;
            {rename};
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            NULL; -- once more, until the session's statement_timeout
        END;
    END LOOP;
END
"""


async def _promised(fault: Fault, target: Target, undo: Undo) -> str:
    """Promises to bring the table back; returns the comment that marks what may be dropped for that."""
    oid = await (await target.admin()).fetchval("SELECT to_regclass($1)::oid", qualified(target.table))
    if oid is None:
        raise LabError(f"the database has no table {target.table!r}: if it is in another schema, write schema.table")
    mark = f"labkit {token_hex(8)}: stands in until a fault is undone"
    body = _BRING_BACK.format(
        oid=oid,
        aside=literal(aside(target.table)),
        table=literal(qualified(target.table)),
        mark=literal(mark),
        view=qualified(target.table),
        rename=_rename_back(target.table),
    )
    undo.push(await target.promise(fault, UndoCommand((f"DO {literal(body)}",))))
    return mark


INVOKER = 150_000
"""The version of Postgres since which a view can be read with the rights of who reads it."""


async def guard(fault: Fault, target: Target, undo: Undo, condition: str) -> None:
    """Makes every query on the table evaluate `condition` (SQL) once, before it reads any row.

    Undone: queries still in it are cancelled, and the table takes its place again.
    """
    mark = await _promised(fault, target, undo)
    connection, view = await target.admin(), qualified(target.table)
    invoker = int(await connection.fetchval("SHOW server_version_num")) >= INVOKER
    async with connection.transaction():
        held = await put_aside(connection, target.table)
        # An uncorrelated subquery is evaluated once and ahead of the scan, even if the scan finds nothing.
        select = f"SELECT * FROM {held} WHERE (SELECT {condition})"  # noqa: S608 - quoted, and a fault's own SQL
        await connection.execute(f"CREATE VIEW {view} {'WITH (security_invoker)' * invoker} AS {select}")
        await connection.execute(f"COMMENT ON VIEW {view} IS {literal(mark)}")
        if invoker:  # the table's own privileges and policies apply
            await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {view} TO PUBLIC")


@dataclass(frozen=True)
class LockTable(Fault):
    """An open transaction holds the table in ACCESS EXCLUSIVE mode, as a migration does: every query on it waits.

    Undone: the transaction ends.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("postgres",)
    own_servers: ClassVar[bool] = True
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        connection = await target.connect()
        undo.push(lambda: hang_up(target, [connection]))
        await connection.execute(f"BEGIN; LOCK TABLE {qualified(target.table)} IN ACCESS EXCLUSIVE MODE")

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
    own_servers: ClassVar[bool] = True
    fires: ClassVar[str] = Fires.ON_DATA

    seconds: float = 5.0

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds)

    async def start(self, target: Target, undo: Undo) -> None:
        await guard(self, target, undo, f"pg_sleep({self.seconds!r}) IS NOT NULL")

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
    own_servers: ClassVar[bool] = True
    fires: ClassVar[str] = Fires.ON_DATA

    seconds: float = 0.1

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds)

    async def start(self, target: Target, undo: Undo) -> None:
        give_up = f"{qualified(_beside(target.table, 'give_up_'))}()"
        mark = f"labkit {token_hex(8)}: raises until a fault is undone"
        theirs = f"obj_description(to_regprocedure({literal(give_up)}), 'pg_proc') = {literal(mark)}"
        drop = f"BEGIN IF {theirs} THEN DROP FUNCTION {give_up}; END IF; END"
        undo.push(await target.promise(self, UndoCommand((f"DO {literal(drop)}",))))
        connection = await target.admin()
        async with connection.transaction():
            await connection.execute(f"CREATE FUNCTION {give_up} {_RAISES}")
            await connection.execute(f"COMMENT ON FUNCTION {give_up} IS {literal(mark)}")
            await connection.execute(f"GRANT EXECUTE ON FUNCTION {give_up} TO PUBLIC")
        # CASE guarantees this order.
        await guard(self, target, undo, f"CASE WHEN pg_sleep({self.seconds!r}) IS NOT NULL THEN {give_up} END")

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
    own_servers: ClassVar[bool] = True
    fires: ClassVar[str] = Fires.ON_DATA

    async def start(self, target: Target, undo: Undo) -> None:
        await _promised(self, target, undo)
        connection = await target.admin()
        async with connection.transaction():
            await put_aside(connection, target.table)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]
