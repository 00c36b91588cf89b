"""Postgres, as the client of a lab's servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.lab.backends import Place
from labkit.shards.postgres import PostgresShard

__all__ = ["DATABASE", "INITDB", "PORT", "SETTINGS", "USER", "PostgresBackend"]

USER, DATABASE, PORT = "labkit", "postgres", 5432
INT32_MAX = 2**31 - 1
PATIENCE = 10.0
"""Seconds to connect as the administrator."""

INITDB = ("--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--wal-segsize=1")
SETTINGS = {
    # A lab's data need not outlive the machine, only a SIGKILL of the server: commits are written, not synced.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
}
"""How every launcher sets its servers up."""


class PostgresBackend:
    """One table a server; trust on loopback, since only this machine can reach it."""

    name = "postgres"

    async def connect(self, place: Place) -> Any:
        """A connection of asyncpg. A server that is still starting up counts as not there yet."""
        import asyncpg

        # asyncpg finds a socket by its folder and the port in its name.
        host, port = (str(Path(place).parent), PORT) if isinstance(place, str) else place
        try:
            return await asyncpg.connect(
                host=host, port=port, user=USER, database=DATABASE, ssl=False, timeout=PATIENCE
            )
        except (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError) as error:
            raise ConnectionError(str(error)) from error

    async def ping(self, place: Place) -> None:
        (await self.connect(place)).terminate()

    async def load(self, place: Place, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        kind = "BIGINT" if any(abs(row_id) > INT32_MAX for row_id, _ in rows) else "INT"
        connection = await self.connect(place)
        try:
            await connection.execute(f'CREATE TABLE "{table}" (id {kind} PRIMARY KEY, name VARCHAR(255))')
            await connection.copy_records_to_table(table, records=rows, columns=("id", "name"))
        finally:
            connection.terminate()

    def url(self, port: int) -> str:
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/{DATABASE}?ssl=disable"

    def source(self, url: str, table: str) -> PostgresShard:
        return PostgresShard(url, table)
