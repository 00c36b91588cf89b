"""The servers to read from: embedded ones, as in labs, reached on their unix sockets without a proxy.

The labs' keeper runs them, so they end with us, however we end. They require no password, to leave logins out of the
measurement: other users cannot enter the folders of their sockets.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click

from labkit.lab.access import ADMIN
from labkit.lab.backends.base import Backend
from labkit.lab.backends.postgres import PostgresBackend
from labkit.lab.backends.redis import RedisBackend
from labkit.lab.keeper import folders
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.launchers.binaries import is_root, open_to_all, postgres_home
from labkit.lab.launchers.embedded import EmbeddedShard, Program
from labkit.lab.launchers.postgres import PostgresProgram
from labkit.lab.launchers.redis import RedisProgram
from tests.bench.task import USER

__all__ = ["enough_room", "federating", "postgres_servers", "redis_servers"]

CONNECTIONS = 300
"""Enough for a hundred shards on three servers, for several contestants at once."""
ROW = 130
"""The most bytes that a row takes on a server, including its index and log."""


class Postgres(PostgresProgram):
    """The newest installed Postgres, or the one in `home`, with trusted logins and room for more clients."""

    def __init__(self, backend: Backend, home: Path | None = None) -> None:
        super().__init__(backend.credentials)
        self._home = home or postgres_home()

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        made = await super().prepare(keeper, count)
        _trust_local(made)
        return made

    def command(self, folder: str) -> list[str]:
        return [*super().command(folder), "-c", f"max_connections={CONNECTIONS}"]


def _trust_local(folders: Sequence[str]) -> None:
    for folder in folders:
        Path(folder, "pg_hba.conf").write_text("local all all trust\n")  # overwriting keeps the file's owner


@asynccontextmanager
async def postgres_servers(count: int = 3) -> AsyncIterator[list[str]]:
    """Starts `count` Postgres servers; gives the folders of their unix sockets."""
    async with _postgres(count) as places:
        yield places


@asynccontextmanager
async def redis_servers(count: int = 3) -> AsyncIterator[list[str]]:
    """Starts `count` Redis servers, which want no password of clients; gives their unix sockets."""
    backend = RedisBackend()
    administrator = f"user {ADMIN} on >{backend.access.admin} ~* &* +@all\n"
    async with _running(RedisProgram(administrator), backend, count) as places:
        yield places


@asynccontextmanager
async def federating() -> AsyncIterator[str | None]:
    """Starts a fourth Postgres that has postgres_fdw; gives its folder, or None if none is installed."""
    home = _home_with_fdw()
    if home is None:
        yield None
        return
    async with _postgres(1, home) as places:
        yield places[0]


def enough_room(rows: int) -> None:
    """Raises click.ClickException if the disk has no room for this many rows; TMPDIR selects another disk."""
    where, needed = folders.data_folder(), rows * ROW + folders.ENOUGH // 2
    free = shutil.disk_usage(where).free
    if free < needed:
        raise click.ClickException(
            f"{rows:,} rows need {needed >> 20:,} MB in {where}, where {free >> 20:,} MB are free: "
            "set TMPDIR to a larger disk, or pass fewer --rows"
        )


@asynccontextmanager
async def _postgres(count: int, home: Path | None = None) -> AsyncIterator[list[str]]:
    backend = PostgresBackend()
    async with _running(Postgres(backend, home), backend, count) as places:
        for place in places:
            connection = await backend.connect(place)
            await connection.execute(f"CREATE ROLE {USER} SUPERUSER LOGIN")
            connection.terminate()
        yield [str(Path(place).parent) for place in places]


@asynccontextmanager
async def _running(program: Program, backend: Backend, count: int) -> AsyncIterator[list[str]]:
    keeper = KeeperClient()
    try:
        await keeper.greet()
        made = await program.prepare(keeper, count)
        shards = [EmbeddedShard(keeper, backend, str(i), program, folder) for i, folder in enumerate(made, start=1)]
        await _started(shards)
        yield [str(shard.place) for shard in shards]
    finally:
        await keeper.aclose()


async def _started(shards: Sequence[EmbeddedShard]) -> None:
    async with asyncio.TaskGroup() as group:
        for shard in shards:
            group.create_task(shard.start())


def _home_with_fdw() -> Path | None:
    on_path = shutil.which("postgres")
    homes = [*Path("/usr/lib/postgresql").glob("*"), *([Path(on_path).resolve().parent.parent] if on_path else [])]
    able = [home for home in homes if _has_fdw(home) and (not is_root() or open_to_all(home))]
    return max(able, key=_version, default=None)


def _has_fdw(home: Path) -> bool:
    found = [*home.glob("lib/postgres_fdw.*"), *home.glob("lib/postgresql/postgres_fdw.*")]
    return bool(found) and (home / "bin/initdb").exists()


def _version(home: Path) -> int:
    found = re.search(r"\d+", home.name)
    return int(found[0]) if found else 0
