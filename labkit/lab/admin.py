"""The administrator of one server: his connection, past the proxy, and what he does to the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from labkit.faults.base import Row
from labkit.lab.backends import Backend, Place

__all__ = ["Admin"]


class Admin:
    """`located` says where the server is dialled just now; `table` is its table (or key)."""

    def __init__(self, backend: Backend, located: Callable[[], Place], table: str) -> None:
        self._backend = backend
        self._located = located
        self._table = table
        self._connection: Any = None

    async def connection(self) -> Any:
        """The connection that is kept; another one where it broke."""
        if self._connection is not None and not await self._backend.alive(self._connection):
            self.release()
        if self._connection is None:
            self._connection = await self.connect()
        return self._connection

    async def connect(self) -> Any:
        """One more; the caller closes it."""
        return await self._backend.connect(self._located())

    def release(self) -> None:
        """Closes the connection that is kept, without waiting for the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._backend.hang_up(connection)

    async def rows(self) -> list[Row]:
        """What the server holds now, ascending by id."""
        return await self._backend.rows(await self.connection(), self._table)

    async def put(self, row: Row) -> None:
        """Writes a row, in the place of the one with its id."""
        await self._backend.put(await self.connection(), self._table, row)

    async def delete(self, row_id: int) -> None:
        """Takes a row out, where there is one."""
        await self._backend.delete(await self.connection(), self._table, row_id)

    async def stand_in(self, rows: Iterable[Row]) -> None:
        """Puts the table aside as it is and has one of these rows in its place."""
        await self._backend.stand_in(await self.connection(), self._table, list(rows))

    async def bring_back(self) -> None:
        """Undoes `stand_in`; does nothing where the table is in its place."""
        await self._backend.bring_back(await self.connection(), self._table)
