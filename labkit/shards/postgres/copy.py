"""Decodes COPY BINARY into Arrow columns while it arrives, without a Python object per row.

Every row begins with its number of columns and the width of its key: so candidates for row starts are found for a whole
chunk at once, and are right if each row ends where the next begins.
Source of the format: PostgreSQL documentation, COPY, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from labkit.shards.postgres.columns import KEYS, Column, schema_of
from labkit.shards.postgres.decoding import PADDING, POOL, Places, Values, decoded, integers
from labkit.tables import InvalidAnswer

__all__ = ["BATCH", "CHUNK", "CopyDecoder", "batch_of", "copy_rows"]

CHUNK = 512 * 1024
"""Bytes decoded at a time: a millisecond or two, during which the event loop is blocked."""

BATCH = 16_384
"""Rows per concatenated batch: much smaller or larger ones take more memory than necessary."""
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""The header, without flags and extension."""
_TRAILER = b"\xff\xff"
_SIX_BYTES = (1 << 48) - 1


class Rows(NamedTuple):
    """Rows in some bytes: where each begins, ends, and has its values."""

    starts: Places
    ends: Places
    begins: list[Places]
    """By column: where the values begin."""
    lengths: list[Places]
    """Likewise their lengths; -1 is NULL."""

    def at(self, which: Any) -> Rows:
        """Some of the rows."""
        begins, lengths = [one[which] for one in self.begins], [one[which] for one in self.lengths]
        return Rows(self.starts[which], self.ends[which], begins, lengths)


async def copy_rows(connection: Any, select: str, columns: Sequence[Column]) -> pa.Table:
    """The rows of a SELECT of these columns, read by COPY on a connection of asyncpg. Raises what asyncpg and
    `CopyDecoder` raise.
    """
    decoder = CopyDecoder(columns)
    failures: list[Exception] = []

    async def take(data: bytes) -> None:
        # Not raised in here: asyncpg would open another connection, to cancel the query.
        if not failures:
            try:
                decoder.feed(data)
            except Exception as error:
                failures.append(error)
                connection.terminate()

    try:
        await connection.copy_from_query(select, output=take, format="binary")
    except Exception:
        if failures:
            raise failures[0] from None
        raise
    return decoder.finish()


class CopyDecoder:
    """`feed` takes the stream in pieces, cut anywhere; `finish` returns the table.

    `columns` are those of the stream, the key first; `chunk` is how many bytes are decoded at a time. Both raise
    `InvalidAnswer` for anything but such a stream, for a key that is NULL, for a value that its Arrow type cannot hold,
    and for text that is not UTF-8, which a database with the encoding SQL_ASCII may send.
    """

    def __init__(self, columns: Sequence[Column], chunk: int = CHUNK) -> None:
        self._columns, self._chunk = columns, chunk
        self._schema = schema_of(columns)
        self._count = len(columns).to_bytes(2)
        self._beginning = self._count + KEYS[columns[0].oid].to_bytes(4)
        self._parts: list[bytes] = []
        self._held, self._enough = 0, chunk
        self._begun = False
        self._fresh: list[pa.RecordBatch] = []
        self._waiting = self._before = 0
        self._batches: list[pa.RecordBatch] = []

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; decodes as soon as there are enough."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= self._enough:
            self._decode()

    def finish(self) -> pa.Table:
        """The rows of the whole stream, as a table."""
        self._decode()
        if b"".join(self._parts) != _TRAILER:
            raise InvalidAnswer("the COPY data is truncated or malformed")
        self._put_together()
        return pa.Table.from_batches(self._batches, self._schema)

    def _decode(self) -> None:
        data = b"".join([*self._parts, PADDING])
        rest, size = self._after_signature(data), len(data) - len(PADDING)
        if self._begun:
            rest = self._after_rows(data, size, rest)
            self._refuse_noise(data[rest : min(rest + 6, size)])
        self._parts, self._held = [data[rest:size]], size - rest
        self._enough = max(self._chunk, 2 * self._held)  # so that a text of a gigabyte is not joined a thousand times

    def _after_signature(self, data: bytes) -> int:
        if self._begun:
            return 0
        received = data[: len(data) - len(PADDING)]
        if not received.startswith(_SIGNATURE[: len(received)]):
            raise InvalidAnswer("the COPY data does not begin with its header")
        self._begun = len(received) >= len(_SIGNATURE)
        return len(_SIGNATURE) if self._begun else 0

    def _refuse_noise(self, following: bytes) -> None:
        """Raises unless a row or the end follows; otherwise the rest of a long stream would be kept in vain."""
        if len(following) < 6 or following == self._beginning:
            return
        if following == self._count + b"\xff\xff\xff\xff":
            raise InvalidAnswer(f"row {self._before + 1} has NULL for {self._columns[0].name}, the key")
        raise InvalidAnswer("the COPY data is malformed after its rows")

    def _after_rows(self, data: bytes, size: int, begin: int) -> int:
        """Decodes the complete rows from `begin` on; returns where the first other one begins."""
        starts = self._candidates(data, size, begin)
        if not len(starts):
            return begin
        rows = self._chained(data, size, begin, starts)
        if not len(rows.starts):
            return begin
        self._fresh.append(batch_of(self._columns, self._schema, data, rows.begins, rows.lengths, self._before))
        self._before += len(rows.starts)
        self._waiting += len(rows.starts)
        if self._waiting >= BATCH:
            self._put_together()
        return int(rows.ends[-1])

    def _put_together(self) -> None:
        if self._fresh:
            self._batches.append(pa.concat_batches(self._fresh, memory_pool=POOL))
            self._fresh, self._waiting = [], 0

    def _candidates(self, data: bytes, size: int, begin: int) -> Places:
        """Where rows may begin: the number of columns, then the width of the key."""
        byte, least = np.frombuffer(data, np.uint8)[begin:size], 2 + 4 * len(self._columns)
        count = len(byte) - least + 1
        if count <= 0:
            return np.empty(0, np.int64)
        likely = byte[1 : count + 1] == self._beginning[1]
        likely &= byte[5 : count + 5] == self._beginning[5]
        starts: Places = likely.nonzero()[0] + begin
        words: Any = np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))  # each byte with the seven after it
        right = words[starts] & _SIX_BYTES == int.from_bytes(self._beginning, "little")
        return starts if right.all() else starts[right]

    def _chained(self, data: bytes, size: int, begin: int, starts: Places) -> Rows:
        """The complete rows among the candidates."""
        rows = self._whole(data, size, starts)
        if _is_chain(begin, rows):
            return rows
        # Other bytes may look like the start of a row, but hardly ever does a row end there.
        ended = np.zeros(size + 1, np.bool_)
        ended[rows.ends] = ended[begin] = True
        rows = rows.at(ended[rows.starts])
        return rows if _is_chain(begin, rows) else rows.at(_walked(begin, rows))

    def _whole(self, data: bytes, size: int, starts: Places) -> Rows:
        """The rows that end within the data; of a false candidate the values may be anywhere in it."""
        width = KEYS[self._columns[0].oid]
        begin = starts + len(self._beginning)
        begins, lengths, ends = [begin], [np.broadcast_to(np.int64(width), starts.shape)], begin + width
        for _ in self._columns[1:]:
            at = np.minimum(ends, size)
            length = integers(data, at, 4).astype(np.int64)
            begin = at + 4
            begins.append(begin)
            lengths.append(length)
            ends = begin + np.maximum(length, 0)
        rows, whole = Rows(starts, ends, begins, lengths), ends <= size
        count = int(np.count_nonzero(whole))
        if count == len(whole):
            return rows
        return rows.at(slice(count) if whole[:count].all() else whole)


def batch_of(
    columns: Sequence[Column], schema: pa.Schema, data: bytes, begins: list[Places], lengths: list[Places], before: int
) -> pa.RecordBatch:
    """The values as columns; those of the key have one width, and none is NULL. See `decoded`."""
    ids = integers(data, begins[0], KEYS[columns[0].oid]).astype(np.int64, copy=False)
    others = zip(columns[1:], begins[1:], lengths[1:], strict=True)
    found = [decoded(Values(column, data, begin, length, before)) for column, begin, length in others]
    return pa.RecordBatch.from_arrays([pa.array(ids), *found], schema=schema)


def _is_chain(begin: int, rows: Rows) -> bool:
    starts, ends = rows.starts, rows.ends
    return not len(starts) or (starts[0] == begin and bool((ends[:-1] == starts[1:]).all()))


def _walked(begin: int, rows: Rows) -> list[int]:
    """Which rows follow each other, found one by one, where many bytes look like the start of a row."""
    number = {start: place for place, start in enumerate(rows.starts.tolist())}
    ends, found = rows.ends.tolist(), []
    while begin in number:
        found.append(number[begin])
        begin = ends[found[-1]]
    return found
