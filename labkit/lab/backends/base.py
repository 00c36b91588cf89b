"""A kind of server as its client sees it. Launchers know how to start it: `launchers/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from labkit._types import ShardKey
from labkit.faults.base import Row
from labkit.faults.drift import Drift
from labkit.lab.truth import as_rows
from labkit.shards.base import Shard
from labkit.tables import SCHEMA

__all__ = ["ADMIN_TIMEOUT", "Backend", "OneServer", "Place"]

ADMIN_TIMEOUT = 10.0
"""Seconds for the administrator to connect, and for each command."""

Place: TypeAlias = "str | tuple[str, int]"
"""Where a server listens: the path of a unix socket, or (host, port)."""


class Backend(Protocol):
    """One kind of server."""

    name: str
    user: str
    """The user that clients are; the administrator is another one."""
    schema: pa.Schema
    """The columns of the lab's table, the key first."""

    @property
    def credentials(self) -> str:
        """The credentials that a server starts with. Redis: its users, as lines of its configuration; Postgres: the
        SCRAM verifier of the administrator's password.
        """

    def tables(self, shards: Sequence[ShardKey], name: str | None = None) -> dict[Any, str]:
        """The table (or key) of each shard; `name` is what the lab's owner calls it.

        `UsageError` for a name, and for columns (`schema`), that such a server cannot have.
        """

    def stored(self, rows: pa.Table) -> list[Row]:
        """The rows as that server has them."""

    def members(self, shards: Sequence[ShardKey]) -> list[Any]:
        """What a lab starts servers for: its shards, and further nodes."""

    async def join(self, servers: Mapping[Any, Any]) -> None:
        """Joins servers that form a cluster, once all of them answer and before rows are loaded."""

    async def connect(self, place: Place) -> Any:
        """The administrator's connection, past the proxy: the driver's own object. The caller closes it."""

    async def connect_for_rows(self, place: Place) -> Any:
        """The same for work on rows; None if the administrator's connection serves for that too."""

    async def ping(self, place: Place) -> None:
        """Returns when the server answers; raises OSError if it does not yet."""

    async def load(self, place: Place, table: str, rows: Sequence[Row]) -> Any:
        """Creates the table, inserts the rows, and turns on its change notifications. Returns what `reset` needs to
        know of it.
        """

    async def reset(
        self, admin: Any, connection: Any, table: str, rows: Callable[[], Sequence[Row]], loaded: Any
    ) -> Any:
        """Puts the table back as `load` left it, if it is not that any more; does not wait for what clients still do to
        it, but ends that.

        `connection` is the one for rows; `rows()` makes them; `loaded` is what `load`, or the last `reset`, returned.
        """

    async def alive(self, connection: Any) -> bool:
        """Whether a connection of the administrator's can still be used."""

    def hang_up(self, connection: Any) -> None:
        """Closes one at once, without waiting for the server."""

    def abandon(self, connection: Any) -> None:
        """Closes this process's end of one whose event loop is dead."""

    async def rows(self, connection: Any, table: str) -> list[Row]:
        """All rows of the table, ascending by id."""

    async def put(self, connection: Any, table: str, row: Row) -> None:
        """Writes a row, replacing the one with its id."""

    async def delete(self, connection: Any, table: str, row_id: int) -> None:
        """Deletes a row, if there is one."""

    async def stand_in(self, connection: Any, table: str, rows: list[Row]) -> None:
        """Moves the table aside, and puts one with these rows in its place: ids may be NULL, text or repeated."""

    async def drift(self, connection: Any, table: str, drift: Drift) -> None:
        """Moves the table aside, and puts a copy with other columns in its place."""

    async def bring_back(self, connection: Any, table: str) -> None:
        """Undoes `stand_in` and `drift`; does nothing if the table is in its place."""

    def url(self, port: int) -> str:
        """The URL with which clients connect to 127.0.0.1:`port`."""

    def dsns(self, port: int) -> dict[str, str]:
        """The same for each driver, by its name."""

    def source_url(self, url: str) -> str:
        """The same for a `Shard`: for a cluster, a URL that names all its nodes."""

    def source(self, url: str, table: str) -> Shard:
        """The `Shard` that reads it, by its `source_url`."""


class OneServer:
    """The common part of backends whose servers do not know each other."""

    schema: pa.Schema = SCHEMA

    def tables(self, shards: Sequence[ShardKey], name: str | None = None) -> dict[Any, str]:
        return {shard: name or f"data_{shard}" for shard in shards}

    @property
    def pairs(self) -> bool:
        """Whether the table is the usual one, of (id, name)."""
        return bool(self.schema.equals(SCHEMA))

    def stored(self, rows: pa.Table) -> list[Row]:
        return as_rows(rows)

    def members(self, shards: Sequence[ShardKey]) -> list[Any]:
        return list(shards)

    async def join(self, servers: Mapping[Any, Any]) -> None: ...

    async def connect_for_rows(self, place: Place) -> Any:
        return None

    def source_url(self, url: str) -> str:
        return url
