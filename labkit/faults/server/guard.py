"""A Postgres view in the table's place, which does something of its own before it lets a query read."""

from __future__ import annotations

from labkit.faults.base import Target, Undo
from labkit.faults.server.aside import put_aside, quoted

__all__ = ["guard"]

_CANCEL = """
SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE relation = to_regclass($1) AND relkind = 'v' AND granted AND pid <> pg_backend_pid()
"""


async def guard(target: Target, undo: Undo, condition: str) -> None:
    """Every query on the table evaluates `condition` (SQL) once, before it looks at any row.

    Undone: queries that are still at it are cancelled, and the table takes its place again.
    """
    undo.push(target.bring_back)
    undo.push(lambda: _cancel(target))
    connection = await target.admin()
    async with connection.transaction():
        aside = await put_aside(connection, target.table)
        # An uncorrelated subquery is evaluated once and ahead of the scan, also where the scan will find nothing.
        select = f"SELECT * FROM {aside} WHERE (SELECT {condition})"  # noqa: S608 - quoted, and a fault's own words
        await connection.execute(f"CREATE VIEW {quoted(target.table)} AS {select}")


async def _cancel(target: Target) -> None:
    # The view cannot be dropped while it is read.
    await (await target.admin()).execute(_CANCEL, quoted(target.table))
