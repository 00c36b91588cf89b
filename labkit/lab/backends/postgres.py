"""Postgres, seen from the client of a lab's servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from labkit._loops import cut
from labkit._types import ShardKey
from labkit.errors import UsageError
from labkit.faults.base import Row
from labkit.faults.drift import Drift
from labkit.faults.server.postgres_table import bring_back, put_aside, quoted
from labkit.lab.access import ADMIN, Access, scram_verifier
from labkit.lab.backends import tables
from labkit.lab.backends.base import ADMIN_TIMEOUT, OneServer, Place
from labkit.lab.backends.restoring import Loaded, Same, compared, drop, end_others, loaded_as
from labkit.shards.postgres.shard import PostgresShard, change_trigger

__all__ = ["DATABASE", "INITDB", "PORT", "SETTINGS", "USER", "PostgresBackend", "PostgresDriver"]

USER, DATABASE, PORT = "labkit", "postgres", 5432
CLERK = "labkit_clerk"
"""The role that works on rows for the administrator: code that clients leave there, such as triggers, must not run with
the administrator's rights."""
INT32_MAX = 2**31 - 1
SESSION = {
    "application_name": "labkit-admin",
    "lock_timeout": "5s",
    "statement_timeout": "8s",
    "search_path": "public",  # not a schema that clients create under the administrator's name
}
"""Settings of the administrator's sessions: the server gives up before `ADMIN_TIMEOUT`, and no undo hangs for ever."""
HOUR = 3600.0
BATCH = 10_000
"""Rows per INSERT; and most rows of which a lab takes the sum of hashes when it starts."""

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
"""Settings that every launcher starts its servers with."""
ROLES = """
CREATE ROLE {user} LOGIN PASSWORD '{client}';
CREATE ROLE {clerk} LOGIN PASSWORD '{admin}' IN ROLE {user};
GRANT ALL ON SCHEMA public TO {user};
GRANT CREATE ON DATABASE {database} TO {user};
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {user};
"""
"""Clients own their tables, and may use what faults put in place of one."""
_abandoned: list[Any] = []
"""Never collected: asyncpg would use a dead loop."""


class PostgresDriver:
    """Connections of asyncpg."""

    async def alive(self, connection: Any) -> bool:
        import asyncpg

        try:
            await connection.execute("SELECT 1")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            return False
        return True

    def hang_up(self, connection: Any) -> None:
        connection.terminate()

    def abandon(self, connection: Any) -> None:
        cut(connection._transport)
        _abandoned.append(connection)


class PostgresBackend(PostgresDriver, OneServer):
    """One table per server. Clients are not superusers."""

    name, user = "postgres", USER

    def __init__(self) -> None:
        self.access = Access()
        self.credentials = scram_verifier(self.access.admin, rounds=1)

    def tables(self, shards: Sequence[ShardKey], name: str | None = None) -> dict[Any, str]:
        if name is not None:
            tables.check_name(name, "table")
            if "." in name:
                raise UsageError(f"the table of a lab is in its own schema, public: table={name!r} must have no dot")
        tables.check(self.schema)
        return super().tables(shards, name)

    async def connect(self, place: Place) -> Any:
        return await self._connect(place, ADMIN, SESSION)

    async def connect_for_rows(self, place: Place) -> Any:
        return await self._connect(place, CLERK, {**SESSION, "role": USER})

    async def _connect(self, place: Place, user: str, session: dict[str, str]) -> Any:
        """A connection of asyncpg. ConnectionError while the server is still starting up."""
        import asyncpg

        # asyncpg takes a socket's folder, and the port in its name.
        host, port = (str(Path(place).parent), PORT) if isinstance(place, str) else place
        try:
            return await asyncpg.connect(
                host=host,
                port=port,
                user=user,
                password=self.access.admin,
                database=DATABASE,
                ssl=False,
                # Override environment variables, which are meant for other servers.
                target_session_attrs="any",
                gsslib="gssapi",
                direct_tls=False,
                timeout=ADMIN_TIMEOUT,
                command_timeout=ADMIN_TIMEOUT,
                statement_cache_size=0,  # tables change under these connections
                server_settings=session,
            )
        except (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError) as error:
            raise ConnectionError(str(error)) from error

    async def ping(self, place: Place) -> None:
        (await self.connect(place)).terminate()

    def stored(self, rows: pa.Table) -> list[Row]:
        return super().stored(rows) if self.pairs else tables.texts(rows)

    async def load(self, place: Place, table: str, rows: Sequence[Row]) -> Loaded:
        connection = await self.connect(place)
        try:
            await connection.execute(self._roles())
        finally:
            connection.terminate()
        connection = await self.connect_for_rows(place)
        try:
            await self._create(connection, table, rows)
            return await loaded_as(connection, table, rows=len(rows) <= BATCH)
        finally:
            connection.terminate()

    async def reset(
        self, admin: Any, connection: Any, table: str, rows: Callable[[], Sequence[Row]], loaded: Loaded
    ) -> Loaded:
        import asyncpg

        now, same = await compared(admin, connection, table, loaded)
        if same is Same.ALL:
            return now
        await end_others(admin, connection, table)
        try:
            if same is Same.DEFINITION:
                async with connection.transaction():
                    await connection.execute(f"TRUNCATE ONLY {quoted(table)}")
                    await self._fill(connection, table, rows())
                return await loaded_as(connection, table, rows=True)
        except asyncpg.FeatureNotSupportedError:
            pass  # another table refers to it by a foreign key
        async with connection.transaction():
            await drop(connection, table)
            await self._create(connection, table, rows())
        return await loaded_as(connection, table, rows=True)

    async def rows(self, connection: Any, table: str) -> list[Row]:
        select = tables.select(table, self.schema)
        async with _unhurried(connection):
            found = await connection.fetch(select, timeout=HOUR)
        return [(row[0], row[1] if self.pairs else tuple(row)[1:]) for row in found]

    async def put(self, connection: Any, table: str, row: Row) -> None:
        if not self.pairs:
            await connection.execute(tables.upsert(table, self.schema, "bigint"), *self._arrays([row]))
            return
        insert = f"INSERT INTO {quoted(table)} (id, name) VALUES ($1, $2)"  # noqa: S608 - quoted
        await connection.execute(f"{insert} ON CONFLICT (id) DO UPDATE SET name = excluded.name", *row)

    async def delete(self, connection: Any, table: str, row_id: int) -> None:
        key = quoted(self.schema.names[0])
        await connection.execute(f"DELETE FROM {quoted(table)} WHERE {key} = $1", row_id)  # noqa: S608 - quoted

    async def stand_in(self, connection: Any, table: str, rows: list[Row]) -> None:
        text = any(isinstance(row_id, str) for row_id, _ in rows)
        if text:
            rows = [(None if row_id is None else str(row_id), name) for row_id, name in rows]
        key, *others = map(quoted, self.schema.names)
        if self.pairs:
            others = [f"{others[0]}::TEXT AS {others[0]}"]
        columns = ", ".join([f"{key}{'::TEXT' * text} AS {key}", *others])
        async with connection.transaction():
            aside = await put_aside(connection, table)
            # This copies types, but no constraints.
            like = f"SELECT {columns} FROM {aside} WITH NO DATA"  # noqa: S608 - quoted
            await connection.execute(f"CREATE TABLE {quoted(table)} AS {like}")
            await self._fill(connection, table, rows, key="text" if text else "bigint")

    async def drift(self, connection: Any, table: str, drift: Drift) -> None:
        async with _unhurried(connection):
            aside = await put_aside(connection, table)
            await connection.execute(f"CREATE TABLE {quoted(table)} AS TABLE {aside}", timeout=HOUR)
            await connection.execute(f"ALTER TABLE {quoted(table)} ADD PRIMARY KEY ({quoted(self.schema.names[0])})")
            await connection.execute(f"ALTER TABLE {quoted(table)} {tables.migration(drift)}", timeout=HOUR)

    async def bring_back(self, connection: Any, table: str) -> None:
        await bring_back(connection, table)

    def url(self, port: int) -> str:
        return f"postgresql://{USER}:{self.access.client}@127.0.0.1:{port}/{DATABASE}?sslmode=disable"

    def dsns(self, port: int) -> dict[str, str]:
        place = f"127.0.0.1:{port}/{DATABASE}"
        return {
            "psycopg": self.url(port),
            "asyncpg": self.url(port),
            "sqlalchemy": f"postgresql+asyncpg://{USER}:{self.access.client}@{place}?ssl=disable",
            "jdbc": f"jdbc:postgresql://{place}?user={USER}&password={self.access.client}&sslmode=disable",
        }

    def _roles(self) -> str:
        client, admin = scram_verifier(self.access.client), self.credentials
        return ROLES.format(database=DATABASE, user=USER, clerk=CLERK, client=client, admin=admin)

    def source(self, url: str, table: str) -> PostgresShard:
        return PostgresShard(url, table, key=self.schema.names[0])

    async def _create(self, connection: Any, table: str, rows: Sequence[Row]) -> None:
        if self.pairs:
            kind = "BIGINT" if any(abs(row_id) > INT32_MAX for row_id, _ in rows) else "INT"
            await connection.execute(f"CREATE TABLE {quoted(table)} (id {kind} PRIMARY KEY, name VARCHAR(255))")
        else:
            await connection.execute(tables.create(table, self.schema))
        await self._fill(connection, table, rows)
        await connection.execute(change_trigger(table))

    async def _fill(self, connection: Any, table: str, rows: Sequence[Row], key: str = "bigint") -> None:
        async with _unhurried(connection):
            if self.pairs:
                await connection.copy_records_to_table(table, records=rows, columns=("id", "name"), timeout=HOUR)
                return
            insert = tables.insert(table, self.schema, key)
            for start in range(0, len(rows), BATCH):
                await connection.execute(insert, *self._arrays(rows[start : start + BATCH]), timeout=HOUR)

    def _arrays(self, rows: Sequence[Row]) -> list[list[Any]]:
        """The rows as one array of texts per column. One that a fault made up has a name only: its values are NULL."""
        keys = [None if row_id is None else str(row_id) for row_id, _ in rows]
        nothing = (None,) * (len(self.schema) - 1)
        others = [values if isinstance(values, tuple) else nothing for _, values in rows]
        return [keys, *map(list, zip(*others, strict=True))]


@asynccontextmanager
async def _unhurried(connection: Any) -> AsyncIterator[None]:
    """A transaction without the session's timeout: many rows take long on a healthy server."""
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        yield
