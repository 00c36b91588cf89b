"""What a lab knows of a kind of server, as its client.

How a server is started is what launchers know: `launchers/embedded/` its programs, `launchers/docker/` its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from labkit._types import ShardKey
from labkit.faults.base import Row
from labkit.shards.base import Shard

__all__ = ["Backend", "OneServer", "Place"]

Place: TypeAlias = "str | tuple[str, int]"
"""Where a server listens: the path of a unix socket, or (host, port)."""


class Backend(Protocol):
    """One kind of server."""

    name: str

    @property
    def credentials(self) -> str:
        """What a server is told of passwords when it starts. Redis: its users, in the words of its configuration;
        Postgres: what it keeps of the administrator's password.
        """

    def tables(self, shards: Sequence[ShardKey]) -> dict[Any, str]:
        """The table (or key) of each shard."""

    def members(self, shards: Sequence[ShardKey]) -> list[Any]:
        """What a lab starts a server for: its shards, and servers beside them."""

    async def join(self, servers: Mapping[Any, Any]) -> None:
        """Makes known to each other what belongs together, once all servers answer and before rows are loaded."""

    async def connect(self, place: Place) -> Any:
        """An admin connection, past the proxy, in the driver's own terms. The caller closes it."""

    async def connect_for_rows(self, place: Place) -> Any:
        """The same for what deals with rows; None where that is done on an admin connection as well."""

    async def ping(self, place: Place) -> None:
        """Returns when the server answers; raises OSError when it does not yet."""

    async def load(self, place: Place, table: str, rows: Sequence[tuple[int, str | None]]) -> None:
        """Makes the table, puts the rows in, and has it tell of changes from then on."""

    async def alive(self, connection: Any) -> bool:
        """Whether an admin connection can still be used."""

    def hang_up(self, connection: Any) -> None:
        """Closes an admin connection at once, without waiting for the server."""

    def abandon(self, connection: Any) -> None:
        """Closes this process's end of one whose loop can do nothing any more."""

    async def rows(self, connection: Any, table: str) -> list[Row]:
        """All rows of the table, ascending by id."""

    async def put(self, connection: Any, table: str, row: Row) -> None:
        """Writes a row, in the place of the one with its id."""

    async def delete(self, connection: Any, table: str, row_id: int) -> None:
        """Takes a row out, where there is one."""

    async def stand_in(self, connection: Any, table: str, rows: list[Row]) -> None:
        """Puts the table aside as it is, and has one of these rows in its place: ids may be NULL, text, repeated."""

    async def bring_back(self, connection: Any, table: str) -> None:
        """Undoes `stand_in`; does nothing where the table was not put aside."""

    def url(self, port: int) -> str:
        """The URL by which clients dial 127.0.0.1:`port`."""

    def dsns(self, port: int) -> dict[str, str]:
        """The same as each driver takes it."""

    def source_url(self, url: str) -> str:
        """The same for a `Shard`: of a cluster, one that names all its nodes."""

    def source(self, url: str, table: str) -> Shard:
        """The reader's end of a shard, by its `source_url`."""


class OneServer:
    """What is the same for all kinds where a server knows of no other."""

    def tables(self, shards: Sequence[ShardKey]) -> dict[Any, str]:
        return {shard: f"data_{shard}" for shard in shards}

    def members(self, shards: Sequence[ShardKey]) -> list[Any]:
        return list(shards)

    async def join(self, servers: Mapping[Any, Any]) -> None: ...

    async def connect_for_rows(self, place: Place) -> Any:
        return None

    def source_url(self, url: str) -> str:
        return url
