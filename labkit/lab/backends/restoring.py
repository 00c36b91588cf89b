"""A lab's table in Postgres, compared with what it was when it was loaded: its definition, and its rows.

Source: PostgreSQL documentation, "System Catalogs", "pg_locks", "Server Signaling Functions".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

from labkit.faults.server.postgres_table import aside, quoted

__all__ = ["Loaded", "Same", "compared", "drop", "end_others", "loaded_as"]

HOUR = 3600.0
PATIENCE = 5000
"""Milliseconds for a session to end."""


@dataclass(frozen=True)
class Loaded:
    """The table of a lab as it should be."""

    mark: str
    """Start of the server, and the end of its write-ahead log: while it is the same, nothing was written."""
    definition: str
    rows: str | None = None
    """The number of rows, and the sum of their hashes; None for many rows before the first reset, which
    writes them again."""


class Same(Enum):
    """What of a table is still as it was loaded."""

    ALL = "all"
    DEFINITION = "definition"
    NOTHING = "nothing"


_MARK = "SELECT pg_postmaster_start_time() || ' ' || pg_current_wal_insert_lsn()"
_CHANGING = "mode <> 'AccessShareLock'"
_OTHERS = "relation = to_regclass($1)::oid AND pid <> pg_backend_pid()"
_SEEN = f"SELECT ({_MARK}), ARRAY(SELECT pid FROM pg_locks WHERE {_OTHERS} AND {_CHANGING})"  # noqa: S608 - constants
_HOLDERS = f"""
SELECT DISTINCT pid FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
WHERE {_OTHERS} AND ({_CHANGING} OR state IS DISTINCT FROM 'active')
"""  # noqa: S608 - constants

# Whole rows of the catalogues, without what changes by itself.
_DEFINITION = """
WITH found AS (SELECT to_regclass($1)::oid AS oid)
SELECT string_agg(part, chr(10) ORDER BY part COLLATE "C") FROM (
    SELECT 'aside' AS part FROM found WHERE to_regclass($2) IS NOT NULL
    UNION ALL SELECT (to_jsonb(c) - ARRAY[
        'relfilenode', 'relpages', 'reltuples', 'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid',
        'relhasindex', 'relhastriggers', 'relhasrules', 'relhassubclass', 'reltoastrelid'])::text
        FROM found JOIN pg_class AS c USING (oid)
    UNION ALL SELECT a::text FROM found JOIN pg_attribute AS a ON attrelid = found.oid
    UNION ALL SELECT d::text FROM found JOIN pg_attrdef AS d ON adrelid = found.oid
    UNION ALL SELECT k::text FROM found JOIN pg_constraint AS k ON conrelid = found.oid
    UNION ALL SELECT (to_jsonb(i) - 'indcheckxmin')::text FROM found JOIN pg_index AS i ON indrelid = found.oid
    UNION ALL SELECT t::text FROM found JOIN pg_trigger AS t ON tgrelid = found.oid WHERE NOT tgisinternal
    UNION ALL SELECT p::text FROM found JOIN pg_trigger AS t ON tgrelid = found.oid JOIN pg_proc AS p ON p.oid = tgfoid
        WHERE NOT tgisinternal
    UNION ALL SELECT r::text FROM found JOIN pg_rewrite AS r ON ev_class = found.oid
    UNION ALL SELECT p::text FROM found JOIN pg_policy AS p ON polrelid = found.oid
    UNION ALL SELECT h::text FROM found JOIN pg_inherits AS h ON found.oid IN (inhrelid, inhparent)
) AS parts
"""

_prepared: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Of each connection the statement that every reset begins with, so that it takes one round trip."""

_KINDS = {
    b"r": "TABLE", b"p": "TABLE", b"v": "VIEW", b"m": "MATERIALIZED VIEW", b"f": "FOREIGN TABLE", b"S": "SEQUENCE",
    b"i": "INDEX", b"I": "INDEX", b"c": "TYPE",
}  # fmt: skip


async def loaded_as(connection: Any, table: str, *, rows: bool = False) -> Loaded:
    """The table as it is now, just loaded."""
    mark = await connection.fetchval(_MARK)  # first: what is written after this is noticed
    return Loaded(mark, await _definition(connection, table), await _rows(connection, table) if rows else None)


async def compared(admin: Any, connection: Any, table: str, loaded: Loaded) -> tuple[Loaded, Same]:
    """What is still the same, once transactions that clients left open in the table have been ended."""
    if connection not in _prepared:
        _prepared[connection] = await connection.prepare(_SEEN)
    mark, writers = await _prepared[connection].fetchrow(quoted(table))
    if writers:
        await _end(admin, writers)
        mark = await connection.fetchval(_MARK)
    if mark == loaded.mark:
        return loaded, Same.ALL
    if await _definition(connection, table) != loaded.definition:
        return loaded, Same.NOTHING
    if loaded.rows is None or await _rows(connection, table) != loaded.rows:
        return loaded, Same.DEFINITION
    return replace(loaded, mark=mark), Same.ALL


async def end_others(admin: Any, connection: Any, table: str) -> None:
    """Ends the sessions that would keep the table from being replaced; waits for none but running queries."""
    holders = await connection.fetch(_HOLDERS, quoted(table))
    await _end(admin, [pid for (pid,) in holders])


async def drop(connection: Any, table: str) -> None:
    """Drops whatever has the table's name, or the name under which faults put it aside, and what depends on it."""
    for name in (quoted(table), aside(table)):
        kind = await connection.fetchval("SELECT relkind FROM pg_class WHERE oid = to_regclass($1)", name)
        if kind is not None:
            await connection.execute(f"DROP {_KINDS[kind]} {name} CASCADE")


async def _definition(connection: Any, table: str) -> str:
    return str(await connection.fetchval(_DEFINITION, quoted(table), aside(table)))


async def _rows(connection: Any, table: str) -> str:
    hashes = "count(*) || ' ' || coalesce(sum(hashtextextended(held::text, 0)::numeric), 0)"
    select = f"SELECT {hashes} FROM ONLY {quoted(table)} AS held"  # noqa: S608 - quoted
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        return str(await connection.fetchval(select, timeout=HOUR))


async def _end(admin: Any, pids: list[int]) -> None:
    # Of pg_catalog, and of its exact types: clients may have functions by that name, which the administrator must not
    # call.
    ended = "SELECT pg_catalog.pg_terminate_backend(pid, $2::bigint) FROM pg_catalog.unnest($1::int[]) AS pid"
    if pids:
        await admin.execute(ended, pids, PATIENCE)
