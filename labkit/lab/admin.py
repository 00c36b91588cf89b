"""The administrator of one server: his connection, past the proxy, and what he does to the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from labkit.faults.base import Row
from labkit.lab.backends import Backend, Place
from labkit.loops import PerLoop

__all__ = ["Admin"]


@dataclass
class _Kept:
    connection: Any = None


class Admin:
    """`located` says where the server is dialled just now; `table` is its table (or key). One connection is kept for
    each event loop.
    """

    def __init__(self, backend: Backend, located: Callable[[], Place], table: str) -> None:
        self._backend = backend
        self._located = located
        self._table = table
        self._kept: PerLoop[_Kept] = PerLoop(_Kept, self._close, self._abandon)

    async def connection(self) -> Any:
        """The connection that is kept; another one where it broke."""
        kept = self._kept.here()
        if kept.connection is not None and not await self._backend.alive(kept.connection):
            self.release()
        if kept.connection is None:
            kept.connection = await self.connect()
        return kept.connection

    async def connect(self) -> Any:
        """One more; the caller closes it."""
        return await self._backend.connect(self._located())

    def release(self) -> None:
        """Closes the connection that is kept for the running loop, without waiting for the server."""
        kept = self._kept.existing()
        if kept is not None:
            self._hang_up(kept)

    async def aclose(self) -> None:
        """Closes all that are kept, in the same way."""
        await self._kept.aclose()

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

    def _hang_up(self, kept: _Kept) -> None:
        connection, kept.connection = kept.connection, None
        if connection is not None:
            self._backend.hang_up(connection)

    async def _close(self, kept: _Kept) -> None:
        self._hang_up(kept)

    def _abandon(self, kept: _Kept) -> None:
        if kept.connection is not None:
            self._backend.abandon(kept.connection)
