"""Decodes COPY BINARY of (id, name) rows into Arrow columns while it arrives, without a Python object per row.

Postgres text has no zero byte, and every row begins with `00 02` (two fields) and the width of its id: so candidates
for row starts are found for a whole chunk at once, and are right if each row ends where the next begins.
Source of the format: PostgreSQL documentation, COPY, "Binary Format".
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labkit.shards.failures import one_line
from labkit.tables import SCHEMA, InvalidAnswer

__all__ = ["BATCH", "CHUNK", "CopyDecoder", "copy_rows"]

CHUNK = 256 * 1024
"""Bytes decoded at a time: a millisecond, during which the event loop is blocked."""

BATCH = 16_384
"""Rows per concatenated batch: much smaller or larger ones take more memory than necessary."""
_WIDTHS = {21: 2, 23: 4, 20: 8}
"""Bytes of smallint, integer and bigint, by type OID; see the catalogue pg_type."""
_TEXTS = (25, 1043, 1042, 19)
"""OIDs of text, character varying, character and name: all are sent as plain text."""
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""The header, without flags and extension."""
_TRAILER = b"\xff\xff"
_NOTHING_CUT = 2**31 - 1
"""A stop for `binary_slice` beyond any text; its default overflows when multiplied by the number of rows."""

_POOL = pa.jemalloc_memory_pool() if "jemalloc" in pa.supported_memory_backends() else pa.system_memory_pool()
"""Arrow's default, mimalloc, keeps the excess of overallocated buffers: 50 % more memory, measured."""

Offsets: TypeAlias = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """Rows in a chunk of bytes, as columns: starts, ends, IDs, and the lengths of names (-1 is NULL)."""

    starts: Offsets
    ends: Offsets
    ids: Offsets
    lengths: Offsets


async def copy_rows(connection: Any, select: str) -> pa.Table | None:
    """The rows of a SELECT of (id, name), read by COPY on a connection of asyncpg, as a table of `SCHEMA`.

    None, with nothing read, if the columns' types are not supported here. Raises what asyncpg and `CopyDecoder` raise.
    """
    columns = (await connection.prepare(select, name="")).get_attributes()
    width = _WIDTHS.get(columns[0].type.oid)
    if width is None or columns[1].type.oid not in _TEXTS:
        return None
    decoder = CopyDecoder(width)
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

    `width` is the size of an id in bytes: 2, 4 or 8; `chunk` is how many bytes are decoded at a time. Both methods
    raise `InvalidAnswer` for anything but such a stream, and for text that is not UTF-8, which a database with the
    encoding SQL_ASCII may send.
    """

    def __init__(self, width: int, chunk: int = CHUNK) -> None:
        self._width, self._chunk = width, chunk
        self._header = 2 + 4 + width + 4
        self._parts: list[bytes] = []
        self._held, self._enough = 0, chunk
        self._begun = False
        self._fresh: list[pa.RecordBatch] = []
        self._count = 0
        self._batches: list[pa.RecordBatch] = []

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; decodes as soon as there are enough."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= self._enough:
            self._decode()

    def finish(self) -> pa.Table:
        """The rows of the whole stream, as a table of `SCHEMA`."""
        self._decode()
        if b"".join(self._parts) != _TRAILER:
            raise InvalidAnswer("the COPY data is truncated or malformed")
        self._put_together()
        return pa.Table.from_batches(self._batches, SCHEMA)

    def _decode(self) -> None:
        data = b"".join(self._parts)
        rest = self._after_signature(data)
        if self._begun:
            rest = self._after_rows(data, rest)
            self._refuse_noise(data[rest : rest + self._header])
        self._parts, self._held = [data[rest:]], len(data) - rest
        self._enough = max(self._chunk, 2 * self._held)  # so that a text of a gigabyte is not joined a thousand times

    def _after_signature(self, data: bytes) -> int:
        if self._begun:
            return 0
        if not data.startswith(_SIGNATURE[: len(data)]):
            raise InvalidAnswer("the COPY data does not begin with its header")
        self._begun = len(data) >= len(_SIGNATURE)
        return len(_SIGNATURE) if self._begun else 0

    def _refuse_noise(self, following: bytes) -> None:
        """Raises unless a row or the end follows; otherwise the rest of a long stream would be kept in vain."""
        beginning = b"\0\2" + self._width.to_bytes(4)
        if len(following) == self._header and not following.startswith(beginning):
            raise InvalidAnswer("the COPY data is malformed after its rows")

    def _after_rows(self, data: bytes, begin: int) -> int:
        """Decodes the complete rows from `begin` on; returns where the first other one begins."""
        starts = _candidates(data, begin, self._width, self._header)
        if not len(starts):
            return begin
        rows = self._chained(data, begin, starts)
        if not len(rows.starts):
            return begin
        self._fresh.append(self._batch(data, rows))
        self._count += len(rows.starts)
        if self._count >= BATCH:
            self._put_together()
        return int(rows.ends[-1])

    def _put_together(self) -> None:
        if self._fresh:
            self._batches.append(pa.concat_batches(self._fresh, memory_pool=_POOL))
            self._fresh, self._count = [], 0

    def _chained(self, data: bytes, begin: int, starts: Offsets) -> Rows:
        """The complete rows among the candidates."""
        rows = self._whole(data, starts)
        if _is_chain(begin, rows):
            return rows
        # An id may look like the start of a row, but except for a very unlikely id no row ends there.
        rows = self._whole(data, starts[(starts == begin) | np.isin(starts, rows.ends)])
        return rows if _is_chain(begin, rows) else self._whole(data, _walked(begin, rows))

    def _whole(self, data: bytes, starts: Offsets) -> Rows:
        if self._width == 4:  # the most common; one gather for both is twice as fast
            both = _integers(data, starts + 6, 8)
            ids, lengths = both >> 32, both << 32 >> 32
        else:
            ids, lengths = _integers(data, starts + 6, self._width), _integers(data, starts + (self._header - 4), 4)
        ends = starts + self._header + np.maximum(lengths, 0)
        rows = Rows(starts, ends, ids, lengths)
        whole = ends <= len(data)
        return rows if whole.all() else Rows(*(column[whole] for column in rows))

    def _batch(self, data: bytes, rows: Rows) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(rows.ids), _names(data, rows, self._header)], schema=SCHEMA)


def _candidates(data: bytes, begin: int, width: int, header: int) -> Offsets:
    """Where rows may begin: two fields, the first of `width` bytes, and room for a complete header."""
    byte = np.frombuffer(data, np.uint8)[begin:]
    count = len(byte) - header + 1
    if count <= 0:
        return np.empty(0, np.int64)
    likely = byte[1 : count + 1] == 2
    likely &= byte[5 : count + 5] == width
    starts: Offsets = likely.nonzero()[0]
    odd = byte[starts] | byte[starts + 2] | byte[starts + 3] | byte[starts + 4]
    if odd.any():
        starts = starts[odd == 0]
    return starts + begin


def _is_chain(begin: int, rows: Rows) -> bool:
    starts, ends = rows.starts, rows.ends
    return not len(starts) or (starts[0] == begin and bool((ends[:-1] == starts[1:]).all()))


def _walked(begin: int, rows: Rows) -> Offsets:
    """The row starts, found row by row, for IDs that defeat the fast way."""
    following = dict(zip(rows.starts.tolist(), rows.ends.tolist(), strict=True))
    found = []
    while begin in following:
        found.append(begin)
        begin = following[begin]
    return np.array(found, dtype=np.int64)


def _integers(data: bytes, places: Offsets, width: int) -> Offsets:
    """The big-endian integers of `width` bytes at `places`."""
    everywhere: Any = np.ndarray((len(data) - width + 1,), dtype=f"<i{width}", buffer=data, strides=(1,))
    found: Offsets = everywhere[places].byteswap(inplace=True).astype(np.int64, copy=False)
    return found


def _names(data: bytes, rows: Rows, header: int) -> pa.Array:
    """The names, sliced from an array of whole rows over the received bytes by dropping the headers."""
    offsets = np.append(rows.starts, rows.ends[-1])
    null = rows.lengths < 0
    nulls = int(null.sum())
    valid = pa.py_buffer(np.packbits(~null, bitorder="little")) if nulls else None
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(data)]
    whole = pa.Array.from_buffers(pa.large_binary(), len(rows.starts), buffers, nulls)
    names = pc.binary_slice(whole, header, _NOTHING_CUT, memory_pool=_POOL)
    if np.frombuffer(names.buffers()[2], np.uint8).max(initial=0) < 128:
        return names.view(pa.large_string())  # ASCII needs no further check
    try:
        return names.cast(pa.large_string(), memory_pool=_POOL)
    except pa.ArrowInvalid as error:
        raise InvalidAnswer(f"the answer cannot be understood: {_not_utf8(names) or one_line(error)}") from None


def _not_utf8(names: pa.Array) -> str | None:
    """The error of decoding names one by one, as a driver would report it."""
    for name in names:
        try:
            (name.as_py() or b"").decode()
        except UnicodeDecodeError as error:
            return one_line(error)
    return None
