"""Postgres servers for a lab: one initdb, copied for each shard, on unix sockets."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.lab.binaries import is_root, open_to_all, postgres_home, wheel_parts
from labkit.lab.keeper.client import KeeperClient
from labkit.shards.postgres import PostgresShard

__all__ = ["PostgresBackend"]

USER, DATABASE, PORT = "labkit", "postgres", 5432
INT32_MAX = 2**31 - 1

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    # A lab's data need not outlive the machine, only a SIGKILL of the server: commits are written, not synced.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    # Nothing outside of the shard's folder, so that a SIGKILL leaves nothing there.
    "dynamic_shared_memory_type": "mmap",
}


class PostgresBackend:
    """The newest Postgres found here; trust on loopback, since only this machine can reach it."""

    drop = True
    farewell = signal.SIGQUIT  # an immediate shutdown, which takes the shared memory along

    def __init__(self) -> None:
        self._home = postgres_home()

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        if is_root() and not open_to_all(self._home):
            below, parts = wheel_parts(self._home)
            copy = Path(await keeper.ask("install", below=str(below), parts=parts))
            self._home = copy / self._home.relative_to(below)
        folders = [await keeper.ask("folder", name=str(i + 1), drop=True) for i in range(count)]
        await keeper.ask("run", commands=[self._initdb(folders[0])], drop=True)
        copies = [["cp", "-R", f"{folders[0]}/.", folder] for folder in folders[1:]]
        await keeper.ask("run", commands=copies, drop=True)
        return folders

    def command(self, folder: str) -> list[str]:
        settings = {**SETTINGS, "unix_socket_directories": folder}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._home / "bin/postgres"), "-D", folder, *options]

    def upstream(self, folder: str) -> str:
        return f"{folder}/.s.PGSQL.{PORT}"

    async def ping(self, folder: str) -> None:
        connection = await self._admin(folder)
        connection.terminate()

    async def load(self, folder: str, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        kind = "BIGINT" if any(abs(row_id) > INT32_MAX for row_id, _ in rows) else "INT"
        connection = await self._admin(folder)
        try:
            await connection.execute(f'CREATE TABLE "{table}" (id {kind} PRIMARY KEY, name VARCHAR(255))')
            await connection.copy_records_to_table(table, records=rows, columns=("id", "name"))
        finally:
            connection.terminate()

    def url(self, port: int) -> str:
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/{DATABASE}?ssl=disable"

    def source(self, url: str, table: str) -> PostgresShard:
        return PostgresShard(url, table)

    def _initdb(self, folder: str) -> list[str]:
        options = ["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1"]
        return [str(self._home / "bin/initdb"), "-D", folder, "-U", USER, *options]

    async def _admin(self, folder: str) -> Any:
        """A connection past the proxy; a server that is still starting up counts as not there yet."""
        import asyncpg

        try:
            return await asyncpg.connect(host=folder, port=PORT, user=USER, database=DATABASE, timeout=10)
        except asyncpg.CannotConnectNowError as error:
            raise ConnectionError(str(error)) from error
