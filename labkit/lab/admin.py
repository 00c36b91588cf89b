"""The administrator of one server: his connection, past the proxy, and what he does to the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from labkit._loops import PerLoop
from labkit.faults.base import Row
from labkit.lab.backends.base import Backend, Place

__all__ = ["Admin"]


@dataclass
class _Kept:
    connection: Any = None
    for_rows: Any = None
    """Another one for the rows, where the backend has such."""


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
        return (await self._both()).connection

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

    async def _both(self) -> _Kept:
        """Opened together: while a fault lasts there may be no place left for another."""
        kept = self._kept.here()
        for connection in (kept.connection, kept.for_rows):
            if connection is not None and not await self._backend.alive(connection):
                self.release()
                break
        if kept.connection is None:
            kept.connection = await self.connect()
            try:
                kept.for_rows = await self._backend.connect_for_rows(self._located())
            except BaseException:
                self._hang_up(kept)
                raise
        return kept

    async def _for_rows(self) -> Any:
        kept = await self._both()
        return kept.connection if kept.for_rows is None else kept.for_rows

    async def rows(self) -> list[Row]:
        """What the server holds now, ascending by id."""
        return await self._backend.rows(await self._for_rows(), self._table)

    async def put(self, row: Row) -> None:
        """Writes a row, in the place of the one with its id."""
        await self._backend.put(await self._for_rows(), self._table, row)

    async def delete(self, row_id: int) -> None:
        """Takes a row out, where there is one."""
        await self._backend.delete(await self._for_rows(), self._table, row_id)

    async def stand_in(self, rows: Iterable[Row]) -> None:
        """Puts the table aside as it is and has one of these rows in its place."""
        await self._backend.stand_in(await self._for_rows(), self._table, list(rows))

    async def bring_back(self) -> None:
        """Undoes `stand_in`; does nothing where the table is in its place."""
        await self._backend.bring_back(await self.connection(), self._table)

    def _hang_up(self, kept: _Kept) -> None:
        held, kept.connection, kept.for_rows = (kept.connection, kept.for_rows), None, None
        for connection in held:
            if connection is not None:
                self._backend.hang_up(connection)

    async def _close(self, kept: _Kept) -> None:
        self._hang_up(kept)

    def _abandon(self, kept: _Kept) -> None:
        for connection in (kept.connection, kept.for_rows):
            if connection is not None:
                self._backend.abandon(connection)
