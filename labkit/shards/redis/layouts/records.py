"""Rows of a declared schema as JSON: an array of all values in the schema's order, or an object of some of them.

A piece of members is decoded as one JSON array, and each field of all its rows at once. Which row and which field is
wrong is looked for only once something is.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit._types import INT64_MAX, INT64_MIN
from labkit.shards.redis.layouts.byte_strings import ByteStrings, Many, pieces_of
from labkit.shards.redis.layouts.rows import shown
from labkit.shards.redis.layouts.values import WRONG, Number, decoder, of_json
from labkit.tables import InvalidAnswer, shown_type

__all__ = ["Records", "misfit", "step_of"]

VALUES = 8_192
"""Values decoded in one step: a few milliseconds."""
TOGETHER = 16
"""Steps whose rows become one chunk: work on a table takes time per chunk."""
_MARK = secrets.token_hex(8)
_BETWEEN = f',"{_MARK}",'.encode()
"""Between two members: as nobody can know it, it is only between them, and halves of a row cannot become one."""


def step_of(schema: pa.Schema) -> int:
    """Rows decoded in one step."""
    return max(64, VALUES // len(schema))


def misfit(row_id: Any, field: pa.Field, value: Any) -> InvalidAnswer:
    """The error for a value that is not of its column's type."""
    return InvalidAnswer(f"row {row_id}: {field.name} {_shown(value)} is not {shown_type(field.type)}")


class Records:
    """Decodes members of a schema as `labkit.shards.schemas.declared` returns it."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.step = step_of(schema)
        self._names, self._types = tuple(schema.names), schema.types
        self._known = frozenset(self._names)
        self._decode = decoder(schema)

    async def table(self, found: list[Any] | ByteStrings | Many) -> pa.Table:
        """The rows of all members; `InvalidAnswer` for the first that is not one."""
        batches: list[pa.RecordBatch] = []
        fresh: list[pa.RecordBatch] = []
        before = 0
        for piece in pieces_of(found, self.step):
            await asyncio.sleep(0)
            fresh.append(self.batch(piece, before))
            before += len(piece)
            if len(fresh) == TOGETHER:
                batches.append(pa.concat_batches(fresh))
                fresh = []
        if fresh:
            batches.append(pa.concat_batches(fresh))
        return pa.Table.from_batches(batches, self.schema)

    def batch(self, found: Sequence[Any] | ByteStrings, before: int = 0) -> pa.RecordBatch:
        """The rows of some members, of which `before` precede them in the answer."""
        texts = _as_bytes(found)
        try:
            return self._batch(texts)
        except WRONG:
            place = self._first_wrong(texts)
            raise self._reason(texts[place], before + place + 1) from None

    def rows_under(self, ids: npt.NDArray[np.int64], values: Sequence[Any] | ByteStrings) -> pa.RecordBatch | None:
        """The rows stored under those ids, which they must contain too; None if one is wrong."""
        try:
            batch = self._batch(_as_bytes(values))
        except WRONG:
            return None
        return batch if np.array_equal(batch.column(0).to_numpy(), ids) else None

    def first_wrong(self, ids: npt.NDArray[np.int64], values: Sequence[Any] | ByteStrings) -> tuple[int, InvalidAnswer]:
        """The lowest id whose value is not its row, and the error; for when `rows_under` returns None."""
        order, texts = ids.argsort(kind="stable"), _as_bytes(values)
        texts = [texts[place] for place in order.tolist()]
        place = self._first_wrong(texts, ids[order])
        row_id, raw = int(ids[order[place]]), texts[place]
        try:
            another = self._values(raw)[:1] != [row_id]
        except WRONG:
            another = False
        if another:
            return row_id, InvalidAnswer(f"under id {row_id} is another row: {shown(raw)}")
        return row_id, self._reason(raw, place + 1)

    def _batch(self, texts: Sequence[bytes]) -> pa.RecordBatch:
        if not texts:
            return pa.RecordBatch.from_pylist([], self.schema)
        rows = self._parsed(texts)
        if set(map(type, rows)) != {list}:
            rows = [self._listed(row) for row in rows]
        keys, *others = zip(*rows, strict=True)
        if len(others) + 1 != len(self._names) or set(map(type, keys)) != {int}:
            raise ValueError
        columns = [of_json(values, kind) for values, kind in zip(others, self._types[1:], strict=True)]
        return pa.RecordBatch.from_arrays([pa.array(np.array(keys, np.int64)), *columns], schema=self.schema)

    def _parsed(self, texts: Sequence[bytes]) -> list[Any]:
        """What each text holds, decoded together."""
        found = self._decode(f"[{str(_BETWEEN.join(texts), 'utf-8')}]")
        if len(found) != 2 * len(texts) - 1 or found[1::2].count(_MARK) != len(texts) - 1:
            raise ValueError
        return list(found[::2])

    def _listed(self, row: Any) -> list[Any]:
        """A row's values in the schema's order."""
        if type(row) is list:
            return row
        if type(row) is not dict or not self._known.issuperset(row):
            raise ValueError
        return [row.get(name) for name in self._names]

    def _values(self, raw: bytes) -> list[Any]:
        return self._listed(self._parsed([raw])[0])

    def _first_wrong(self, texts: Sequence[bytes], ids: npt.NDArray[np.int64] | None = None) -> int:
        """The position of the first text that is not a row (under its id), found by halves."""
        low, high = 0, len(texts)
        while high - low > 1:
            middle = (low + high) // 2
            if self._are_rows(texts[low:middle], None if ids is None else ids[low:middle]):
                low = middle
            else:
                high = middle
        return low

    def _are_rows(self, texts: Sequence[bytes], ids: npt.NDArray[np.int64] | None) -> bool:
        try:
            batch = self._batch(texts)
        except WRONG:
            return False
        return ids is None or np.array_equal(batch.column(0).to_numpy(), ids)

    def _reason(self, raw: Any, number: int) -> InvalidAnswer:
        """What is wrong with the member, the answer's `number`th."""
        key, fields = self._names[0], ", ".join(self._names)
        try:
            [row] = self._parsed([raw])
        except WRONG:
            row = None
        if not isinstance(row, list | dict):
            return InvalidAnswer(f"member {shown(raw)} is not a row: JSON [{fields}] or an object of these")
        row_id = row.get(key) if isinstance(row, dict) else row[0] if row else None
        if row_id is None:
            return InvalidAnswer(f"row {number} has NULL for {key}, the key")
        if type(row_id) is not int or not INT64_MIN <= row_id <= INT64_MAX:
            return InvalidAnswer(f"{key} {_shown(row_id)} is not an integer of 64 bits")
        if isinstance(row, dict) and (odd := [name for name in row if name not in self._known]):
            return InvalidAnswer(f"row {row_id}: field {_shown(odd[0])} is not in the schema: {fields}")
        if isinstance(row, list) and len(row) != len(self._names):
            return InvalidAnswer(f"row {row_id} has {len(row)} values, not {len(self._names)}: {fields}")
        for field, value in list(zip(self.schema, self._listed(row), strict=True))[1:]:
            try:
                of_json([value], field.type)
            except WRONG:
                return misfit(row_id, field, value)
        return InvalidAnswer(f"row {row_id} cannot be understood: {shown(raw)}")


def _as_bytes(found: Sequence[Any] | ByteStrings) -> list[Any]:
    """The strings as Python's."""
    if not isinstance(found, ByteStrings):
        return list(found)
    if not len(found):
        return []
    first = int(found.starts[0])
    data = found.data[first : int(found.ends[-1])].tobytes()
    bounds = zip((found.starts - first).tolist(), (found.ends - first).tolist(), strict=True)
    return [data[start:end] for start, end in bounds]


def _shown(value: Any) -> str:
    """A value of JSON as JSON writes it, clipped; of bytes, as text if they are."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return shown(value)
    try:
        text = str(value) if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)
    except TypeError:
        return shown(value)
    text = text.encode(errors="backslashreplace").decode()  # half of a surrogate pair
    return text if len(text) <= 60 else text[:57] + "..."
