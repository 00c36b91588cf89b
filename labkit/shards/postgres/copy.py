"""Decodes the answer to COPY BINARY into Arrow columns while it arrives.

Source of the format: PostgreSQL documentation, COPY, "Binary Format", and "Message Formats": a server sends each row in
a message of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.shards.postgres.columns import Column, schema_of
from labkit.shards.postgres.decoding import PADDING, POOL
from labkit.shards.postgres.messages import Piece, Places
from labkit.shards.postgres.rows import batch_of
from labkit.tables import InvalidAnswer

__all__ = ["BATCH", "CHUNK", "CopyDecoder", "copy_rows"]

CHUNK = 1024 * 1024
"""Most bytes decoded at a time: a millisecond or two, during which the event loop is blocked."""
BATCH = 16_384
"""Rows decoded at a time, if they have fewer bytes, and per concatenated batch: much smaller or larger ones take more
memory than necessary."""
_ROW = ord("d")
"""The kind of the messages with rows."""
_HEAD = 5
"""Bytes before a message's content."""
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""The header, without flags and extension: the first row's message begins with it."""
_TRAILER = b"\xff\xff"


async def copy_rows(connection: Any, select: str, columns: Sequence[Column]) -> pa.Table:
    """The rows of a SELECT of these columns, read by COPY. They do not pass through the driver: the connection's line
    hands them to a `CopyDecoder`. Raises what both raise.
    """
    decoder = CopyDecoder(columns)
    with connection.line.copying(decoder):
        await connection.copy_from_query(select, output=_nowhere, format="binary")
    return decoder.finish()


async def _nowhere(_data: bytes) -> None:
    """asyncpg receives no rows."""


class CopyDecoder:
    """`feed` takes the messages of the answer; `finish` returns the table.

    `columns` are those of the rows, the key first; `chunk` is how many bytes are decoded at a time. Both raise
    `InvalidAnswer` for anything but such rows, and what `batch_of` raises it for.
    """

    def __init__(self, columns: Sequence[Column], chunk: int = CHUNK) -> None:
        self._columns, self._chunk = columns, chunk
        self._schema = schema_of(columns)
        self._parts: list[bytes] = []
        self._held, self._enough = 0, chunk
        self._begins: list[Places] = []
        self._ends: list[Places] = []
        self._in_row = self._begun = self._ended = False
        self._fresh: list[pa.RecordBatch] = []
        self._waiting = self._before = 0
        self._batches: list[pa.RecordBatch] = []

    def feed(self, piece: Piece) -> bytes:
        """Takes the next bytes, and decodes as soon as there are enough. Returns those that belong to no row."""
        data, others = piece.data, b""
        begins = np.concatenate(piece.begins) if piece.begins else np.empty(0, np.int64)
        if not self._in_row:
            others = data[: begins[0]] if len(begins) else data
        if len(begins):
            ends = np.append(begins[1:], piece.following)
            rows = np.frombuffer(data, np.uint8)[begins] == _ROW
            self._in_row = bool(rows[-1])
            if not rows.all():
                others += b"".join([data[begin:end] for begin, end in zip(begins[~rows], ends[~rows], strict=True)])
                begins, ends = begins[rows], ends[rows]
            self._begins.append(begins + self._held)
            self._ends.append(ends + self._held)
        self._parts.append(data)
        self._held += len(data)
        if self._held >= self._enough or sum(map(len, self._begins)) >= BATCH:
            self._decode()
        return others

    def finish(self) -> pa.Table:
        """The rows of the whole answer, as a table."""
        self._decode()
        if self._held or not self._ended:
            raise InvalidAnswer("the COPY data is truncated or malformed")
        self._put_together()
        return pa.Table.from_batches(self._batches, self._schema)

    def _decode(self) -> None:
        """Decodes the complete rows, and keeps the rest."""
        data, size = b"".join([*self._parts, PADDING]), self._held
        begins, ends = (np.concatenate([*some, np.empty(0, np.int64)]) for some in (self._begins, self._ends))
        count = len(begins) - bool(len(ends) and ends[-1] > size)
        rest = int(begins[count]) if count < len(begins) else size
        self._parts, self._held = [data[rest:size]], size - rest
        self._begins, self._ends = [begins[count:] - rest], [ends[count:] - rest]
        self._enough = max(self._chunk, 2 * self._held)  # so that a text of a gigabyte is not joined a thousand times
        begins, ends = self._of_rows(data, begins[:count] + _HEAD, ends[:count])
        if len(begins):
            self._fresh.append(batch_of(self._columns, self._schema, data, begins, ends, self._before))
            self._before += len(begins)
            self._waiting += len(begins)
            if self._waiting >= BATCH:
                self._put_together()

    def _of_rows(self, data: bytes, begins: Places, ends: Places) -> tuple[Places, Places]:
        """The places without the header and the trailer."""
        if len(begins) and not self._begun:
            if not data[begins[0] : ends[0]].startswith(_SIGNATURE):
                raise InvalidAnswer("the COPY data does not begin with its header")
            self._begun = True
            begins[0] += len(_SIGNATURE)
            alone = int(begins[0] == ends[0])
            begins, ends = begins[alone:], ends[alone:]
        if len(begins) and self._ended:
            raise InvalidAnswer("the COPY data is malformed after its rows")
        self._ended |= bool(len(begins)) and data[begins[-1] : ends[-1]] == _TRAILER
        return (begins[:-1], ends[:-1]) if self._ended and len(begins) else (begins, ends)

    def _put_together(self) -> None:
        if self._fresh:
            self._batches.append(pa.concat_batches(self._fresh, memory_pool=POOL))
            self._fresh, self._waiting = [], 0
