"""A Postgres table put out of the way under another name, so that nothing of it is lost, and brought back."""

from __future__ import annotations

from typing import Any

__all__ = ["bring_back", "put_aside", "quoted"]

_KIND = "SELECT relkind FROM pg_class WHERE oid = to_regclass($1)"


def quoted(name: str) -> str:
    """The name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


async def put_aside(connection: Any, table: str) -> str:
    """Gives the table another name, and returns that, quoted."""
    await connection.execute(f"ALTER TABLE {quoted(table)} RENAME TO {_aside(table)}")
    return _aside(table)


async def bring_back(connection: Any, table: str) -> None:
    """Gives it its name again; what stands in its place is dropped. Does nothing where it was not put aside."""
    async with connection.transaction():
        if await connection.fetchval(_KIND, _aside(table)):
            stand_in = await connection.fetchval(_KIND, quoted(table))
            if stand_in:
                kind = "VIEW" if stand_in == b"v" else "TABLE"
                await connection.execute(f"DROP {kind} {quoted(table)}")
            await connection.execute(f"ALTER TABLE {_aside(table)} RENAME TO {quoted(table)}")


def _aside(table: str) -> str:
    # In front of the name: the server cuts long names at their end, and this must not become the table's own.
    return quoted(f"aside_{table}")
